//! `opa`: policies that users bring as rego files, beside the native checks (protocol §3.3).
//!
//! A policy is a module of package `nsm`; what it says is `data.nsm.valid`. Upstream's default masks name
//! the policies that are native here and cannot be left out: they stand for no file. Every other mask is
//! a file, or a regular expression for files in its folder.

mod input;

use std::{
    fs, io,
    num::NonZeroU32,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use regex::Regex;
use regorus::{Engine, Value, utils::limits::ExecutionTimerConfig};
use x509_parser::{parse_x509_certificate, pem::parse_x509_pem};

pub(super) use self::input::{auth_info, path, watch};
use crate::{
    chain::{Error, Kind, Result},
    transport::token,
};

/// Upstream's default masks.
const NATIVE: [&str; 5] = [
    "etc/nsm/opa/common/.*.rego",
    "etc/nsm/opa/server/.*.rego",
    "etc/nsm/opa/client/.*.rego",
    "etc/nsm/opa/monitor/.*.rego",
    "etc/nsm/opa/registry/.*.rego",
];

/// Most files that the masks of one setting may name.
const MAX_FILES: usize = 64;

/// Longest time one policy may take, by the clock on the wall: on a crowded node a good one takes many
/// times its own. And how many steps lie between two looks at it.
const LIMIT: (Duration, NonZeroU32) = (Duration::from_secs(1), NonZeroU32::MIN.saturating_add(99));

/// Why policies cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// A mask without a file.
    #[error("{setting}={mask:?} is not allowed: no file is there; name a rego file or a pattern for some")]
    Nothing {
        /// Name of the setting.
        setting: &'static str,
        /// The mask.
        mask: String,
    },
    /// A mask that is no pattern.
    #[error("{setting}={mask:?} is not allowed: neither a file nor a regular expression")]
    Mask {
        /// Name of the setting.
        setting: &'static str,
        /// The mask.
        mask: String,
        /// What is wrong with it.
        #[source]
        source: regex::Error,
    },
    /// Masks for very many files.
    #[error("{setting} names more than {MAX_FILES} files")]
    Many {
        /// Name of the setting.
        setting: &'static str,
    },
    /// A file that cannot be read.
    #[error("{setting}: cannot read {}", file.display())]
    Read {
        /// Name of the setting.
        setting: &'static str,
        /// The file.
        file: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// A file that is no policy.
    #[error("{setting}: {} is not allowed: a rego v0 module of package nsm is needed: {reason}", file.display())]
    Bad {
        /// Name of the setting.
        setting: &'static str,
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// Policies of one setting. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Policies(Arc<[Policy]>);

#[derive(Debug)]
struct Policy {
    file: PathBuf,
    engine: Engine,
}

impl Policies {
    /// The files that these masks of `setting` name, compiled.
    pub fn load(setting: &'static str, masks: &[String]) -> std::result::Result<Self, PolicyError> {
        let mut policies = Vec::new();
        for mask in masks.iter().filter(|mask| !NATIVE.contains(&mask.as_str())) {
            let files = files(setting, mask)?;
            if files.is_empty() {
                return Err(PolicyError::Nothing { setting, mask: mask.clone() });
            }
            for file in files {
                policies.push(Policy::load(setting, file)?);
            }
        }
        if policies.len() > MAX_FILES {
            return Err(PolicyError::Many { setting });
        }
        Ok(Self(policies.into()))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Refuses what one of them refuses. They may take long: nothing else waits for them.
    pub(super) async fn judge(&self, input: serde_json::Value) -> Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        let policies = self.clone();
        let failed = |error| Error::new(Kind::Internal, format_args!("policies were not asked: {error}"));
        tokio::task::spawn_blocking(move || policies.check(&input)).await.map_err(failed)?
    }

    fn check(&self, input: &serde_json::Value) -> Result<()> {
        let failed = |error| Error::new(Kind::Internal, format_args!("cannot tell policies: {error}"));
        let input = Value::from_json_str(&input.to_string()).map_err(failed)?;
        self.0.iter().try_for_each(|policy| policy.check(input.clone()))
    }
}

/// The files a mask names, sorted.
fn files(setting: &'static str, mask: &str) -> std::result::Result<Vec<PathBuf>, PolicyError> {
    let path = Path::new(mask);
    if path.is_file() {
        return Ok(vec![path.to_owned()]);
    }
    let pattern = Regex::new(&format!("^{mask}$")).map_err(|source| PolicyError::Mask {
        setting,
        mask: mask.to_owned(),
        source,
    })?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let named =
        entries.filter(|file| file.is_file() && file.to_str().is_some_and(|file| pattern.is_match(file)));
    let mut files: Vec<_> = named.collect();
    files.sort();
    Ok(files)
}

// === impl Policy ===

impl Policy {
    fn load(setting: &'static str, file: PathBuf) -> std::result::Result<Self, PolicyError> {
        let text = match fs::read_to_string(&file) {
            Ok(text) => text,
            Err(source) => return Err(PolicyError::Read { setting, file, source }),
        };
        match compile(&file, text) {
            Ok(engine) => Ok(Self { file, engine }),
            Err(reason) => Err(PolicyError::Bad { setting, file, reason }),
        }
    }

    fn check(&self, input: Value) -> Result<()> {
        let name = self.file.display();
        let mut engine = self.engine.clone();
        engine.set_input(input);
        match engine.eval_rule("data.nsm.valid".to_owned()) {
            Ok(Value::Bool(true)) => Ok(()),
            Ok(_) => Err(Error::new(Kind::Denied, format_args!("no sufficient privileges: by {name}"))),
            Err(error) => Err(Error::new(Kind::Internal, format_args!("policy {name} failed: {error}"))),
        }
    }
}

fn compile(file: &Path, text: String) -> std::result::Result<Engine, String> {
    let mut engine = Engine::new();
    engine.set_rego_v0(true);
    let (limit, check_interval) = LIMIT;
    engine.set_execution_timer_config(ExecutionTimerConfig { limit, check_interval });
    let told = |error: &dyn std::fmt::Display| error.to_string();
    extend(&mut engine).map_err(|error| told(&error))?;
    engine.add_policy(file.display().to_string(), text).map_err(|error| told(&error))?;
    if engine.get_packages().map_err(|error| told(&error))? != ["data.nsm"] {
        return Err("it is of another package".to_owned());
    }
    // What is compiled at the first use is compiled here; a rule that is missing shows now.
    engine.clone().eval_rule("data.nsm.valid".to_owned()).map_err(|error| told(&error))?;
    Ok(engine)
}

/// What upstream's policies need beyond the language. Whatever OPA leaves undefined stays so.
fn extend(engine: &mut Engine) -> std::result::Result<(), impl std::fmt::Display + use<>> {
    engine.add_extension(
        "time.now_ns".to_owned(),
        0,
        Box::new(|_: Vec<Value>| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            Ok(Value::from(u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)))
        }),
    )?;
    engine.add_extension(
        "io.jwt.decode".to_owned(),
        1,
        Box::new(|arguments: Vec<Value>| {
            let parts = arguments.first().and_then(text).and_then(decode);
            Ok(parts.map_or(Value::Undefined, |parts| Value::from(parts.to_vec())))
        }),
    )?;
    engine.add_extension(
        "io.jwt.verify_es256".to_owned(),
        2,
        Box::new(|arguments: Vec<Value>| {
            let [jwt, certificate] = &arguments[..] else { return Ok(Value::Undefined) };
            let (Some(jwt), Some(certificate)) = (text(jwt), text(certificate)) else {
                return Ok(Value::Undefined);
            };
            Ok(key(certificate).map_or(Value::Undefined, |key| Value::from(token::verify(jwt, &key).is_ok())))
        }),
    )
}

fn text(value: &Value) -> Option<&str> {
    match value {
        Value::String(text) => Some(text),
        _ => None,
    }
}

/// Header, claims and signature, the last in hex as OPA has it.
fn decode(jwt: &str) -> Option<[Value; 3]> {
    use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD as BASE64};
    // As large as the native checks take.
    token::read(jwt).ok()?;
    let mut parts = jwt.split('.').map(|part| BASE64.decode(part).ok());
    let mut json = || Value::from_json_str(std::str::from_utf8(&parts.next()??).ok()?).ok();
    let (header, claims) = (json()?, json()?);
    let signature = parts.next()??;
    let hex: String = signature
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .filter_map(|digit| char::from_digit(digit.into(), 16))
        .collect();
    Some([header, claims, Value::from(hex)])
}

/// The public key in a PEM certificate.
fn key(certificate: &str) -> Option<Vec<u8>> {
    let (_, pem) = parse_x509_pem(certificate.as_bytes()).ok()?;
    let (_, certificate) = parse_x509_certificate(&pem.contents).ok()?;
    Some(certificate.public_key().subject_public_key.data.to_vec())
}

#[cfg(test)]
mod tests;

//! Settings of `nsm identity`.

use std::{path::PathBuf, time::Duration};

use super::{MINUTE, ObjectRef};
use crate::{
    api::names,
    settings::{Errors, LogLevel, Reader, Target, Vars, vars},
};

/// `nsm identity agent`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityAgent {
    /// `NSM_LOG_LEVEL`, INFO.
    pub log_level: LogLevel,
    /// `NSM_LISTEN_ON`: the Workload API socket to serve.
    pub listen_on: Target,
    /// `NODE_NAME`.
    pub node_name: String,
    /// `NSM_AUTHORITY_URL`.
    pub authority_url: Target,
    /// `NSM_AUTHORITY_TOKEN_FILE`.
    pub token_file: PathBuf,
    /// `NSM_BUNDLE_CONFIG_MAP`: the trust bundle by which the authority is known.
    pub bundle: ObjectRef,
}

impl IdentityAgent {
    /// Reads all settings of the process.
    pub fn read(vars: &dyn Vars) -> Result<Self, Errors> {
        let mut reader = Reader::new(vars);
        let settings = Self {
            log_level: reader.log_level(),
            listen_on: reader.listen(vars::NSM_LISTEN_ON, &format!("unix://{}", names::IDENTITY_SOCKET)),
            node_name: reader.name(vars::NODE_NAME, ""),
            authority_url: reader.target(vars::NSM_AUTHORITY_URL, ""),
            token_file: reader.text(vars::NSM_AUTHORITY_TOKEN_FILE, "/var/run/secrets/nsm/token").into(),
            bundle: reader.object(vars::NSM_BUNDLE_CONFIG_MAP, "nsm-system/nsm-identity-bundle"),
        };
        reader.finish(settings)
    }
}

/// `nsm identity authority`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityAuthority {
    /// `NSM_LOG_LEVEL`, INFO.
    pub log_level: LogLevel,
    /// `NSM_LISTEN_ON`: one TCP address.
    pub listen_on: Target,
    /// `NSM_TRUST_DOMAIN`.
    pub trust_domain: String,
    /// `NSM_SVID_LIFETIME`, 1 hour.
    pub svid_lifetime: Duration,
    /// `NSM_ROOT_SECRET`: where the root key is kept.
    pub root_secret: ObjectRef,
    /// `NSM_BUNDLE_CONFIG_MAP`: where the trust bundle is published.
    pub bundle: ObjectRef,
    /// `NSM_AGENT_SERVICE_ACCOUNT`: the only account whose tokens are taken.
    pub agent_account: ObjectRef,
}

impl IdentityAuthority {
    /// Reads all settings of the process.
    pub fn read(vars: &dyn Vars) -> Result<Self, Errors> {
        let mut reader = Reader::new(vars);
        let settings = Self {
            log_level: reader.log_level(),
            listen_on: reader.listen(vars::NSM_LISTEN_ON, &format!("tcp://:{}", names::AUTHORITY_PORT)),
            trust_domain: reader.name(vars::NSM_TRUST_DOMAIN, "k8s.nsm"),
            svid_lifetime: reader.duration(vars::NSM_SVID_LIFETIME, 60 * MINUTE),
            root_secret: reader.object(vars::NSM_ROOT_SECRET, "nsm-operator/nsm-identity-root"),
            bundle: reader.object(vars::NSM_BUNDLE_CONFIG_MAP, "nsm-system/nsm-identity-bundle"),
            agent_account: reader.object(vars::NSM_AGENT_SERVICE_ACCOUNT, "nsm-system/nsm-identity-agent"),
        };
        reader.finish(settings)
    }
}

/// `nsm identity standalone`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityStandalone {
    /// `NSM_LOG_LEVEL`, INFO.
    pub log_level: LogLevel,
    /// `NSM_LISTEN_ON`: the Workload API socket to serve.
    pub listen_on: Target,
    /// `NSM_TRUST_DOMAIN`.
    pub trust_domain: String,
    /// `NSM_SVID_LIFETIME`, 1 hour.
    pub svid_lifetime: Duration,
    /// `NSM_CA_LIFETIME`, 1 year: the CA rotates at half of it.
    pub ca_lifetime: Duration,
    /// `NSM_SPIFFE_ID_TEMPLATE`: path of a program's SPIFFE ID.
    pub id_template: String,
    /// `NSM_BASE_DIR`: folder of the CA's keys.
    pub base_dir: PathBuf,
}

/// How much longer than an SVID a CA has to live: half of its life is over when its successor is
/// made ready, which takes one life of an SVID; and it stays for one after that.
const SVIDS_PER_CA: u32 = 4;

const YEAR: Duration = Duration::from_hours(365 * 24);

impl IdentityStandalone {
    /// Reads all settings of the process.
    pub fn read(vars: &dyn Vars) -> Result<Self, Errors> {
        let mut reader = Reader::new(vars);
        let svid_lifetime = reader.duration(vars::NSM_SVID_LIFETIME, 60 * MINUTE);
        let shortest = svid_lifetime.saturating_mul(SVIDS_PER_CA);
        let settings = Self {
            log_level: reader.log_level(),
            listen_on: reader.listen(vars::NSM_LISTEN_ON, &format!("unix://{}", names::IDENTITY_SOCKET)),
            trust_domain: reader.name(vars::NSM_TRUST_DOMAIN, "host.nsm"),
            svid_lifetime,
            ca_lifetime: reader.read(
                vars::NSM_CA_LIFETIME,
                YEAR,
                &format!("a duration of at least {SVIDS_PER_CA} times NSM_SVID_LIFETIME"),
                |text| crate::settings::duration::parse(text).filter(|life| *life >= shortest),
            ),
            id_template: reader.read(
                vars::NSM_SPIFFE_ID_TEMPLATE,
                "/host/uid/{uid}/{program}".to_owned(),
                "a path such as /host/uid/{uid}/{program} of letters, digits, '.', '-', '_', with {uid} or {gid} \
                 in it; {program} and, as a whole segment, {path} may be there too",
                |text| is_template(text).then(|| text.to_owned()),
            ),
            base_dir: reader.text(vars::NSM_BASE_DIR, "/var/lib/networkservicemesh/identity").into(),
        };
        reader.finish(settings)
    }
}

/// Without the user or a group, whoever may put a program somewhere would be whom it likes: a
/// program's own view of the files says where it lies.
fn is_template(text: &str) -> bool {
    let Some(path) = text.strip_prefix('/') else { return false };
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let is_segment = |segment: &str| {
        let filled = ["{uid}", "{gid}", "{program}"]
            .iter()
            .fold(segment.to_owned(), |text, mark| text.replace(mark, "x"));
        segment == "{path}"
            || (!filled.is_empty() && filled != "." && filled != ".." && filled.chars().all(is_plain))
    };
    path.split('/').all(is_segment) && ["{uid}", "{gid}"].iter().any(|mark| path.contains(mark))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn standalone(variables: &[(&str, &str)]) -> Result<IdentityStandalone, Errors> {
        let variables: BTreeMap<String, String> =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        IdentityStandalone::read(&variables)
    }

    #[test]
    fn a_template_names_the_user_or_the_group_and_makes_a_spiffe_id() {
        for good in ["/{uid}", "/host/uid/{uid}/{program}", "/g-{gid}/{path}", "/ns/{uid}/pod/{program}"] {
            assert_eq!(standalone(&[(vars::NSM_SPIFFE_ID_TEMPLATE, good)]).unwrap().id_template, good);
        }
        for bad in [
            "",
            "/",
            "{uid}",
            "/{program}",
            "/{path}",
            "/{uid}/",
            "/{uid}//a",
            "/{uid}/..",
            "/{uid}/a b",
            "/{uid}/x{path}",
            "/{uid}/{pod}",
        ] {
            let error = standalone(&[(vars::NSM_SPIFFE_ID_TEMPLATE, bad)]).unwrap_err().to_string();
            assert!(error.contains(vars::NSM_SPIFFE_ID_TEMPLATE), "{bad:?}: {error}");
        }
    }

    #[test]
    fn a_ca_outlives_what_it_signs_by_far() {
        let read = |ca, svid| standalone(&[(vars::NSM_CA_LIFETIME, ca), (vars::NSM_SVID_LIFETIME, svid)]);
        assert_eq!(read("4h", "1h").unwrap().ca_lifetime, Duration::from_hours(4));
        assert!(read("3h", "1h").unwrap_err().to_string().contains("NSM_CA_LIFETIME"));
    }
}

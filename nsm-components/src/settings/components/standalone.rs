//! Settings of `nsm standalone`: those of its parts, which are the same as on their own, and the one
//! folder in which they meet.

use std::path::{Path, PathBuf};

use super::{Forwarder, IdentityStandalone, Nsmgr, Registry, Shown};
use crate::{
    api::names::{self, standalone},
    settings::{Errors, LogLevel, Reader, SettingError, Target, Vars, vars},
};

/// `nsm standalone`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standalone {
    /// `NSM_NAME`: the node's name, behind those of the parts.
    pub name: String,
    /// `NSM_LOG_LEVEL`, INFO.
    pub log_level: LogLevel,
    /// `NSM_METRICS_LISTEN_ON`: where the process says whether all of it is ready. The parts show theirs in
    /// [`Standalone::private_dir`].
    pub metrics: Shown,
    /// `NSM_BASE_DIR`: the folder of all sockets and files.
    pub base_dir: PathBuf,
    /// Serves the Workload API.
    pub identity: IdentityStandalone,
    /// On a unix socket that the mesh alone uses.
    pub registry: Registry,
    /// On `NSM_LISTEN_ON`, by default `nsm.io.sock` in the folder: where clients and endpoints ask.
    pub nsmgr: Nsmgr,
    /// On a unix socket that the mesh alone uses.
    pub forwarder: Forwarder,
}

/// What a user's setting means to every part that reads it. All others are for processes on their own:
/// addresses of other hosts, say, of which there are none.
const SHARED: &[&str] = &[
    vars::NSM_LOG_LEVEL,
    vars::NSM_MAX_TOKEN_LIFETIME,
    vars::NSM_DIAL_TIMEOUT,
    vars::NSM_MAX_REQUESTS_IN_FLIGHT,
    vars::NSM_MAX_IDENTITY_OUTAGE,
    vars::NSM_SERVER_POLICIES,
    vars::NSM_CLIENT_POLICIES,
    vars::NSM_MONITOR_POLICIES,
    vars::NSM_REGISTRY_SERVER_POLICIES,
    vars::NSM_REGISTRY_CLIENT_POLICIES,
    vars::NSM_TRUSTED_IDS,
    vars::NSM_EXCLUDED_PREFIXES_FILE,
    vars::NSM_TRUST_DOMAIN,
    vars::NSM_SVID_LIFETIME,
    vars::NSM_CA_LIFETIME,
    vars::NSM_SPIFFE_ID_TEMPLATE,
    vars::NODE_NAME,
    vars::CLUSTER_NAME,
];

/// Longest path of a unix socket in bytes (unix(7)), without the end that the longest name here needs.
const MAX_BASE_DIR: usize = 107 - "/private/forwarder.metrics.sock".len();

/// The settings of one part: its own places, and what the user set for all.
struct Part<'a> {
    shared: &'a dyn Vars,
    own: Vec<(&'static str, String)>,
}

impl Vars for Part<'_> {
    fn get(&self, name: &str) -> Option<String> {
        let own = self.own.iter().find(|(own, _)| *own == name).map(|(_, value)| value.clone());
        own.or_else(|| if SHARED.contains(&name) { self.shared.get(name) } else { None })
    }
}

/// What all parts are given.
struct Places<'a> {
    vars: &'a dyn Vars,
    name: &'a str,
    base_dir: &'a Path,
    /// Whether figures are shown.
    shown: bool,
    errors: Vec<SettingError>,
}

impl Places<'_> {
    fn unix(&self, name: &str) -> String {
        format!("unix://{}", self.base_dir.join(name).display())
    }

    fn private(&self, name: &str) -> String {
        self.unix(&format!("{}/{name}", standalone::PRIVATE))
    }

    /// The settings of a part as `read` reads them; what it refuses is kept.
    fn read<T>(
        &mut self,
        part: &str,
        own: Vec<(&'static str, String)>,
        read: impl FnOnce(&dyn Vars) -> Result<T, Errors>,
    ) -> Option<T> {
        let metrics = if self.shown { self.private(&format!("{part}.metrics.sock")) } else { String::new() };
        let all = [
            (vars::NSM_NAME, format!("{part}-{}", self.name)),
            (vars::SPIFFE_ENDPOINT_SOCKET, self.unix(standalone::IDENTITY)),
            (vars::NSM_METRICS_LISTEN_ON, metrics),
        ];
        let own = all.into_iter().chain(own).collect();
        match read(&Part { shared: self.vars, own }) {
            Ok(settings) => Some(settings),
            Err(Errors(refused)) => {
                // Several parts read the same variable.
                let new: Vec<_> = refused.into_iter().filter(|one| !self.errors.contains(one)).collect();
                self.errors.extend(new);
                None
            }
        }
    }
}

impl Standalone {
    /// Reads all settings of the process.
    pub fn read(vars: &dyn Vars) -> Result<Self, Errors> {
        let mut reader = Reader::new(vars);
        let name = reader.name(vars::NSM_NAME, "standalone");
        let metrics = format!("unix:///run/nsm/{}.metrics.sock", name.replace('/', "-"));
        let metrics = reader.shown(vars::NSM_METRICS_LISTEN_ON, &metrics);
        let base_dir = base_dir(&mut reader);
        let listen_on = listen_on(&mut reader, &base_dir);
        let shown = metrics.target.is_some();
        let mut places = Places { vars, name: &name, base_dir: &base_dir, shown, errors: reader.errors };
        let (nsmgr, registry) = (listen_on.to_string(), places.private("registry.sock"));
        let identity = vec![
            (vars::NSM_LISTEN_ON, places.unix(standalone::IDENTITY)),
            (vars::NSM_BASE_DIR, base_dir.join(standalone::CA).display().to_string()),
        ];
        let connections = base_dir.join(standalone::PRIVATE).join("connections");
        let forwarder = vec![
            (vars::NSM_LISTEN_ON, places.private("forwarder.sock")),
            (vars::NSM_CONNECT_TO, nsmgr.clone()),
            (vars::NSM_BASE_DIR, connections.display().to_string()),
        ];
        let identity = places.read("identity", identity, IdentityStandalone::read);
        let nsmgr = vec![(vars::NSM_LISTEN_ON, nsmgr), (vars::NSM_REGISTRY_URL, registry.clone())];
        let registry = places.read("registry", vec![(vars::NSM_LISTEN_ON, registry)], Registry::read);
        let nsmgr = places.read("nsmgr", nsmgr, Nsmgr::read);
        let forwarder = places.read("forwarder", forwarder, Forwarder::read);
        let errors = places.errors;
        match (identity, registry, nsmgr, forwarder) {
            (Some(identity), Some(registry), Some(nsmgr), Some(forwarder)) if errors.is_empty() => {
                let log_level = identity.log_level.clone();
                Ok(Self { name, log_level, metrics, base_dir, identity, registry, nsmgr, forwarder })
            }
            _ => Err(Errors(errors)),
        }
    }

    /// The folder that only the process's user may enter: sockets within the mesh, the journal of
    /// connections, the parts' figures.
    pub fn private_dir(&self) -> PathBuf {
        self.base_dir.join(standalone::PRIVATE)
    }
}

fn base_dir(reader: &mut Reader<'_>) -> PathBuf {
    let allowed = format!("an absolute path of at most {MAX_BASE_DIR} bytes, since sockets lie in it");
    let usable = |text: &str| (text.starts_with('/') && text.len() <= MAX_BASE_DIR).then(|| text.into());
    reader.read(vars::NSM_BASE_DIR, names::MESH_DIR.into(), &allowed, usable)
}

fn listen_on(reader: &mut Reader<'_>, base_dir: &Path) -> Target {
    let by_default = format!("unix://{}", base_dir.join(standalone::NSMGR).display());
    let target = reader.listen(vars::NSM_LISTEN_ON, &by_default);
    if let Target::Tcp(_) = target {
        let allowed = "one unix:///path: clients and endpoints are on this host";
        reader.refuse(vars::NSM_LISTEN_ON, &target.to_string(), allowed);
    }
    target
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Standalone, Errors> {
        let all = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Standalone::read(&all.collect::<BTreeMap<_, _>>())
    }

    #[test]
    fn without_settings_clients_find_it_where_they_look_and_the_parts_find_each_other() {
        let settings = read(&[]).unwrap();
        let unix = |path: &str| Target::Unix(path.into());
        assert_eq!(settings.nsmgr.listen_on, [unix(names::NSMGR_SOCKET)]);
        assert_eq!(settings.forwarder.connect_to, unix(names::NSMGR_SOCKET));
        assert_eq!(settings.registry.listen_on, std::slice::from_ref(&settings.nsmgr.registry_url));
        for common in [&settings.registry.common, &settings.nsmgr.common, &settings.forwarder.common] {
            assert_eq!(common.workload_api, settings.identity.listen_on);
        }
        let names = [&settings.nsmgr.common.name, &settings.forwarder.common.name];
        assert_eq!(names, ["nsmgr-standalone", "forwarder-standalone"]);
    }

    #[test]
    fn one_setting_moves_all_sockets_and_files_and_another_reaches_every_part() {
        let settings = read(&[
            (vars::NSM_BASE_DIR, "/tmp/m"),
            (vars::NSM_NAME, "vm-7"),
            (vars::NSM_MAX_TOKEN_LIFETIME, "1m"),
            (vars::NSM_TUNNEL_IP, "10.0.0.1"),
        ]);
        let settings = settings.unwrap();
        let text = format!("{settings:?}").replace("/run/nsm/vm-7.metrics.sock", "");
        let paths = text.match_indices("\"/").map(|(at, _)| &text[at..]);
        let elsewhere: Vec<_> = paths.filter(|rest| !rest.starts_with("\"/tmp/m")).collect();
        // The template of SPIFFE IDs, and a file that is read where upstream writes it.
        assert_eq!(elsewhere.len(), 2, "{elsewhere:?}");
        let lives = [&settings.registry.common, &settings.nsmgr.common, &settings.forwarder.common]
            .map(|common| common.max_token_lifetime.as_secs());
        assert_eq!(lives, [60; 3]);
        // There is no other host to which tunnels could lead.
        assert_eq!(settings.forwarder.tunnel_ip, None);
    }

    #[test]
    fn each_bad_setting_is_named_once_however_many_parts_read_it() {
        let errors = read(&[
            (vars::NSM_BASE_DIR, "here"),
            (vars::NSM_LISTEN_ON, "tcp://127.0.0.1:5001"),
            (vars::NSM_MAX_TOKEN_LIFETIME, "soon"),
            (vars::NSM_LOG_LEVEL, "loud"),
            (vars::NSM_SVID_LIFETIME, "1 fortnight"),
            (vars::NSM_METRICS_LISTEN_ON, "tcp://0.0.0.0:80"),
        ]);
        let mut names: Vec<_> = errors.unwrap_err().0.into_iter().map(|error| error.name).collect();
        names.sort();
        let expected = [
            vars::NSM_BASE_DIR,
            vars::NSM_LISTEN_ON,
            vars::NSM_LOG_LEVEL,
            vars::NSM_MAX_TOKEN_LIFETIME,
            vars::NSM_METRICS_LISTEN_ON,
            vars::NSM_SVID_LIFETIME,
        ];
        assert_eq!(names, expected);
        let long = format!("/{}", "x".repeat(MAX_BASE_DIR));
        assert!(read(&[(vars::NSM_BASE_DIR, &long)]).is_err());
        assert!(read(&[(vars::NSM_BASE_DIR, &long[..MAX_BASE_DIR])]).is_ok());
    }

    #[test]
    fn who_wants_no_figures_gets_none_of_any_part() {
        let settings = read(&[(vars::NSM_METRICS_LISTEN_ON, "")]).unwrap();
        let shown = [&settings.metrics, &settings.nsmgr.common.metrics, &settings.registry.common.metrics];
        assert_eq!(shown.map(|shown| shown.target.is_some()), [false; 3]);
    }
}

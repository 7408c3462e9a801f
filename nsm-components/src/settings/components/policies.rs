//! Users' policies: rego files, by what they judge.

use super::{super::Reader, vars};

/// Masks of files, one list a setting. Upstream's defaults name its own policies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policies {
    /// `NSM_SERVER_POLICIES`: Requests and Closes.
    pub server: Vec<String>,
    /// `NSM_CLIENT_POLICIES`: what a client gets back for a Request.
    pub client: Vec<String>,
    /// `NSM_MONITOR_POLICIES`: who may watch connections.
    pub monitor: Vec<String>,
    /// `NSM_REGISTRY_SERVER_POLICIES`: registrations.
    pub registry_server: Vec<String>,
    /// `NSM_REGISTRY_CLIENT_POLICIES`: what comes back for a registration.
    pub registry_client: Vec<String>,
}

impl Policies {
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        let mut masks = |variable, folders: &[&str]| {
            let default: Vec<_> =
                folders.iter().map(|folder| format!("etc/nsm/opa/{folder}/.*.rego")).collect();
            reader.list(variable, &default.join(","))
        };
        Self {
            server: masks(vars::NSM_SERVER_POLICIES, &["common", "server"]),
            client: masks(vars::NSM_CLIENT_POLICIES, &["common", "client"]),
            monitor: masks(vars::NSM_MONITOR_POLICIES, &["monitor"]),
            registry_server: masks(vars::NSM_REGISTRY_SERVER_POLICIES, &["common", "registry", "server"]),
            registry_client: masks(vars::NSM_REGISTRY_CLIENT_POLICIES, &["common", "registry", "client"]),
        }
    }
}

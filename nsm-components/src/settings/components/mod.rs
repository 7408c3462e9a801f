//! One struct per process.

mod connections;
mod endpoint;
mod forwarder;
mod identity;
mod nsc;
mod nse;
mod nsmgr;
mod policies;
mod purge;
mod registry;
mod standalone;

use std::{collections::BTreeMap, time::Duration};

pub use self::{
    connections::Connections,
    endpoint::Endpoint,
    forwarder::Forwarder,
    identity::{IdentityAgent, IdentityAuthority, IdentityStandalone},
    nsc::Nsc,
    nse::{DnsServers, IpamPolicy, Nse},
    nsmgr::Nsmgr,
    policies::Policies,
    purge::Purge,
    registry::{Registry, Storage},
    standalone::Standalone,
};
use super::{LogLevel, Reader, Target, vars};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);

/// An object on the API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectRef {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// Where a process shows its figures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// For its own host alone; nowhere when absent.
    pub target: Option<Target>,
    /// Whether nobody chose that place.
    pub by_default: bool,
}

/// What every process of the mesh reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Common {
    /// `NSM_NAME`.
    pub name: String,
    /// `NSM_LOG_LEVEL`, INFO.
    pub log_level: LogLevel,
    /// `NSM_METRICS_LISTEN_ON`; by default a private socket below `/run/nsm`, if there can be one.
    pub metrics: Shown,
    /// `SPIFFE_ENDPOINT_SOCKET`: where the process gets its identity.
    pub workload_api: Target,
    /// `NSM_MAX_TOKEN_LIFETIME`, 10 minutes.
    pub max_token_lifetime: Duration,
    /// `NSM_DIAL_TIMEOUT`.
    pub dial_timeout: Duration,
    /// `NSM_MAX_REQUESTS_IN_FLIGHT`, 256.
    pub max_requests: usize,
    /// `NSM_MAX_IDENTITY_OUTAGE`, 24 hours.
    pub max_identity_outage: Duration,
    /// `NSM_SERVER_POLICIES` and its like.
    pub policies: Policies,
    /// `NSM_TRUSTED_IDS`: first parts of SPIFFE IDs; see [`crate::api::trust::Trust`].
    pub trusted_ids: Vec<String>,
    /// `NODE_NAME`, `POD_NAME` and `CLUSTER_NAME` under upstream's label names, as far as set.
    pub client_info: BTreeMap<String, String>,
}

impl Common {
    fn read(reader: &mut Reader<'_>, name: &str, dial_timeout: Duration) -> Self {
        let mut client_info = BTreeMap::new();
        for (variable, label) in
            [(vars::NODE_NAME, "nodeName"), (vars::POD_NAME, "podName"), (vars::CLUSTER_NAME, "clusterName")]
        {
            let value = reader.text(variable, "");
            if !value.is_empty() {
                client_info.insert(label.to_owned(), value);
            }
        }
        let name = reader.name(vars::NSM_NAME, name);
        let metrics = format!("unix:///run/nsm/{}.metrics.sock", name.replace('/', "-"));
        Self {
            log_level: reader.log_level(),
            metrics: reader.shown(vars::NSM_METRICS_LISTEN_ON, &metrics),
            workload_api: reader.socket(vars::SPIFFE_ENDPOINT_SOCKET),
            name,
            max_token_lifetime: reader.duration(vars::NSM_MAX_TOKEN_LIFETIME, 10 * MINUTE),
            dial_timeout: reader.duration(vars::NSM_DIAL_TIMEOUT, dial_timeout),
            max_requests: reader.count(vars::NSM_MAX_REQUESTS_IN_FLIGHT, 256, 1..=4096),
            max_identity_outage: reader.duration(vars::NSM_MAX_IDENTITY_OUTAGE, 24 * 60 * MINUTE),
            policies: Policies::read(reader),
            trusted_ids: reader.list(vars::NSM_TRUSTED_IDS, ""),
            client_info,
        }
    }
}

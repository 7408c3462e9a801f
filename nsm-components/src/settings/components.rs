//! One struct per process.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, time::Duration};

use ipnet::IpNet;

use super::{Errors, NsmUrl, Reader, Target, Vars, vars};
use crate::api::names;

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

/// What every process of the mesh reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Common {
    /// `NSM_NAME`.
    pub name: String,
    /// `SPIFFE_ENDPOINT_SOCKET`: where the process gets its identity.
    pub workload_api: Target,
    /// `NSM_MAX_TOKEN_LIFETIME`, 10 minutes.
    pub max_token_lifetime: Duration,
    /// `NSM_DIAL_TIMEOUT`.
    pub dial_timeout: Duration,
    /// `NSM_TRUSTED_IDS`: beginnings of SPIFFE IDs; see [`crate::api::trust::Trust`].
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
        Self {
            workload_api: reader.target(vars::SPIFFE_ENDPOINT_SOCKET, ""),
            name: reader.name(vars::NSM_NAME, name),
            max_token_lifetime: reader.duration(vars::NSM_MAX_TOKEN_LIFETIME, 10 * MINUTE),
            dial_timeout: reader.duration(vars::NSM_DIAL_TIMEOUT, dial_timeout),
            trusted_ids: reader.list(vars::NSM_TRUSTED_IDS, ""),
            client_info,
        }
    }
}

/// `nsm registry`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registry {
    /// What all read.
    pub common: Common,
    /// `NSM_LISTEN_ON`.
    pub listen_on: Vec<Target>,
}

impl Registry {
    /// Reads all settings of the process.
    pub fn read(vars: &dyn Vars) -> Result<Self, Errors> {
        let mut reader = Reader::new(vars);
        let settings = Self {
            common: Common::read(&mut reader, "registry", 5 * SECOND),
            listen_on: reader.list(vars::NSM_LISTEN_ON, "tcp://:5002"),
        };
        reader.finish(settings)
    }
}

/// `nsm nsmgr`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nsmgr {
    /// What all read.
    pub common: Common,
    /// `NSM_LISTEN_ON`; the first TCP address is the public URL of this nsmgr.
    pub listen_on: Vec<Target>,
    /// `NSM_REGISTRY_URL`.
    pub registry_url: Target,
    /// `NSM_FORWARDER_NETWORK_SERVICE_NAME`.
    pub forwarder_service: String,
    /// `NSM_NODE_STATE`: name of the `NSMNodeState` to report into, if any.
    pub node_state: Option<String>,
}

impl Nsmgr {
    /// Reads all settings of the process.
    pub fn read(vars: &dyn Vars) -> Result<Self, Errors> {
        let mut reader = Reader::new(vars);
        let settings = Self {
            common: Common::read(&mut reader, "nsmgr", Duration::from_millis(750)),
            listen_on: reader.list(vars::NSM_LISTEN_ON, &format!("unix://{}", names::NSMGR_SOCKET)),
            registry_url: reader.target(vars::NSM_REGISTRY_URL, "tcp://localhost:5002"),
            forwarder_service: reader
                .name(vars::NSM_FORWARDER_NETWORK_SERVICE_NAME, names::FORWARDER_SERVICE),
            node_state: reader.optional(vars::NSM_NODE_STATE, "the name of this node"),
        };
        for target in &settings.listen_on {
            if let Target::Tcp(address) = target
                && [":", "0.0.0.0:", "[::]:"].iter().any(|any| {
                    address
                        .strip_prefix(any)
                        .is_some_and(|port| port.bytes().all(|byte| byte.is_ascii_digit()))
                })
            {
                let allowed = "tcp://<address of this node>:<port>: other nodes reach it by this URL";
                reader.refuse(vars::NSM_LISTEN_ON, &target.to_string(), allowed);
            }
        }
        reader.finish(settings)
    }
}

/// `nsm forwarder`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forwarder {
    /// What all read.
    pub common: Common,
    /// `NSM_LISTEN_ON`: one unix socket.
    pub listen_on: Target,
    /// `NSM_CONNECT_TO`: the node's nsmgr.
    pub connect_to: Target,
    /// `NSM_NSNAME`: the network service this forwarder offers.
    pub forwarder_service: String,
    /// `NSM_LABELS`, `p2p:true`.
    pub labels: BTreeMap<String, String>,
    /// `NSM_TUNNEL_IP`; without it no connection leaves the node.
    pub tunnel_ip: Option<IpAddr>,
    /// `NSM_VXLAN_PORT`, 4789.
    pub vxlan_port: u16,
    /// `NSM_BASE_DIR`: folder of the journal.
    pub base_dir: PathBuf,
}

impl Forwarder {
    /// Reads all settings of the process.
    pub fn read(vars: &dyn Vars) -> Result<Self, Errors> {
        let mut reader = Reader::new(vars);
        let settings = Self {
            common: Common::read(&mut reader, "forwarder", Duration::from_millis(750)),
            listen_on: reader
                .target(vars::NSM_LISTEN_ON, &format!("unix://{}/forwarder.sock", names::FORWARDER_DIR)),
            connect_to: reader.target(vars::NSM_CONNECT_TO, &format!("unix://{}", names::NSMGR_SOCKET)),
            forwarder_service: reader.name(vars::NSM_NSNAME, names::FORWARDER_SERVICE),
            labels: reader.map(vars::NSM_LABELS, "p2p:true"),
            tunnel_ip: reader.ip(vars::NSM_TUNNEL_IP),
            vxlan_port: reader.port(vars::NSM_VXLAN_PORT, 4789),
            base_dir: reader
                .text(vars::NSM_BASE_DIR, &format!("{}/connections", names::FORWARDER_DIR))
                .into(),
        };
        reader.finish(settings)
    }
}

/// `nsm nsc`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nsc {
    /// What all read.
    pub common: Common,
    /// `NSM_CONNECT_TO`: the node's nsmgr.
    pub connect_to: Target,
    /// `NSM_NETWORK_SERVICES`, at least one.
    pub network_services: Vec<NsmUrl>,
    /// `NSM_REQUEST_TIMEOUT`, 15 s.
    pub request_timeout: Duration,
    /// `NSM_LISTEN_ON`: where the client answers health checks.
    pub listen_on: Target,
}

impl Nsc {
    /// Reads all settings of the process.
    pub fn read(vars: &dyn Vars) -> Result<Self, Errors> {
        let mut reader = Reader::new(vars);
        let settings = Self {
            common: Common::read(&mut reader, "nsc", 5 * SECOND),
            connect_to: reader.target(vars::NSM_CONNECT_TO, &format!("unix://{}", names::NSMGR_SOCKET)),
            network_services: reader.list(vars::NSM_NETWORK_SERVICES, ""),
            request_timeout: reader.duration(vars::NSM_REQUEST_TIMEOUT, 15 * SECOND),
            listen_on: reader.target(vars::NSM_LISTEN_ON, "unix:///tmp/nsc.sock"),
        };
        if settings.network_services.is_empty()
            && reader.text(vars::NSM_NETWORK_SERVICES, "").trim().is_empty()
        {
            reader.refuse(vars::NSM_NETWORK_SERVICES, "", "at least one URL such as kernel://service/nsm-1");
        }
        reader.finish(settings)
    }
}

/// `nsm nse`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nse {
    /// What all read.
    pub common: Common,
    /// `NSM_CONNECT_TO`: the node's nsmgr.
    pub connect_to: Target,
    /// `NSM_LISTEN_ON`: the endpoint's own socket; it is handed to the nsmgr as a descriptor.
    pub listen_on: Target,
    /// `NSM_SERVICE_NAMES`, at least one.
    pub service_names: Vec<String>,
    /// `NSM_PAYLOAD`.
    pub payload: String,
    /// `NSM_LABELS`.
    pub labels: BTreeMap<String, String>,
    /// `NSM_CIDR_PREFIX`: each group hands out one pair of addresses.
    pub cidr_prefix: Vec<Vec<IpNet>>,
    /// `NSM_REGISTER_SERVICE`.
    pub register_service: bool,
    /// `NSM_UNREGISTER_ITSELF`.
    pub unregister_itself: bool,
}

impl Nse {
    /// Reads all settings of the process.
    pub fn read(vars: &dyn Vars) -> Result<Self, Errors> {
        let mut reader = Reader::new(vars);
        let settings = Self {
            common: Common::read(&mut reader, "nse", 5 * SECOND),
            connect_to: reader.target(vars::NSM_CONNECT_TO, &format!("unix://{}", names::NSMGR_SOCKET)),
            listen_on: reader.target(vars::NSM_LISTEN_ON, "unix:///tmp/nse.sock"),
            service_names: reader.list(vars::NSM_SERVICE_NAMES, ""),
            payload: reader.read(vars::NSM_PAYLOAD, "ETHERNET".to_owned(), "ETHERNET or IP", |text| {
                ["ETHERNET", "IP"].contains(&text).then(|| text.to_owned())
            }),
            labels: reader.map(vars::NSM_LABELS, ""),
            cidr_prefix: reader.prefixes(vars::NSM_CIDR_PREFIX, "169.254.0.0/16"),
            register_service: reader.flag(vars::NSM_REGISTER_SERVICE, true),
            unregister_itself: reader.flag(vars::NSM_UNREGISTER_ITSELF, false),
        };
        if settings.service_names.is_empty() {
            reader.refuse(vars::NSM_SERVICE_NAMES, "", "at least one network service");
        }
        reader.finish(settings)
    }
}

/// `nsm identity agent`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityAgent {
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
            listen_on: reader.target(vars::NSM_LISTEN_ON, &format!("unix://{}", names::IDENTITY_SOCKET)),
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
            listen_on: reader.target(vars::NSM_LISTEN_ON, &format!("tcp://:{}", names::AUTHORITY_PORT)),
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
    /// `NSM_LISTEN_ON`: the Workload API socket to serve.
    pub listen_on: Target,
    /// `NSM_TRUST_DOMAIN`.
    pub trust_domain: String,
    /// `NSM_SVID_LIFETIME`, 1 hour.
    pub svid_lifetime: Duration,
    /// `NSM_BASE_DIR`: folder of the root key.
    pub base_dir: PathBuf,
}

impl IdentityStandalone {
    /// Reads all settings of the process.
    pub fn read(vars: &dyn Vars) -> Result<Self, Errors> {
        let mut reader = Reader::new(vars);
        let settings = Self {
            listen_on: reader.target(vars::NSM_LISTEN_ON, &format!("unix://{}", names::IDENTITY_SOCKET)),
            trust_domain: reader.name(vars::NSM_TRUST_DOMAIN, "host.nsm"),
            svid_lifetime: reader.duration(vars::NSM_SVID_LIFETIME, 60 * MINUTE),
            base_dir: reader.text(vars::NSM_BASE_DIR, "/var/lib/networkservicemesh/identity").into(),
        };
        reader.finish(settings)
    }
}

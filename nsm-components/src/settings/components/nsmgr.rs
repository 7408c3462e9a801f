//! Settings of `nsm nsmgr`.

use std::{path::PathBuf, time::Duration};

use super::Common;
use crate::{
    api::names,
    settings::{Errors, Reader, Target, Vars, vars},
};

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
    /// `NSM_EXCLUDED_PREFIXES_FILE`; it may be absent.
    pub excluded_prefixes_file: PathBuf,
    /// `NSM_NODE_STATE`: name of the `NSMNodeState` to report into, if any.
    pub node_state: Option<String>,
}

impl Nsmgr {
    /// Reads all settings of the process.
    pub fn read(vars: &dyn Vars) -> Result<Self, Errors> {
        let mut reader = Reader::new(vars);
        let settings = Self {
            common: Common::read(&mut reader, "nsmgr", Duration::from_millis(750)),
            listen_on: reader.listen_list(vars::NSM_LISTEN_ON, names::NSMGR_LISTEN_ON),
            registry_url: reader.target(vars::NSM_REGISTRY_URL, "tcp://localhost:5002"),
            forwarder_service: reader
                .name(vars::NSM_FORWARDER_NETWORK_SERVICE_NAME, names::FORWARDER_SERVICE),
            excluded_prefixes_file: reader
                .name(vars::NSM_EXCLUDED_PREFIXES_FILE, names::EXCLUDED_PREFIXES_FILE)
                .into(),
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

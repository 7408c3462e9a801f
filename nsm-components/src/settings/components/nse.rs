//! Settings of `nsm nse`.

use std::collections::BTreeMap;

use ipnet::IpNet;

use super::{Common, SECOND};
use crate::{
    api::names,
    settings::{Errors, Reader, Target, Vars, vars},
};

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

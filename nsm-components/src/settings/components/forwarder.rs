//! Settings of `nsm forwarder`.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, time::Duration};

use super::Common;
use crate::{
    api::names,
    settings::{Errors, Reader, Target, Vars, vars},
};

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
    /// `NSM_MECHANISM_PRIORITY`: types of tunnels that are offered before others, best first, such as `VXLAN`.
    pub mechanism_priority: Vec<String>,
    /// `NSM_BASE_DIR`: folder of the journal.
    pub base_dir: PathBuf,
}

impl Forwarder {
    /// Reads all settings of the process.
    pub fn read(vars: &dyn Vars) -> Result<Self, Errors> {
        let mut reader = Reader::new(vars);
        let settings = Self {
            common: Common::read(&mut reader, "forwarder", Duration::from_millis(750)),
            listen_on: reader.listen(vars::NSM_LISTEN_ON, names::FORWARDER_LISTEN_ON),
            connect_to: reader.target(vars::NSM_CONNECT_TO, &format!("unix://{}", names::NSMGR_SOCKET)),
            forwarder_service: reader.name(vars::NSM_NSNAME, names::FORWARDER_SERVICE),
            labels: reader.map(vars::NSM_LABELS, "p2p:true"),
            tunnel_ip: reader.ip(vars::NSM_TUNNEL_IP),
            vxlan_port: reader.port(vars::NSM_VXLAN_PORT, 4789),
            mechanism_priority: reader.list(vars::NSM_MECHANISM_PRIORITY, ""),
            base_dir: base_dir(&mut reader),
        };
        reader.finish(settings)
    }
}

/// `NSM_BASE_DIR` of a forwarder.
pub(super) fn base_dir(reader: &mut Reader<'_>) -> PathBuf {
    reader.text(vars::NSM_BASE_DIR, &format!("{}/connections", names::FORWARDER_DIR)).into()
}

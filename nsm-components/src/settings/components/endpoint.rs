//! Settings that every endpoint reads, `nsm nse` and those that users write.

use std::{collections::BTreeMap, time::Duration};

use super::{Common, SECOND};
use crate::{
    api::names,
    settings::{Errors, Reader, Target, Vars, vars},
};

/// What every endpoint reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
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
    /// `NSM_REGISTER_SERVICE`.
    pub register_service: bool,
    /// `NSM_UNREGISTER_ITSELF`.
    pub unregister_itself: bool,
    /// `NSM_IDLE_TIMEOUT`; absent when the endpoint waits for connections for ever.
    pub idle_timeout: Option<Duration>,
}

impl Endpoint {
    /// Reads all settings of an endpoint that has none of its own.
    pub fn read(vars: &dyn Vars) -> Result<Self, Errors> {
        let mut reader = Reader::new(vars);
        let settings = Self::read_from(&mut reader);
        reader.finish(settings)
    }

    pub(super) fn read_from(reader: &mut Reader<'_>) -> Self {
        let settings = Self {
            common: Common::read(reader, "nse", 5 * SECOND),
            connect_to: reader.target(vars::NSM_CONNECT_TO, &format!("unix://{}", names::NSMGR_SOCKET)),
            listen_on: reader.listen(vars::NSM_LISTEN_ON, names::NSE_LISTEN_ON),
            service_names: reader.list(vars::NSM_SERVICE_NAMES, ""),
            payload: reader.read(vars::NSM_PAYLOAD, "ETHERNET".to_owned(), "ETHERNET or IP", |text| {
                ["ETHERNET", "IP"].contains(&text).then(|| text.to_owned())
            }),
            labels: reader.map(vars::NSM_LABELS, ""),
            register_service: reader.flag(vars::NSM_REGISTER_SERVICE, true),
            unregister_itself: reader.flag(vars::NSM_UNREGISTER_ITSELF, false),
            idle_timeout: reader.duration_or_never(vars::NSM_IDLE_TIMEOUT),
        };
        if settings.service_names.is_empty() {
            reader.refuse(vars::NSM_SERVICE_NAMES, "", "at least one network service");
        }
        settings
    }
}

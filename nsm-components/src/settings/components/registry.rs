//! Settings of `nsm registry`.

use super::{Common, SECOND};
use crate::{
    api::names,
    settings::{Errors, Reader, Target, Vars, vars},
};

/// `nsm registry`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registry {
    /// What all read.
    pub common: Common,
    /// `NSM_LISTEN_ON`.
    pub listen_on: Vec<Target>,
    /// `NSM_PROXY_REGISTRY_URL`, if there is one.
    pub proxy_registry_url: Option<Target>,
}

impl Registry {
    /// Reads all settings of the process.
    pub fn read(vars: &dyn Vars) -> Result<Self, Errors> {
        let mut reader = Reader::new(vars);
        let settings = Self {
            common: Common::read(&mut reader, "registry", 5 * SECOND),
            listen_on: reader.listen_list(vars::NSM_LISTEN_ON, names::REGISTRY_LISTEN_ON),
            proxy_registry_url: reader
                .optional(vars::NSM_PROXY_REGISTRY_URL, "a URL such as tcp://nsmgr-proxy:5004, or nothing"),
        };
        reader.finish(settings)
    }
}

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
    /// `NSM_REGISTRY_STORAGE`, by default in memory.
    pub storage: Storage,
}

/// Where a registry keeps its entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Storage {
    /// In its memory: there is one registry, and after its restart everybody registers anew.
    #[default]
    Memory,
    /// In custom resources of the API server, for any number of registries.
    Crd {
        /// `NSM_NAMESPACE`, `default`: where what is registered here is kept.
        namespace: String,
        /// `POD_NAME`, or else a name that no other process has: who this registry is among several.
        replica: Option<String>,
    },
}

impl Storage {
    fn read(reader: &mut Reader<'_>) -> Self {
        let allowed = "Memory, or CRD for custom resources of the API server";
        let in_crd = reader.read(vars::NSM_REGISTRY_STORAGE, false, allowed, |text| match text {
            "Memory" => Some(false),
            "CRD" => Some(true),
            _ => None,
        });
        if !in_crd {
            return Self::Memory;
        }
        let namespace = reader.name(vars::NSM_NAMESPACE, "default");
        Self::Crd { namespace, replica: reader.optional(vars::POD_NAME, "the name of this pod") }
    }
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
            storage: Storage::read(&mut reader),
        };
        reader.finish(settings)
    }
}

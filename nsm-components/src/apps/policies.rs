//! Users' policies as a process has read them.

use crate::{
    elements::{Policies, PolicyError},
    settings::{self, vars},
};

/// One set for each setting.
#[derive(Debug)]
pub(super) struct UserPolicies {
    pub server: Policies,
    pub client: Policies,
    pub monitor: Policies,
    pub registry_server: Policies,
    pub registry_client: Policies,
}

impl UserPolicies {
    /// All of them: a process refuses to start by a file that another side of the mesh would judge by, for
    /// settings are mostly the same everywhere.
    pub(super) fn load(masks: &settings::Policies) -> Result<Self, PolicyError> {
        Ok(Self {
            server: Policies::load(vars::NSM_SERVER_POLICIES, &masks.server)?,
            client: Policies::load(vars::NSM_CLIENT_POLICIES, &masks.client)?,
            monitor: Policies::load(vars::NSM_MONITOR_POLICIES, &masks.monitor)?,
            registry_server: Policies::load(vars::NSM_REGISTRY_SERVER_POLICIES, &masks.registry_server)?,
            registry_client: Policies::load(vars::NSM_REGISTRY_CLIENT_POLICIES, &masks.registry_client)?,
        })
    }
}

//! What users' policies are shown of a registration, and whom they know to own names (protocol §3.4).

use std::collections::HashMap;

use parking_lot::Mutex;
use serde_json::json;

use crate::{
    api::registry_path::{RegistryPath, Segment},
    chain::Result,
    elements::opa::{self, Policies},
    transport::token,
};

/// Most names whose owners policies are told.
const MAX_OWNERS: usize = 65_536;

/// Users' policies for registrations.
#[derive(Debug, Default)]
pub(super) struct NamePolicies {
    policies: Policies,
    /// Who registered a name, as policies are told; kept only if there are some.
    owners: Mutex<HashMap<String, Vec<String>>>,
}

impl NamePolicies {
    pub(super) fn new(policies: Policies) -> Self {
        Self { policies, owners: Mutex::default() }
    }

    /// Refuses what one of them refuses: a registration of `name` along these segments of `path`.
    pub(super) async fn judge(
        &self,
        name: &str,
        path: &RegistryPath,
        segments: &[Segment],
        certificate: &[u8],
    ) -> Result<()> {
        if self.policies.is_empty() {
            return Ok(());
        }
        let first = segments.first().and_then(|segment| token::read(&segment.token).ok());
        let segments: Vec<_> = segments.iter().map(|one| json!({"token": one.token})).collect();
        let input = json!({
            "resource_id": first.map(|claims| claims.sub).unwrap_or_default(),
            "resource_name": name,
            "resource_path_ids_map": self.owners_of(name),
            "path_segments": segments,
            "index": path.index,
            "auth_info": opa::auth_info(certificate),
        });
        self.policies.judge(input).await
    }

    /// As upstream's map of all names, with this one alone: policies look it up by name.
    pub(super) fn owners_of(&self, name: &str) -> HashMap<String, Vec<String>> {
        let owners = self.owners.lock();
        owners.get_key_value(name).map(|(name, ids)| (name.clone(), ids.clone())).into_iter().collect()
    }

    /// Whether the name was let through, and not taken back since.
    pub(super) fn knows(&self, name: &str) -> bool {
        self.owners.lock().contains_key(name)
    }

    /// The name is registered.
    pub(super) fn learn(&self, name: &str, path_ids: &[String]) {
        if self.policies.is_empty() {
            return;
        }
        let mut owners = self.owners.lock();
        if owners.len() < MAX_OWNERS || owners.contains_key(name) {
            owners.insert(name.to_owned(), path_ids.to_vec());
        }
    }

    /// It is not any more.
    pub(super) fn forget(&self, name: &str) {
        self.owners.lock().remove(name);
    }
}

//! The endpoints registered through this process, with the sockets they are reached by. Written by
//! `localbypass`, read by `discoverforwarder`.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;

use crate::api::{peer::Address, registry::NetworkServiceEndpoint};

/// See the module. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct LocalEntries(Arc<Mutex<BTreeMap<String, (NetworkServiceEndpoint, Address)>>>);

impl LocalEntries {
    /// One endpoint by name.
    pub fn get(&self, name: &str) -> Option<(NetworkServiceEndpoint, Address)> {
        self.0.lock().get(name).cloned()
    }

    /// All that serve this network service, by name.
    pub fn serving(&self, service: &str) -> Vec<(NetworkServiceEndpoint, Address)> {
        let all = self.0.lock();
        all.values()
            .filter(|(entry, _)| entry.network_service_names.iter().any(|name| name == service))
            .cloned()
            .collect()
    }

    /// All, by name.
    pub fn all(&self) -> Vec<NetworkServiceEndpoint> {
        self.0.lock().values().map(|(entry, _)| entry.clone()).collect()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.lock().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds one, or takes its newest form.
    pub fn insert(&self, entry: NetworkServiceEndpoint, address: Address) {
        self.0.lock().insert(entry.name.clone(), (entry, address));
    }

    /// Takes one out.
    pub fn remove(&self, name: &str) -> Option<(NetworkServiceEndpoint, Address)> {
        self.0.lock().remove(name)
    }
}

//! The endpoints registered through this process, with the sockets they are reached by. Written by
//! `localbypass`, read by `discoverforwarder`.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::api::{peer::Address, registry::NetworkServiceEndpoint};

type Entries = BTreeMap<String, (NetworkServiceEndpoint, Address)>;

/// See the module. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct LocalEntries(Arc<Local>);

#[derive(Debug, Default)]
struct Local {
    entries: Mutex<Entries>,
    /// Told when an endpoint comes, goes, or is reached by another socket.
    changed: watch::Sender<()>,
}

impl LocalEntries {
    /// One endpoint by name.
    pub fn get(&self, name: &str) -> Option<(NetworkServiceEndpoint, Address)> {
        self.0.entries.lock().get(name).cloned()
    }

    /// All that serve this network service, by name.
    pub fn serving(&self, service: &str) -> Vec<(NetworkServiceEndpoint, Address)> {
        let all = self.0.entries.lock();
        all.values()
            .filter(|(entry, _)| entry.network_service_names.iter().any(|name| name == service))
            .cloned()
            .collect()
    }

    /// All, by name.
    pub fn all(&self) -> Vec<NetworkServiceEndpoint> {
        self.0.entries.lock().values().map(|(entry, _)| entry.clone()).collect()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.entries.lock().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds one, or takes its newest form.
    pub fn insert(&self, entry: NetworkServiceEndpoint, address: Address) {
        let mut entries = self.0.entries.lock();
        let is_new = entries.get(&entry.name).is_none_or(|(_, before)| *before != address);
        entries.insert(entry.name.clone(), (entry, address));
        drop(entries);
        if is_new {
            self.0.changed.send_replace(());
        }
    }

    /// Takes one out.
    pub fn remove(&self, name: &str) -> Option<(NetworkServiceEndpoint, Address)> {
        let gone = self.0.entries.lock().remove(name);
        if gone.is_some() {
            self.0.changed.send_replace(());
        }
        gone
    }

    /// Tells when an endpoint came or went, or is reached by another socket, from now on.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.0.changed.subscribe()
    }
}

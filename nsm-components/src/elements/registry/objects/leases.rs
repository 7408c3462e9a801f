//! The Leases of nodes: one a node says that its manager goes on refreshing, however many endpoints are
//! behind it, to all registries at once.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::Refusal;

/// A Lease is written at most so often.
const RENEW_EVERY: Duration = Duration::from_mins(1);

/// What is asked of the API server for Leases of nodes.
#[async_trait]
pub trait LeaseServer: Send + Sync + 'static {
    /// Says that the node's manager lives, and for how long that is good. Fails where the Lease is no
    /// more as in this version. Answers its new version.
    async fn renew(&self, node: &str, lasting: Duration, version: Option<u64>) -> Result<u64, Refusal>;

    /// Deletes the Lease of a node, in this version alone.
    async fn delete(&self, node: &str, version: u64) -> Result<(), Refusal>;
}

/// See the module. Clones share it.
#[derive(Clone)]
pub struct Leases {
    server: Arc<dyn LeaseServer>,
    /// Longest life of an entry.
    life: Duration,
    nodes: Arc<Mutex<HashMap<String, Node>>>,
}

/// What is known of one node, by the own clock alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Node {
    /// The Lease: its version, when that was seen first, and how long it is good for.
    lease: Option<(u64, Instant, Duration)>,
    /// When the last try to renew it began here.
    tried: Option<Instant>,
    /// Since when there should be a Lease and is none.
    missing: Option<Instant>,
}

/// How often Leases of nodes are renewed where entries live this long at most. Lives are minutes.
fn interval(life: Duration) -> Duration {
    RENEW_EVERY.min(life)
}

impl Node {
    /// Whether the Lease is due, whoever renewed it last.
    fn is_due(&self, now: Instant, life: Duration) -> bool {
        let renewed = self.lease.map(|(_, seen, _)| seen);
        let last = renewed.into_iter().chain(self.tried).max();
        last.is_none_or(|last| now.duration_since(last) >= interval(life))
    }

    fn is_over(&self, now: Instant, life: Duration) -> bool {
        match (self.lease, self.missing) {
            (Some((_, seen, lasting)), _) => now.duration_since(seen) > lasting,
            (None, Some(missing)) => now.duration_since(missing) > life + interval(life),
            (None, None) => false,
        }
    }
}

impl Leases {
    /// Nothing is known yet. Entries live for `life` at most.
    pub fn new(server: Arc<dyn LeaseServer>, life: Duration) -> Self {
        Self { server, life, nodes: Arc::default() }
    }

    /// All Leases that there are: node, version, and how long it is good for.
    pub fn list(&self, leases: Vec<(String, u64, Duration)>) {
        let there: HashSet<String> = leases.iter().map(|(node, ..)| node.clone()).collect();
        for (name, node) in self.nodes.lock().iter_mut() {
            if !there.contains(name) {
                node.lease = None;
            }
        }
        for (node, version, lasting) in leases {
            self.observe(&node, version, lasting);
        }
    }

    /// What the Lease of a node is now.
    pub fn observe(&self, node: &str, version: u64, lasting: Duration) {
        let mut nodes = self.nodes.lock();
        let node = nodes.entry(node.to_owned()).or_default();
        if node.lease.is_none_or(|(known, ..)| known < version) {
            node.lease = Some((version, Instant::now(), lasting));
            node.missing = None;
        }
    }

    /// The Lease of a node is gone since this version.
    pub fn gone(&self, node: &str, version: u64) {
        if let Some(node) = self.nodes.lock().get_mut(node) {
            node.lease = node.lease.filter(|(known, ..)| *known > version);
        }
    }

    /// An entry was refreshed by the manager of a node: its Lease is renewed, if it is time. Nobody waits for
    /// it.
    pub(super) fn refreshed(&self, node: &str) {
        let (now, life) = (Instant::now(), self.life);
        let version = {
            let mut nodes = self.nodes.lock();
            let node = nodes.entry(node.to_owned()).or_default();
            if !node.is_due(now, life) {
                return;
            }
            node.tried = Some(now);
            node.lease.map(|(version, ..)| version)
        };
        let (leases, node) = (self.clone(), node.to_owned());
        tokio::spawn(async move {
            let lasting = life + interval(life);
            match leases.server.renew(&node, lasting, version).await {
                Ok(version) => leases.observe(&node, version, lasting),
                // Another registry was faster.
                Err(Refusal::Changed(_)) => {}
                Err(refusal) => {
                    tracing::warn!(node, %refusal, "the Lease of the node could not be renewed");
                    if let Some(node) = leases.nodes.lock().get_mut(&node) {
                        node.tried = None;
                    }
                }
            }
        });
    }

    /// Those of these nodes whose managers have not been heard of for as long as they said, and for
    /// the longest life where they said nothing. A Lease that serves nobody is one as well.
    pub(super) fn over(&self, wanted: &HashSet<String>) -> Vec<(String, Option<u64>)> {
        let now = Instant::now();
        let mut nodes = self.nodes.lock();
        for name in wanted {
            let node = nodes.entry(name.clone()).or_default();
            if node.lease.is_none() {
                node.missing.get_or_insert(now);
            }
        }
        nodes.retain(|name, node| node.lease.is_some() || wanted.contains(name));
        let over = nodes.iter().filter(|(_, node)| node.is_over(now, self.life));
        over.map(|(name, node)| (name.clone(), node.lease.map(|(version, ..)| version))).collect()
    }

    /// Ends the Lease of a node, unless it was renewed meanwhile. Answers whether the node is over.
    pub(super) async fn end(&self, node: &str, version: Option<u64>) -> bool {
        let Some(version) = version else { return true };
        match self.server.delete(node, version).await {
            Ok(()) => {
                self.gone(node, version);
                true
            }
            Err(Refusal::Changed(_)) => false,
            Err(refusal) => {
                tracing::warn!(node, %refusal, "the Lease of a node that is gone could not be deleted");
                false
            }
        }
    }

    /// How many nodes have a Lease.
    pub fn len(&self) -> usize {
        self.nodes.lock().values().filter(|node| node.lease.is_some()).count()
    }

    /// Whether none has.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

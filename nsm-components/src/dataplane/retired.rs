//! Deletes links that were taken out of use, off the path of those who took them out.
//!
//! The kernel waits tens of milliseconds for each deletion, but once for all links that one message names. So
//! those of a namespace are gathered for a moment and deleted together, by their group.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    time::Duration,
};

use futures::{StreamExt as _, stream};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{
    ids::NetnsKey,
    netns::{Namespaces, Netns},
    operation::Operation,
    port::{Kernel, KernelError},
};

/// For how long links are gathered before they are deleted.
const GATHER: Duration = Duration::from_millis(10);

/// Namespaces worked on at once: the kernel lets them wait side by side.
const AT_ONCE: usize = 4;

/// Namespaces with such links, each with the way in if that is at hand.
#[derive(Debug, Default)]
pub(super) struct Retired {
    pending: Mutex<HashMap<NetnsKey, Option<Netns>>>,
    /// Those that the kernel refused: without the way in, which would keep a namespace alive.
    failed: Mutex<HashSet<NetnsKey>>,
    /// Pending ones and those that are worked on.
    open: watch::Sender<usize>,
}

/// What is to be deleted is told apart from what is to be done at once.
pub(super) fn split(operations: Vec<Operation>) -> (Vec<Operation>, Vec<Operation>) {
    operations.into_iter().partition(|operation| !matches!(operation, Operation::DeleteRetired(_)))
}

// === impl Retired ===

impl Retired {
    /// Takes these deletions over.
    pub(super) fn add(&self, deletions: &[Operation], netns: &Namespaces) {
        for key in deletions.iter().filter_map(Operation::netns) {
            let at_hand = netns.get(key).cloned();
            match self.pending.lock().entry(key) {
                Entry::Occupied(mut known) => drop(at_hand.map(|netns| known.insert(Some(netns)))),
                Entry::Vacant(new) => {
                    new.insert(at_hand);
                    self.open.send_modify(|open| *open += 1);
                }
            }
        }
    }

    /// Until nothing is left to delete.
    pub(super) async fn emptied(&self) {
        // The sender is this one.
        let _ = self.open.subscribe().wait_for(|open| *open == 0).await;
    }

    /// Deletes what comes, for as long as it runs.
    pub(super) async fn work<K: Kernel + ?Sized>(&self, kernel: &K) {
        let mut open = self.open.subscribe();
        while open.wait_for(|open| *open > 0).await.is_ok() {
            tokio::time::sleep(GATHER).await;
            self.delete(kernel).await;
        }
    }

    /// Deletes what is there now. What fails is tried again with the next; it carries nothing meanwhile.
    pub(super) async fn delete<K: Kernel + ?Sized>(&self, kernel: &K) {
        let failed = std::mem::take(&mut *self.failed.lock());
        let pending = std::mem::take(&mut *self.pending.lock());
        let taken = pending.len();
        let mut all: HashMap<_, _> = failed.into_iter().map(|key| (key, None)).collect();
        all.extend(pending);
        stream::iter(all)
            .for_each_concurrent(AT_ONCE, async |(key, netns)| {
                let at_hand = netns.into_iter().collect();
                match kernel.apply(vec![Operation::DeleteRetired(key)], &at_hand).await {
                    Err(error) if !matches!(error.source, KernelError::NoNetns(_)) => {
                        tracing::warn!(%error, cause = %error.source, "links out of use stay for now");
                        self.failed.lock().insert(key);
                    }
                    // With its namespace it has gone.
                    _ => {}
                }
            })
            .await;
        self.open.send_modify(|open| *open -= taken);
    }
}

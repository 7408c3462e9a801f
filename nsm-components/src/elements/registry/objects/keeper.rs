//! Ends entries that nobody refreshes. One registry of several does it, chosen by an election.

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures::{StreamExt, stream};

use super::{Objects, Shared};
use crate::api::registry::NetworkServiceEndpoint;

/// How often it is looked for what has ended, at most.
const LOOK: Duration = Duration::from_secs(5);

/// Deletions at once.
const AT_ONCE: usize = 16;

/// See the module.
pub struct Keeper {
    /// What is looked after. Network services have no end.
    pub endpoints: Arc<Objects<NetworkServiceEndpoint>>,
    /// What its storages share.
    pub shared: Shared,
}

impl Keeper {
    /// Ends what has come to its end, for ever, whenever it `may`.
    pub async fn run(self, may: impl Fn() -> bool) {
        let life = self.shared.life;
        let mut look = tokio::time::interval((life / 10).clamp(Duration::from_millis(100), LOOK));
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            look.tick().await;
            // Before that nobody may have been able to refresh anything, or to tell of it.
            if !self.shared.reach.well_for(life) {
                continue;
            }
            self.endpoints.known.lock().hide_ended(self.shared.clock.seconds());
            if may() {
                self.look(&may).await;
            }
        }
    }

    /// Ends what has come to its end now.
    pub(super) async fn look(&self, may: impl Fn() -> bool) {
        let wanted = self.endpoints.known.lock().nodes();
        let mut over = HashSet::new();
        for (node, version) in self.shared.leases.over(&wanted) {
            if !may() {
                return;
            }
            // The Lease first: deleted in the version that was looked at, it proves that nobody renewed it.
            if self.shared.leases.end(&node, version).await {
                tracing::info!(node, "its manager has not refreshed anything for too long: it is gone");
                over.insert(node);
            }
        }
        let seconds = self.shared.clock.seconds();
        let ended = self.endpoints.known.lock().ended(|node| over.contains(node), seconds);
        let may = &may;
        stream::iter(ended)
            .for_each_concurrent(AT_ONCE, |ended| async move {
                if may() {
                    self.endpoints.end(ended).await;
                }
            })
            .await;
    }
}

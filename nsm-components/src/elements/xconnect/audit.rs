//! The audit: what is in the kernel is compared with the connections, all the time and at little cost.
//! What no connection has is counted, told with its owner and age, and removed after a whole life of a
//! token, if this forwarder has made it. What others have made is not touched.

use std::{collections::HashMap, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::{info, warn};

use super::{Standing, Xconnect};
use crate::{
    api::{Counter, peer::Files},
    chain::{Clock, Suspended},
    dataplane::{Kernel, Orphan, OrphanKind},
};

/// Looks in one life of a token.
const LOOKS: u32 = 4;

/// What the audit has found so far.
#[derive(Debug, Default)]
pub struct Findings {
    /// Looks at the kernel that succeeded.
    pub looks: Counter,
    /// Orphans that were removed.
    pub removed: Counter,
    now: Mutex<Now>,
}

#[derive(Debug, Default)]
struct Now {
    /// Each with the boot time at which it was seen first.
    orphans: HashMap<Orphan, Instant>,
    /// Connections of which no link is seen.
    unlinked: usize,
    oldest: Duration,
}

/// What decides when something ends.
pub struct Rules {
    /// How long a token lives: what nobody asks for in this time is over.
    pub life: Duration,
    /// Tells the time.
    pub clock: Clock,
    /// Until when nothing ends.
    pub suspended: Suspended,
}

// === impl Findings ===

impl Findings {
    /// How many orphans there are of each kind; `entry` are connections that are known, but have no link.
    pub fn orphans(&self) -> Vec<(&'static str, u64)> {
        let now = self.now.lock();
        let of = |kind: OrphanKind| now.orphans.keys().filter(|orphan| orphan.kind == kind).count();
        let counts = OrphanKind::ALL.map(|kind| (kind.as_str(), of(kind) as u64));
        counts.into_iter().chain([("entry", now.unlinked as u64)]).collect()
    }

    /// For how long the oldest orphan was known at the last look.
    pub fn oldest(&self) -> Duration {
        self.now.lock().oldest
    }

    /// Takes over what was seen at a boot time; answers what is seen for the first time.
    fn see(&self, orphans: Vec<Orphan>, unlinked: usize, at: Instant) -> Vec<Orphan> {
        let mut now = self.now.lock();
        now.orphans.retain(|known, _| orphans.contains(known));
        now.unlinked = unlinked;
        let mut new = Vec::new();
        for orphan in orphans {
            now.orphans.entry(orphan).or_insert_with_key(|orphan| {
                new.push(orphan.clone());
                at
            });
        }
        let ages = now.orphans.values().map(|since| at.saturating_duration_since(*since));
        now.oldest = ages.max().unwrap_or_default();
        self.looks.add();
        new
    }

    /// What may be removed at a boot time: this forwarder's own that has been there for a life.
    fn due(&self, at: Instant, life: Duration) -> Vec<Orphan> {
        let now = self.now.lock();
        let due = |since: &Instant| at.saturating_duration_since(*since) >= life;
        now.orphans
            .iter()
            .filter(|(orphan, since)| orphan.is_own() && due(since))
            .map(|(o, _)| o.clone())
            .collect()
    }
}

// === impl Rules ===

impl Rules {
    fn now(&self) -> Instant {
        self.clock.after(Duration::ZERO)
    }

    fn is_suspended(&self) -> bool {
        self.suspended.borrow().is_some_and(|until| until > Instant::now())
    }
}

// === impl Xconnect ===

impl<K: Kernel> Xconnect<K> {
    /// Looks for what nobody has as long as it runs, and removes what an earlier process left and nobody
    /// asked for in the first life of a token, what could not be removed when it was closed, and orphans.
    pub async fn audit(self, rules: Rules) {
        let start = rules.now();
        loop {
            self.look(&rules).await;
            rules.clock.wait_for_end(rules.clock.after(rules.life / LOOKS)).await;
            if rules.is_suspended() {
                continue;
            }
            self.sweep(rules.now() >= start + rules.life).await;
            let due = self.findings.due(rules.now(), rules.life);
            if !due.is_empty() {
                self.remove_orphans(&due, rules.life).await;
            }
        }
    }

    /// Removes what an earlier process left, and what could not be removed when it was closed: now.
    pub async fn close_left(&self) {
        self.sweep(true).await;
    }

    async fn look(&self, rules: &Rules) {
        match self.dataplane.audit(&self.known.footprints()).await {
            Ok((orphans, unlinked)) => {
                for orphan in self.findings.see(orphans, unlinked, rules.now()) {
                    info!(%orphan, owner = orphan.owner, kind = orphan.kind.as_str(), "serves no connection");
                }
            }
            Err(error) => {
                warn!(%error, cause = ?std::error::Error::source(&error), "cannot look for orphans");
            }
        }
    }

    /// Removes what was closed and is still there, and what was left and not asked for in time.
    pub(super) async fn sweep(&self, is_over: bool) {
        let standings = [Standing::Ended, Standing::Left];
        let standings = if is_over { &standings[..] } else { &standings[..1] };
        for id in self.known.all(standings) {
            let _alone = self.sweeping.write().await;
            // It may have been asked for while others were removed.
            if self.known.standing(&id).is_none_or(|standing| standing == Standing::Asked) {
                continue;
            }
            info!(connection.id = %id, "left behind and not asked for again: removing");
            self.adoption.not_asked(self.known.standing(&id));
            if let Err(error) = self.remove(&id, &Files::default()).await {
                warn!(connection.id = %id, %error, "could not remove what was left behind");
            }
        }
    }

    /// Removes those of `due` that are orphans still: nobody can ask for them meanwhile.
    async fn remove_orphans(&self, due: &[Orphan], age: Duration) {
        let _alone = self.sweeping.write().await;
        let still = match self.dataplane.audit(&self.known.footprints()).await {
            Ok((orphans, _)) => orphans.into_iter().filter(|orphan| due.contains(orphan)).collect::<Vec<_>>(),
            Err(error) => return warn!(%error, "cannot look at orphans once more"),
        };
        for orphan in &still {
            info!(%orphan, owner = orphan.owner, ?age, "serves no connection for a life of a token: removing");
        }
        match self.dataplane.remove_orphans(&still).await {
            Ok(()) => still.iter().for_each(|_| self.findings.removed.add()),
            Err(error) => warn!(%error, cause = ?std::error::Error::source(&error), "cannot remove orphans"),
        }
    }
}

#[cfg(test)]
mod tests;

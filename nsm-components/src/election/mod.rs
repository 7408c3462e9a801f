//! Who of several equal processes writes: decided from one Lease and the own clock. No effects. Operators
//! choose one of them by it, and so do registries that share their objects.
//!
//! The rules are client-go's, so that other tools read the Lease as they are used to. A candidate
//! never compares times of another machine: a Lease that it has seen unchanged for as long as the
//! Lease is good for has no holder any more. A holder takes itself for one only until
//! [`RENEW_DEADLINE`] after it *began* its last successful renewal, and a candidate can have seen that
//! renewal no earlier, so between the last write of the one and the first of the other lie
//! [`DURATION`] less [`RENEW_DEADLINE`].
//!
//! The identity is the pod's name. Of a pod one process runs at a time, so one that finds its own name
//! was restarted, and goes on at once.

use std::time::Duration;

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use tokio::time::Instant;

/// How long a Lease is good for.
pub const DURATION: Duration = Duration::from_secs(15);

/// How long after a renewal began its holder may still write.
pub const RENEW_DEADLINE: Duration = Duration::from_secs(10);

/// How often a holder renews.
pub const RENEW_EVERY: Duration = Duration::from_secs(5);

/// How soon what failed is tried again.
pub const RETRY: Duration = Duration::from_secs(2);

/// What to do next.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// Make the Lease: there is none.
    Create,
    /// Write the own name into this version of the Lease.
    Write(Box<Lease>),
    /// Nothing before this time, unless the Lease changes.
    Wait(Instant),
    /// Nothing until it is known what the Lease says.
    Learn,
}

/// What one candidate knows.
#[derive(Clone, Debug)]
pub struct Election {
    me: String,
    seen: Option<Seen>,
    /// When the last successful write by us began, if we hold the Lease.
    renewed: Option<Instant>,
    /// Not before.
    pause: Option<Instant>,
}

#[derive(Clone, Debug)]
struct Seen {
    /// The newest Lease; none if there never was one.
    lease: Option<Lease>,
    at: Instant,
    /// It was deleted since. Its holder may not know yet.
    gone: bool,
}

// === impl Election ===

impl Election {
    /// A candidate who knows nothing yet.
    pub fn new(me: impl Into<String>) -> Self {
        Self { me: me.into(), seen: None, renewed: None, pause: None }
    }

    /// Takes note of what the Lease is, or that there is none.
    pub fn observe(&mut self, lease: Option<Lease>, now: Instant) {
        let Some(lease) = lease else {
            let seen = self.seen.get_or_insert(Seen { lease: None, at: now, gone: true });
            seen.gone = true;
            return;
        };
        if let Some(Seen { lease: Some(known), gone, .. }) = &mut self.seen
            && version(known) >= version(&lease)
        {
            // Nothing new, or late news of what we have overwritten. What is there was not deleted.
            *gone &= version(known) != version(&lease);
            return;
        }
        if holder(&lease) != self.me {
            self.renewed = None;
        }
        self.pause = None;
        self.seen = Some(Seen { lease: Some(lease), at: now, gone: false });
    }

    /// Takes note of an own write that succeeded, and when it began.
    pub fn wrote(&mut self, lease: Lease, began: Instant, now: Instant) {
        self.observe(Some(lease), now);
        // Unless newer news came first.
        if self.held().is_some() {
            self.renewed = Some(began);
        }
    }

    /// Takes note of an own write that failed.
    pub fn failed(&mut self, now: Instant) {
        self.pause = Some(now + RETRY);
    }

    /// What to do now.
    pub fn decide(&self, now: Instant) -> Decision {
        let Some(seen) = &self.seen else { return Decision::Learn };
        let due = self.due(seen).unwrap_or(now).max(self.pause.unwrap_or(now));
        match &seen.lease {
            _ if now < due => Decision::Wait(due),
            Some(lease) if !seen.gone => Decision::Write(Box::new(lease.clone())),
            _ => Decision::Create,
        }
    }

    /// When our next write is due; at once if none.
    fn due(&self, seen: &Seen) -> Option<Instant> {
        let lease = seen.lease.as_ref()?;
        match holder(lease) {
            "" => None,
            name if name == self.me && seen.gone => None,
            name if name == self.me => self.renewed.map(|began| began + RENEW_EVERY),
            _ => Some(seen.at + duration(lease)),
        }
    }

    /// Until when we may write, if we hold the Lease. The time may have passed.
    pub fn leads_until(&self) -> Option<Instant> {
        self.renewed.map(|began| began + RENEW_DEADLINE)
    }

    /// The Lease to give away, if it is ours.
    pub fn held(&self) -> Option<&Lease> {
        let seen = self.seen.as_ref().filter(|seen| !seen.gone)?;
        seen.lease.as_ref().filter(|lease| holder(lease) == self.me)
    }

    /// Our name in the Lease.
    pub fn me(&self) -> &str {
        &self.me
    }
}

/// The Lease of this name, or the given version of it, with our name in it.
pub fn claim(lease: Option<Lease>, name: &str, me: &str) -> Lease {
    let now = MicroTime(Timestamp::now());
    let mut lease = lease.unwrap_or_else(|| Lease {
        metadata: ObjectMeta { name: Some(name.into()), ..Default::default() },
        ..Default::default()
    });
    let old = lease.spec.take().unwrap_or_default();
    let taken = old.holder_identity.as_deref() != Some(me);
    lease.spec = Some(LeaseSpec {
        holder_identity: Some(me.into()),
        lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
        acquire_time: if taken { Some(now.clone()) } else { old.acquire_time },
        renew_time: Some(now),
        lease_transitions: Some(old.lease_transitions.unwrap_or(-1).saturating_add(i32::from(taken))),
        ..Default::default()
    });
    lease
}

/// A Lease that its holder gives away, so that the next one need not wait.
#[must_use]
pub fn released(mut lease: Lease) -> Lease {
    if let Some(spec) = &mut lease.spec {
        spec.holder_identity = Some(String::new());
        spec.lease_duration_seconds = Some(1);
        spec.renew_time = Some(MicroTime(Timestamp::now()));
    }
    lease
}

/// Who stands in a Lease; empty when it was given away.
pub fn holder(lease: &Lease) -> &str {
    lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default()
}

/// How long the Lease says that it is good for.
fn duration(lease: &Lease) -> Duration {
    let seconds = lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds);
    seconds.and_then(|seconds| u64::try_from(seconds).ok()).map_or(DURATION, Duration::from_secs)
}

/// Resource versions are ordered numbers (KEP-5504).
fn version(lease: &Lease) -> u64 {
    lease.metadata.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests;

//! One task per caller gets its SVID, renews it at half life and tries again when it cannot.
//!
//! **Guarantees.** A stream that subscribes waits until there is an SVID; a valid SVID stays served
//! whatever happens to its issuer or to the clock. **Assumes** that callers come from the kernel, so
//! that their number is that of real programs; [`CALLERS`] bounds it all the same.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;
use tokio::{
    sync::{Notify, watch},
    time::{self, Instant},
};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{info, warn};

use super::{
    backoff::{Backoff, jitter},
    issuer::{Caller, IssueError, Issuer},
    svid::Svid,
};
use crate::api::with_causes;

/// Callers with an SVID at one time: many times the pods of the largest node.
const CALLERS: usize = 4096;

/// Open streams of one caller.
const STREAMS_PER_CALLER: usize = 256;

/// How often a waiting task looks at the wall clock: the other one stands still while the host is
/// suspended.
const LOOK: Duration = Duration::from_secs(30);

/// What the streams of a caller see.
#[derive(Clone, Debug)]
pub(super) enum State {
    /// Nothing yet; keep the stream open.
    Waiting,
    /// Send this.
    Ready(Arc<Svid>),
    /// End with this reason.
    Refused(Arc<str>),
}

/// Why a stream was not taken on.
#[derive(Debug, thiserror::Error)]
#[error("too many {0} at the moment")]
pub(super) struct Full(&'static str);

/// SVIDs of all callers.
pub(super) struct Renewals<I> {
    issuer: Arc<I>,
    entries: Arc<Entries>,
    stop: CancellationToken,
    /// Ends all tasks with the last user of this value.
    _guard: DropGuard,
}

type Entries = Mutex<HashMap<Caller, Arc<Entry>>>;

/// One caller: written by its task alone.
struct Entry {
    state: watch::Sender<State>,
    /// A stream came.
    wanted: Notify,
}

// === impl Renewals ===

impl<I: Issuer> Renewals<I> {
    pub(super) fn new(issuer: Arc<I>) -> Self {
        let stop = CancellationToken::new();
        let guard = stop.clone().drop_guard();
        Self { issuer, entries: Arc::default(), stop, _guard: guard }
    }

    /// The caller's SVID, now and after each renewal.
    pub(super) fn subscribe(&self, caller: &Caller) -> Result<watch::Receiver<State>, Full> {
        let mut entries = self.entries.lock();
        if let Some(entry) = entries.get(caller) {
            if entry.state.receiver_count() >= STREAMS_PER_CALLER {
                return Err(Full("streams of this caller"));
            }
            let receiver = entry.state.subscribe();
            entry.wanted.notify_one();
            return Ok(receiver);
        }
        if entries.len() >= CALLERS {
            return Err(Full("callers"));
        }
        let (state, receiver) = watch::channel(State::Waiting);
        let entry = Arc::new(Entry { state, wanted: Notify::new() });
        entries.insert(caller.clone(), entry.clone());
        let task = Task {
            issuer: self.issuer.clone(),
            entries: self.entries.clone(),
            caller: caller.clone(),
            entry,
        };
        tokio::spawn(self.stop.clone().run_until_cancelled_owned(task.run()));
        Ok(receiver)
    }
}

/// Keeps one caller's SVID.
struct Task<I> {
    issuer: Arc<I>,
    entries: Arc<Entries>,
    caller: Caller,
    entry: Arc<Entry>,
}

/// An SVID and when it came, by both clocks.
struct Held {
    svid: Arc<Svid>,
    since: Instant,
    since_wall: SystemTime,
    renew_after: Duration,
}

impl<I: Issuer> Task<I> {
    async fn run(self) {
        let mut held: Option<Held> = None;
        let mut backoff = Backoff::new();
        loop {
            match self.issuer.issue(&self.caller).await {
                Ok(svid) => {
                    let new = Held::new(svid);
                    info!(caller = %self.caller, id = %new.svid.id(), "issued an identity");
                    self.entry.state.send_replace(State::Ready(new.svid.clone()));
                    backoff = Backoff::new();
                    if !self.idle(&new).await {
                        return;
                    }
                    held = Some(new);
                }
                Err(error) => {
                    if held.as_ref().is_some_and(Held::is_over) {
                        held = None;
                        self.entry.state.send_replace(State::Waiting);
                    }
                    let refused = matches!(error, IssueError::Refused(_));
                    if held.is_none() && refused {
                        warn!(caller = %self.caller, %error, "refused an identity");
                        return self.refuse(&error);
                    }
                    if held.is_none() && self.leave_if_unwanted() {
                        return;
                    }
                    let delay = backoff.next();
                    let error = with_causes(&error);
                    warn!(caller = %self.caller, error, ?delay, "cannot get an identity, will try again");
                    time::sleep(delay).await;
                    if let Some(held) = &held
                        && !self.idle(held).await
                    {
                        return;
                    }
                }
            }
        }
    }

    /// Waits until the SVID is to be renewed; false once nobody wants it and it is over.
    async fn idle(&self, held: &Held) -> bool {
        loop {
            if held.is_over() && self.leave_if_unwanted() {
                return false;
            }
            if held.is_due() && self.entry.state.receiver_count() > 0 {
                return true;
            }
            // Without streams it is kept, not renewed: its caller may be restarting.
            tokio::select! {
                () = time::sleep(held.wait()) => {}
                () = self.entry.wanted.notified() => {}
            }
        }
    }

    fn refuse(&self, error: &IssueError) {
        self.entries.lock().remove(&self.caller);
        self.entry.state.send_replace(State::Refused(error.to_string().into()));
    }

    /// Forgets the caller if it has no stream. Streams come under the same lock.
    fn leave_if_unwanted(&self) -> bool {
        let mut entries = self.entries.lock();
        let unwanted = self.entry.state.receiver_count() == 0;
        if unwanted {
            entries.remove(&self.caller);
        }
        unwanted
    }
}

// === impl Held ===

impl Held {
    fn new(svid: Svid) -> Self {
        let half = svid.validity().lifetime() / 2;
        // A little before half life, and not all callers of a node at once.
        let renew_after = half.saturating_sub(jitter(half / 10));
        Self { svid: Arc::new(svid), since: Instant::now(), since_wall: SystemTime::now(), renew_after }
    }

    /// Both clocks count from when the SVID came: it does not matter how they differ from the
    /// issuer's, and a jump can only renew too early.
    fn is_due(&self) -> bool {
        let wall = self.since_wall.elapsed().unwrap_or_default();
        self.since.elapsed().max(wall) >= self.renew_after
    }

    /// Whether its life has passed by the clock that does not jump.
    fn is_over(&self) -> bool {
        self.since.elapsed() >= self.svid.validity().lifetime()
    }

    /// Time to the next look.
    fn wait(&self) -> Duration {
        let end = if self.is_due() { self.svid.validity().lifetime() } else { self.renew_after };
        end.saturating_sub(self.since.elapsed()).clamp(Duration::from_millis(50), LOOK)
    }
}

#[cfg(test)]
mod tests;

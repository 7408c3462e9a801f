//! How many Requests a process works on at once, and who is next when there are more.
//!
//! Callers take turns: one that asks for much waits behind its own, not the others behind it, and has
//! at most a quarter of the places and of the queue. Whoever finds the queue full is refused at once, and
//! who has no time left is not started.
//!
//! Places are counted for each level of the path apart. A Request holds its place while it waits for
//! the processes after this one, and its way may lead through this one again, or through one that waits
//! for this one; each step of it has a higher level than the last. So the highest can always go on,
//! and places are never held in a circle.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{sync::oneshot, time::Instant};
use tokio_util::sync::CancellationToken;

/// Levels that are told apart; deeper ones share the last.
const LEVELS: usize = 16;

/// Requests that may wait for each that may run.
const WAITING: usize = 16;

/// Part of the places, and of the queue, that one caller may have.
const SHARE: usize = 4;

/// How often it is looked whether all is done.
const LOOK: Duration = Duration::from_millis(10);

/// Why a Request is not begun.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The queue is full.
    #[error(
        "{running} Requests are in flight here and {waiting} wait \
         (NSM_MAX_REQUESTS_IN_FLIGHT={limit}): try again later"
    )]
    Full {
        /// How many are worked on.
        running: usize,
        /// How many wait.
        waiting: usize,
        /// How many may be worked on.
        limit: usize,
    },
    /// The caller's part of the queue is full.
    #[error(
        "{caller} has {waiting} Requests waiting here, its part of the queue \
         (NSM_MAX_REQUESTS_IN_FLIGHT={limit}): try again later"
    )]
    Share {
        /// Who asked.
        caller: String,
        /// How many of its Requests wait.
        waiting: usize,
        /// How many Requests may be worked on.
        limit: usize,
    },
    /// Its time is over.
    #[error("no time was left when its turn came (NSM_MAX_REQUESTS_IN_FLIGHT={limit})")]
    Late {
        /// How many Requests may be worked on.
        limit: usize,
    },
    /// The process stops, and begins nothing new.
    #[error("the process stops: ask again")]
    Stopping,
}

/// See the module.
#[derive(Debug)]
pub struct Admission {
    limit: usize,
    stop: CancellationToken,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    levels: [Level; LEVELS],
    tickets: u64,
    refused: u64,
}

#[derive(Debug, Default)]
struct Level {
    running: usize,
    waiting: usize,
    callers: HashMap<Arc<str>, Caller>,
    /// Callers that wait, whose turn is next first; each once.
    turns: VecDeque<Arc<str>>,
}

#[derive(Debug, Default)]
struct Caller {
    running: usize,
    queue: VecDeque<(u64, oneshot::Sender<()>)>,
}

/// The right to be worked on; dropping it is the end.
#[derive(Debug)]
pub struct Place {
    admission: Arc<Admission>,
    level: usize,
    caller: Arc<str>,
}

/// A place in the queue. Dropped before its turn, or at the moment of it, it leaves nothing.
struct Waiting {
    ticket: u64,
    turn: oneshot::Receiver<()>,
    admission: Arc<Admission>,
    level: usize,
    caller: Arc<str>,
    taken: bool,
}

/// How many Requests there are now, and how many were refused so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// In flight.
    pub running: usize,
    /// Waiting for their turn.
    pub waiting: usize,
    /// Clients that have a Request in flight or waiting.
    pub callers: usize,
    /// Refused since the start.
    pub refused: u64,
}

impl Admission {
    /// At most `limit` Requests at once on each level. With the stop those that wait are refused.
    pub fn new(limit: usize, stop: CancellationToken) -> Arc<Self> {
        Arc::new(Self { limit, stop, state: Mutex::default() })
    }

    /// How much there is to do.
    pub fn load(&self) -> Load {
        let state = self.state.lock();
        let sum = |count: fn(&Level) -> usize| state.levels.iter().map(count).sum();
        let (running, waiting) = (sum(|level| level.running), sum(|level| level.waiting));
        let callers = sum(|level| level.callers.len());
        Load { running, waiting, callers, refused: state.refused }
    }

    /// Ends when nothing is worked on.
    pub async fn idle(&self) {
        while self.load().running > 0 {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// A place for a Request of `caller`, whose way here had `level` steps. It waits for its turn.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future gives the place back, or its place in the queue.
    pub async fn enter(
        self: &Arc<Self>,
        caller: &str,
        level: usize,
        deadline: Instant,
    ) -> Result<Place, Refusal> {
        let entered = self.wait(caller, level.min(LEVELS - 1), deadline).await;
        if entered.is_err() {
            self.state.lock().refused += 1;
        }
        entered
    }

    async fn wait(self: &Arc<Self>, caller: &str, level: usize, deadline: Instant) -> Result<Place, Refusal> {
        let late = || Refusal::Late { limit: self.limit };
        if deadline <= Instant::now() {
            return Err(late());
        }
        let mut waiting = self.queue(caller, level)?;
        tokio::select! {
            biased;
            // The sender goes with the queue, and that with the process.
            granted = &mut waiting.turn => granted.map_err(|_| Refusal::Stopping)?,
            () = tokio::time::sleep_until(deadline) => return Err(late()),
            () = self.stop.cancelled() => return Err(Refusal::Stopping),
        }
        let place = waiting.take();
        if deadline <= Instant::now() { Err(late()) } else { Ok(place) }
    }

    fn queue(self: &Arc<Self>, caller: &str, number: usize) -> Result<Waiting, Refusal> {
        let mut state = self.state.lock();
        state.tickets += 1;
        let ticket = state.tickets;
        let (limit, level) = (self.limit, &mut state.levels[number]);
        if level.waiting >= limit * WAITING {
            return Err(Refusal::Full { running: level.running, waiting: level.waiting, limit });
        }
        let known = level.callers.get(caller).map_or(0, |caller| caller.queue.len());
        if known >= (limit * WAITING / SHARE).max(1) {
            return Err(Refusal::Share { caller: caller.to_owned(), waiting: known, limit });
        }
        let (grant, turn) = oneshot::channel();
        let caller: Arc<str> = caller.into();
        level.queue(&caller, ticket, grant);
        level.admit(self.limit);
        Ok(Waiting { ticket, turn, admission: self.clone(), level: number, caller, taken: false })
    }
}

// === impl Level ===

impl Level {
    fn queue(&mut self, name: &Arc<str>, ticket: u64, grant: oneshot::Sender<()>) {
        let caller = self.callers.entry(name.clone()).or_default();
        if caller.queue.is_empty() {
            self.turns.push_back(name.clone());
        }
        caller.queue.push_back((ticket, grant));
        self.waiting += 1;
    }

    /// Gives free places to those whose turn it is. Callers that have their share are passed over.
    fn admit(&mut self, limit: usize) {
        let share = (limit / SHARE).max(1);
        let mut passed = 0;
        while self.running < limit && passed < self.turns.len() {
            let Some(name) = self.turns.pop_front() else { return };
            let Some(caller) = self.callers.get_mut(&name) else { continue };
            if caller.running >= share {
                self.turns.push_back(name);
                passed += 1;
                continue;
            }
            if let Some((_, grant)) = caller.queue.pop_front() {
                self.waiting -= 1;
                // Whoever is gone takes itself out of the queue under the same lock.
                if grant.send(()).is_ok() {
                    caller.running += 1;
                    self.running += 1;
                }
            }
            if !caller.queue.is_empty() {
                self.turns.push_back(name);
            } else if caller.running == 0 {
                self.callers.remove(&name);
            }
        }
    }

    fn leave(&mut self, name: &Arc<str>, limit: usize) {
        self.running -= 1;
        if let Some(caller) = self.callers.get_mut(name) {
            caller.running -= 1;
            if caller.running == 0 && caller.queue.is_empty() {
                self.callers.remove(name);
            }
        }
        self.admit(limit);
    }

    /// Takes a ticket out of the queue; false when it is not there any more.
    fn give_up(&mut self, name: &Arc<str>, ticket: u64) -> bool {
        let Some(caller) = self.callers.get_mut(name) else { return false };
        let before = caller.queue.len();
        caller.queue.retain(|(other, _)| *other != ticket);
        if caller.queue.len() == before {
            return false;
        }
        self.waiting -= 1;
        if caller.queue.is_empty() {
            self.turns.retain(|other| other != name);
            if caller.running == 0 {
                self.callers.remove(name);
            }
        }
        true
    }
}

// === impl Place ===

impl Drop for Place {
    fn drop(&mut self) {
        let Self { admission, level, caller } = self;
        admission.state.lock().levels[*level].leave(caller, admission.limit);
    }
}

// === impl Waiting ===

impl Waiting {
    /// The place that was given.
    fn take(mut self) -> Place {
        self.taken = true;
        Place { admission: self.admission.clone(), level: self.level, caller: self.caller.clone() }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.taken {
            return;
        }
        let level = &mut self.admission.state.lock().levels[self.level];
        // Who is not in the queue any more was given a place at this moment.
        if !level.give_up(&self.caller, self.ticket) {
            level.leave(&self.caller, self.admission.limit);
        }
    }
}

#[cfg(test)]
#[path = "admission_tests.rs"]
mod tests;

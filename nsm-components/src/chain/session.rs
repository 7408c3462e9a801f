//! The session, upstream's `begin`: one task per connection, one event at a time.
//!
//! Requests, Closes, refreshes and the end of a connection's life are messages to its task, so
//! they never overlap; what elements remember of the connection lives there and goes with it.
//!
//! # Cancel safety
//!
//! A dropped call, Request or Close, does not cancel what it asked for: the task goes on to its own
//! end, and what it made is there for the next Request. Dropping the [`Session`] ends the tasks and
//! closes nothing: no connection ends because a process does.

mod worker;

use std::{collections::HashMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::{
    sync::{
        mpsc::{self, error::TrySendError},
        oneshot, watch,
    },
    time::Instant,
};
use tokio_util::task::AbortOnDropHandle;
use tracing::{Instrument, Span, info_span};

use self::worker::Worker;
use super::{Chain, Clock, Cx, Element, Error, Kind, Next, Reply, Request, Result};
use crate::api::Counter;

/// Events of one connection that may wait; more callers than that are refused.
const QUEUE: usize = 16;

/// Most connections of one process: far above those of a node.
const MAX_CONNECTIONS: usize = 16_384;

/// Until when no connection expires, since those who should refresh it cannot.
pub type Suspended = watch::Receiver<Option<Instant>>;

/// What the session does by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Closes a connection whose caller's token ends, while it still counts (protocol §4.3, `timeout`):
    /// earlier by the time that the last Request had, but for no more than a quarter of the life.
    Expire,
    /// Repeats the Request in time, each try with this limit (protocol §4.3, `refresh`).
    Refresh(Duration),
}

/// What may be done about a connection that is not as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cure {
    /// Ask again: the way may be broken, or a process on it wants to be asked (`REFRESH_REQUESTED`).
    Ask,
    /// Ask anew, at any endpoint: it was closed on the way.
    AskAnew,
    /// Ask again, since packets do not pass; an endpoint that is gone then is left at once.
    Repair,
    /// Ask for another endpoint: packets do not pass.
    Leave,
    /// Packets pass again: an endpoint that was to be left is kept.
    Stay,
}

/// What sessions did so far. Several may share it.
#[derive(Debug, Default)]
pub struct SessionCounts {
    /// Connections that got a task.
    pub begun: Counter,
    /// Connections whose task ended.
    pub ended: Counter,
    /// Connections closed because they were not refreshed.
    pub expired: Counter,
    /// Requests repeated in time.
    pub refreshed: Counter,
    /// Requests repeated because the way to the endpoint may have been broken.
    pub healed: Counter,
    /// Repeated Requests that failed.
    pub failed: Counter,
    /// Connections moved to another endpoint.
    pub reselected: Counter,
}

/// Runs a chain in one task per connection id. It stands last in its own chain.
pub struct Session {
    chain: Chain,
    policy: Policy,
    clock: Clock,
    tasks: Arc<Mutex<HashMap<String, Task>>>,
    counts: Arc<SessionCounts>,
    suspended: Option<Suspended>,
    passes_on: bool,
}

struct Task {
    events: mpsc::Sender<Event>,
    _handle: AbortOnDropHandle<()>,
}

/// What a caller wants, and where it waits. It is boxed: a queue has room for many, and each connection one.
struct Asked<T> {
    cx: Cx,
    request: Request,
    answer: oneshot::Sender<Result<T>>,
}

enum Event {
    Request(Box<Asked<Reply>>),
    Close(Box<Asked<()>>),
    /// Something says that the connection needs to be asked for again.
    Heal {
        cure: Cure,
        told: Instant,
    },
    /// This process has a reason of its own to close the connection.
    End,
}

// === impl Session ===

impl Session {
    /// A session around the rest of a chain.
    pub fn new(chain: Chain, policy: Policy, clock: Clock) -> Self {
        Self {
            chain,
            policy,
            clock,
            tasks: Arc::default(),
            counts: Arc::default(),
            suspended: None,
            passes_on: false,
        }
    }

    /// The same, but no connection's life is over before the moment that is told here.
    #[must_use]
    pub fn suspended_by(self, suspended: Suspended) -> Self {
        Self { suspended: Some(suspended), ..self }
    }

    /// The same for a process between client and endpoint: who asks it for another endpoint keeps what there
    /// is until that one has answered. `connect` ends the old way then.
    #[must_use]
    pub fn passing_on(self) -> Self {
        Self { passes_on: true, ..self }
    }

    /// The same, counting what it does here.
    #[must_use]
    pub fn counting(self, counts: Arc<SessionCounts>) -> Self {
        Self { counts, ..self }
    }

    /// Number of connections with a task.
    pub fn len(&self) -> usize {
        self.tasks.lock().len()
    }

    /// Whether it has a connection of this id.
    pub fn knows(&self, id: &str) -> bool {
        self.tasks.lock().contains_key(id)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Does this about all connections.
    pub fn cure(&self, cure: Cure) {
        for task in self.tasks.lock().values() {
            // A full queue has a Request in it, which heals as well.
            let _ = task.events.try_send(Event::Heal { cure, told: Instant::now() });
        }
    }

    /// Closes a connection for a reason of this process's own. Nothing happens when many calls of it
    /// wait already: a later try may find it less busy.
    pub fn end(&self, id: &str) {
        if let Some(task) = self.tasks.lock().get(id) {
            let _ = task.events.try_send(Event::End);
        }
    }

    /// The same of all connections.
    pub fn end_all(&self) {
        for task in self.tasks.lock().values() {
            let _ = task.events.try_send(Event::End);
        }
    }

    /// Hands an event to the connection's task, which is started if there is none, or if it broke.
    fn send(&self, id: &str, event: Event) -> Result<()> {
        let mut tasks = self.tasks.lock();
        if !tasks.contains_key(id) && tasks.len() >= MAX_CONNECTIONS {
            let message = format_args!("{MAX_CONNECTIONS} connections are open here already");
            return Err(Error::new(Kind::Exhausted, message));
        }
        let task = tasks.entry(id.to_owned()).or_insert_with(|| self.start(id));
        let event = match task.events.try_send(event) {
            Ok(()) => return Ok(()),
            Err(TrySendError::Full(_)) => {
                let message = format_args!("connection {id} has {QUEUE} calls waiting; try again later");
                return Err(Error::new(Kind::Exhausted, message));
            }
            Err(TrySendError::Closed(event)) => event,
        };
        *task = self.start(id);
        // A new queue has room.
        task.events.try_send(event).map_err(|_| gone(id))
    }

    fn start(&self, id: &str) -> Task {
        let (events, receiver) = mpsc::channel(QUEUE);
        let worker = Worker::new(self, id);
        let span = info_span!(parent: Span::none(), "connection", connection.id = id);
        let handle = tokio::spawn(worker.run(receiver).instrument(span));
        Task { events, _handle: AbortOnDropHandle::new(handle) }
    }
}

fn gone(id: &str) -> Error {
    Error::new(Kind::Unavailable, format_args!("connection {id} was closed meanwhile"))
}

fn late(id: &str) -> Error {
    Error::new(Kind::Deadline, format_args!("connection {id} was not ready in time"))
}

#[async_trait]
impl Element for Session {
    fn name(&self) -> &'static str {
        "begin"
    }

    async fn request(&self, cx: &Cx, request: Request, _: Next<'_>) -> Result<Reply> {
        let id = request.connection.id.clone();
        if id.is_empty() {
            return Err(Error::new(Kind::Invalid, "the connection has no id"));
        }
        let (answer, answered) = oneshot::channel();
        self.send(&id, Event::Request(Box::new(Asked { cx: cx.clone(), request, answer })))?;
        // The task goes on to its own end; the next Request finds what it made.
        tokio::time::timeout_at(cx.deadline, answered).await.map_err(|_| late(&id))?.map_err(|_| gone(&id))?
    }

    /// A connection that is unknown here is closed as well: elements further on may have found it
    /// again after a restart.
    async fn close(&self, cx: &Cx, request: Request, _: Next<'_>) -> Result<()> {
        let id = request.connection.id.clone();
        let (answer, answered) = oneshot::channel();
        self.send(&id, Event::Close(Box::new(Asked { cx: cx.clone(), request, answer })))?;
        // Closed meanwhile, by another call or because it expired: as was asked.
        answered.await.unwrap_or(Ok(()))
    }
}

#[cfg(test)]
mod tests;

//! The session, upstream's `begin`: one task per connection, one event at a time.
//!
//! Requests, Closes, refreshes and the end of a connection's life are messages to its task, so
//! they never overlap; what elements remember of the connection lives there and goes with it.
//!
//! # Cancel safety
//!
//! A dropped call does not cancel what it asked for: the task goes on to its own end, and what it
//! made is there for the next Request. Dropping the [`Session`] ends the tasks and closes nothing: no
//! connection ends because a process does.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::{
    sync::{
        mpsc::{self, error::TrySendError},
        oneshot,
    },
    time::Instant,
};
use tokio_util::task::AbortOnDropHandle;
use tracing::{Instrument, Span, debug, info, info_span, warn};

use super::{Chain, Clock, Cx, Element, Error, Kind, Memory, Next, Reply, Request, Result};
use crate::api::{Counter, connection::State, connectioncontext::ConnectionContext, peer::Files};

/// Events of one connection that may wait; more callers than that are refused.
const QUEUE: usize = 16;

/// Most connections of one process: far above those of a node.
const MAX_CONNECTIONS: usize = 16_384;

/// Pauses between tries to refresh.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(3));

/// How long an endpoint may be unknown before another one is asked for: longer than endpoints need
/// to register again after a restart of the registry. Until then the old one may still carry packets.
const RESELECT_AFTER: Duration = Duration::from_secs(15);

/// What the session does by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Closes a connection whose caller's token ended (protocol §4.3, `timeout`).
    Expire,
    /// Repeats the Request in time, each try with this limit (protocol §4.3, `refresh`).
    Refresh(Duration),
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
}

struct Task {
    events: mpsc::Sender<Event>,
    _handle: AbortOnDropHandle<()>,
}

enum Event {
    Request(Cx, Request, oneshot::Sender<Result<Reply>>),
    Close(Cx, Request, oneshot::Sender<Result<()>>),
    /// Something says that the way to the endpoint is broken: ask again now.
    Heal,
}

// === impl Session ===

impl Session {
    /// A session around the rest of a chain.
    pub fn new(chain: Chain, policy: Policy, clock: Clock) -> Self {
        Self { chain, policy, clock, tasks: Arc::default(), counts: Arc::default() }
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

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Asks again for all connections now, because the way to their endpoints may be broken.
    pub fn heal(&self) {
        for task in self.tasks.lock().values() {
            // A full queue has a Request in it, which heals as well.
            let _ = task.events.try_send(Event::Heal);
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
        let worker = Worker {
            id: id.to_owned(),
            chain: self.chain.clone(),
            policy: self.policy,
            clock: self.clock.clone(),
            tasks: Arc::downgrade(&self.tasks),
            memory: Memory::default(),
            established: None,
            wanted: None,
            timer: None,
            retry: RETRY.0,
            unknown_since: None,
            counts: Begun::new(self.counts.clone()),
        };
        let span = info_span!(parent: Span::none(), "connection", connection.id = id);
        let handle = tokio::spawn(worker.run(receiver).instrument(span));
        Task { events, _handle: AbortOnDropHandle::new(handle) }
    }
}

fn gone(id: &str) -> Error {
    Error::new(Kind::Unavailable, format_args!("connection {id} was closed meanwhile"))
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
        self.send(&id, Event::Request(cx.clone(), request, answer))?;
        let late = || Error::new(Kind::Deadline, format_args!("connection {id} was not ready in time"));
        // The task goes on to its own end; the next Request finds what it made.
        tokio::time::timeout_at(cx.deadline, answered).await.map_err(|_| late())?.map_err(|_| gone(&id))?
    }

    /// A connection that is unknown here is closed as well: elements further on may have found it
    /// again after a restart.
    async fn close(&self, cx: &Cx, request: Request, _: Next<'_>) -> Result<()> {
        let id = request.connection.id.clone();
        let (answer, answered) = oneshot::channel();
        self.send(&id, Event::Close(cx.clone(), request, answer))?;
        // Closed meanwhile, by another call or because it expired: as was asked.
        answered.await.unwrap_or(Ok(()))
    }
}

/// The task of one connection.
struct Worker {
    id: String,
    chain: Chain,
    policy: Policy,
    clock: Clock,
    /// Weak, or the tasks would keep each other alive after the session.
    tasks: Weak<Mutex<HashMap<String, Task>>>,
    memory: Memory,
    /// The last Request that succeeded, with the connection as it was answered.
    established: Option<Request>,
    /// The context the caller asked with first, before an endpoint granted anything.
    wanted: Option<ConnectionContext>,
    timer: Option<Instant>,
    retry: Duration,
    /// Since when the endpoint is said not to exist.
    unknown_since: Option<Instant>,
    counts: Begun,
}

/// A task that counts its own end, however it ends.
struct Begun(Arc<SessionCounts>);

impl Begun {
    fn new(counts: Arc<SessionCounts>) -> Self {
        counts.begun.add();
        Self(counts)
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.0.ended.add();
    }
}

impl Worker {
    async fn run(mut self, mut events: mpsc::Receiver<Event>) {
        loop {
            let timer = self.timer.unwrap_or_else(|| Instant::now() + Duration::from_hours(1));
            tokio::select! {
                event = events.recv() => match event {
                    Some(event) => self.handle(event).await,
                    None => return,
                },
                () = tokio::time::sleep_until(timer), if self.timer.is_some() => self.on_timer().await,
            }
            if self.established.is_none() && self.timer.is_none() {
                let Some(tasks) = self.tasks.upgrade() else { return };
                // Who sends holds the lock: what is not queued now never will be.
                let mut tasks = tasks.lock();
                if events.is_empty() {
                    tasks.remove(&self.id);
                    return;
                }
            }
        }
    }

    async fn handle(&mut self, event: Event) {
        match event {
            Event::Request(cx, request, answer) => {
                if self.established.is_none() {
                    self.wanted.clone_from(&request.connection.context);
                }
                let reply = self.request(cx, request).await;
                let _ = answer.send(reply);
            }
            Event::Close(cx, request, answer) => {
                let closed = self.close(cx, request).await;
                let _ = answer.send(closed);
            }
            Event::Heal => {
                self.counts.0.healed.add();
                self.refresh().await;
            }
        }
    }

    async fn on_timer(&mut self) {
        match self.policy {
            Policy::Expire => {
                info!("not refreshed in time: closing");
                self.counts.0.expired.add();
                let request = self.established.clone().unwrap_or_default();
                if let Err(error) = self.close(Cx::within(Duration::from_secs(15)), request).await {
                    warn!(%error, "could not close an expired connection");
                }
            }
            Policy::Refresh(_) => self.refresh().await,
        }
    }

    async fn request(&mut self, cx: Cx, request: Request) -> Result<Reply> {
        let cx = Cx { memory: self.memory.clone(), ..cx };
        // A server keeps no open files: they would pin the network namespaces of dead pods.
        let files = match self.policy {
            Policy::Expire => Files::default(),
            Policy::Refresh(_) => request.files.clone(),
        };
        let preferences = request.preferences.clone();
        // Never dropped half way: the elements keep the deadline where they wait, and undo by themselves.
        let mut reply = self.chain.start().request(&cx, request).await?;
        reply.connection.state = State::Up.into();
        self.timer = Some(Instant::now() + self.next_event(&reply));
        self.retry = RETRY.0;
        self.established = Some(Request { connection: reply.connection.clone(), preferences, files });
        Ok(reply)
    }

    async fn close(&mut self, cx: Cx, request: Request) -> Result<()> {
        let cx = Cx { memory: self.memory.clone(), ..cx };
        let request = match self.established.take() {
            // What is known here counts; files come with the call.
            Some(known) => Request { files: request.files, ..known },
            None => request,
        };
        self.timer = None;
        let closed = self.chain.start().close(&cx, request).await;
        debug!(ok = closed.is_ok(), "closed");
        closed
    }

    async fn refresh(&mut self) {
        let (Policy::Refresh(limit), Some(request)) = (self.policy, self.established.clone()) else { return };
        let gone =
            self.unknown_since.is_some_and(|since| since.elapsed() >= RESELECT_AFTER || self.is_over());
        let request = if gone { self.reselect(request) } else { request };
        let Err(error) = self.request(Cx::within(limit), request).await else {
            self.counts.0.refreshed.add();
            if gone {
                info!("moved to another endpoint");
                self.counts.0.reselected.add();
            }
            self.unknown_since = None;
            return;
        };
        if error.kind == Kind::NotFound {
            self.unknown_since.get_or_insert_with(Instant::now);
        }
        warn!(%error, "could not refresh; trying again");
        self.counts.0.failed.add();
        self.timer = Some(Instant::now() + jitter(self.retry));
        self.retry = (self.retry * 2).min(RETRY.1);
    }

    /// Whether the life of the connection is over, everywhere: then nothing can be lost any more.
    fn is_over(&self) -> bool {
        let ends = self.established.iter().flat_map(|request| request.connection.segments());
        ends.filter_map(|segment| segment.expires).all(|end| self.clock.until(end.seconds).is_zero())
    }

    /// The same Request for any endpoint. What the old one granted is not sent to the next.
    fn reselect(&self, mut request: Request) -> Request {
        let connection = &mut request.connection;
        connection.network_service_endpoint_name.clear();
        connection.context.clone_from(&self.wanted);
        connection.state = State::ReselectRequested.into();
        request
    }

    /// Time to the end of the connection's life, or to its next refresh.
    fn next_event(&self, reply: &Reply) -> Duration {
        let until = |segment: &crate::api::PathSegment| {
            segment.expires.map_or(Duration::ZERO, |expires| self.clock.until(expires.seconds))
        };
        match self.policy {
            Policy::Expire => reply.connection.segment(-1).map_or(Duration::ZERO, until),
            Policy::Refresh(_) => {
                let segments = reply.connection.segments();
                let life = segments.iter().map(until).min().unwrap_or_default();
                // With the index 0 of a client upstream's formula gives one fifth.
                jitter(if segments.len() <= 1 { life / 3 } else { life / 5 })
            }
        }
    }
}

/// Up to a tenth less: connections that began together shall not refresh together.
fn jitter(duration: Duration) -> Duration {
    let [byte, ..] = *uuid::Uuid::new_v4().as_bytes();
    duration.saturating_sub(duration * u32::from(byte) / 2560)
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;

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
        oneshot, watch,
    },
    time::Instant,
};
use tokio_util::task::AbortOnDropHandle;
use tracing::{Instrument, Span, debug, info, info_span, warn};

use super::{
    Backoff, Chain, Clock, Cx, Element, Error, Kind, Memory, Next, Reply, Request, Result, jitter,
    merge::merge,
};
use crate::api::{Connection, Counter, connection::State, connectioncontext::ConnectionContext, peer::Files};

/// Events of one connection that may wait; more callers than that are refused.
const QUEUE: usize = 16;

/// Most connections of one process: far above those of a node.
const MAX_CONNECTIONS: usize = 16_384;

/// Pauses between tries to refresh.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(3));

/// Shortest time from an answer to the refresh that follows it, whatever the lives on the path say.
const REFRESH_AFTER: Duration = Duration::from_secs(1);

/// How long an endpoint may be unknown before another one is asked for: longer than endpoints need
/// to register again after a restart of the registry. Until then the old one may still carry packets.
const RESELECT_AFTER: Duration = Duration::from_secs(15);

/// The same for an endpoint whose own process does not answer: long enough for one that is just
/// started anew.
const MOVE_AFTER: Duration = Duration::from_secs(1);

/// Most of a life that a connection is closed before its end, as a part of it.
const CLOSED_BEFORE: u32 = 4;
/// Longest time a Request for another endpoint waits for the end of what is known.
const END_FIRST: Duration = Duration::from_millis(500);

/// What is told of a connection within this time after an answer may be told of what it was before.
const SETTLED_AFTER: Duration = Duration::from_millis(500);

/// How often a connection that should have expired, but may not, is looked at.
const HELD_FOR: Duration = Duration::from_secs(5);

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
}

struct Task {
    events: mpsc::Sender<Event>,
    _handle: AbortOnDropHandle<()>,
}

enum Event {
    Request(Cx, Request, oneshot::Sender<Result<Reply>>),
    Close(Cx, Request, oneshot::Sender<Result<()>>),
    /// Something says that the connection needs to be asked for again.
    Heal {
        anew: bool,
        told: Instant,
    },
    /// This process has a reason of its own to close the connection.
    End,
}

// === impl Session ===

impl Session {
    /// A session around the rest of a chain.
    pub fn new(chain: Chain, policy: Policy, clock: Clock) -> Self {
        Self { chain, policy, clock, tasks: Arc::default(), counts: Arc::default(), suspended: None }
    }

    /// The same, but no connection's life is over before the moment that is told here.
    #[must_use]
    pub fn suspended_by(self, suspended: Suspended) -> Self {
        Self { suspended: Some(suspended), ..self }
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

    /// Asks again for all connections now: the way to their endpoints may be broken, or a process on
    /// it wants to be asked (`REFRESH_REQUESTED`).
    pub fn heal(&self) {
        self.tell(false);
    }

    /// Asks for all connections anew now, at any endpoint: they were closed on the way.
    pub fn reselect(&self) {
        self.tell(true);
    }

    fn tell(&self, anew: bool) {
        for task in self.tasks.lock().values() {
            // A full queue has a Request in it, which heals as well.
            let _ = task.events.try_send(Event::Heal { anew, told: Instant::now() });
        }
    }

    /// Closes a connection for a reason of this process's own. Nothing happens when many calls of it
    /// wait already: a later try may find it less busy.
    pub fn end(&self, id: &str) {
        if let Some(task) = self.tasks.lock().get(id) {
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
        let worker = Worker {
            id: id.to_owned(),
            chain: self.chain.clone(),
            policy: self.policy,
            clock: self.clock.clone(),
            tasks: Arc::downgrade(&self.tasks),
            memory: Memory::default(),
            established: None,
            answered: None,
            returned: None,
            wanted: None,
            timer: None,
            retry: Backoff::new(RETRY.0, RETRY.1),
            unknown_since: None,
            dead_since: None,
            anew: false,
            counts: Begun::new(self.counts.clone()),
            suspended: self.suspended.clone(),
            held: false,
        };
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
        self.send(&id, Event::Request(cx.clone(), request, answer))?;
        // The task goes on to its own end; the next Request finds what it made.
        tokio::time::timeout_at(cx.deadline, answered).await.map_err(|_| late(&id))?.map_err(|_| gone(&id))?
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
    /// When it did.
    answered: Option<Instant>,
    /// What the caller was answered last.
    returned: Option<Connection>,
    /// The context the caller asked with first, before an endpoint granted anything.
    wanted: Option<ConnectionContext>,
    /// A boot time.
    timer: Option<Instant>,
    retry: Backoff,
    /// Since when the endpoint is said not to exist.
    unknown_since: Option<Instant>,
    /// Since when the endpoint's process does not answer.
    dead_since: Option<Instant>,
    /// Whether the connection is closed further on, and any endpoint will do.
    anew: bool,
    counts: Begun,
    suspended: Option<Suspended>,
    /// Whether it should have expired already.
    held: bool,
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
            tokio::select! {
                event = events.recv() => match event {
                    Some(event) => self.handle(event).await,
                    None => return,
                },
                () = self.wait() => self.on_timer().await,
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

    /// Waits for the timer. A refresh is due as soon as the machine wakes; who expires has to wait for those
    /// who refresh.
    async fn wait(&self) {
        match (self.timer, self.policy) {
            (None, _) => std::future::pending().await,
            (Some(timer), Policy::Refresh(_)) => self.clock.wait_until(timer).await,
            (Some(timer), Policy::Expire) => self.clock.wait_for_end(timer).await,
        }
    }

    async fn handle(&mut self, event: Event) {
        match event {
            // It waited too long: its caller was told so, and nothing is known to be wrong.
            Event::Request(cx, _, answer) if cx.left().is_zero() => {
                let _ = answer.send(Err(late(&self.id)));
            }
            Event::Request(cx, request, answer) => {
                let reply = self.called(cx, request).await;
                let _ = answer.send(reply);
            }
            Event::Close(cx, request, answer) => {
                // However long it waited: it is tried but once.
                let closed = self.close(cx.undo(), request).await;
                let _ = answer.send(closed);
            }
            Event::Heal { anew, told } => {
                self.counts.0.healed.add();
                self.heal(anew, told).await;
            }
            Event::End => self.end().await,
        }
    }

    /// Closes what is established, for nobody.
    async fn end(&mut self) {
        let Some(request) = self.established.clone() else { return };
        if let Err(error) = self.close(Cx::within(Duration::from_secs(15)), request).await {
            warn!(%error, "could not close the connection");
        }
    }

    /// A Request of the caller.
    async fn called(&mut self, cx: Cx, mut request: Request) -> Result<Reply> {
        match (self.policy, &self.established, &self.returned) {
            (_, None, _) => self.wanted.clone_from(&request.connection.context),
            (Policy::Refresh(_), Some(known), Some(returned)) => {
                request.connection = merge(returned, &request.connection, &known.connection);
            }
            (Policy::Expire, Some(_), _) if request.connection.state() == State::ReselectRequested => {
                self.end_before_reselect(&cx, &request).await;
            }
            _ => {}
        }
        let reply = self.request(cx, request).await;
        if let (Ok(reply), Policy::Refresh(_)) = (&reply, self.policy) {
            self.returned = Some(reply.connection.clone());
        }
        reply
    }

    /// The caller wants another endpoint, forwarder and mechanism: what is known here ends first.
    /// A dead process further on shall not use up the time of what comes next.
    async fn end_before_reselect(&mut self, cx: &Cx, request: &Request) {
        let undo = cx.undo();
        let cx = Cx { deadline: Instant::now() + END_FIRST.min(cx.left() / 2), ..undo };
        let files = Request { files: request.files.clone(), ..Request::default() };
        if let Err(error) = self.close(cx, files).await {
            warn!(%error, "could not close before another endpoint is asked");
        }
    }

    /// What was told before the last answer is over with it.
    async fn heal(&mut self, anew: bool, told: Instant) {
        let Some(answered) = self.answered else { return };
        if told <= answered {
            return;
        }
        // A close that was told this early may be that of the connection before.
        self.anew |= anew && told > answered + SETTLED_AFTER;
        self.refresh().await;
    }

    async fn on_timer(&mut self) {
        match self.policy {
            Policy::Expire => {
                if let Some(until) = self.suspended_until() {
                    self.hold(until);
                    return;
                }
                info!("not refreshed in time: closing");
                self.counts.0.expired.add();
                self.end().await;
            }
            Policy::Refresh(_) => self.refresh().await,
        }
    }

    /// When lives count again, if they do not now.
    fn suspended_until(&self) -> Option<Instant> {
        let until = *self.suspended.as_ref()?.borrow();
        until.filter(|until| *until > Instant::now())
    }

    fn hold(&mut self, until: Instant) {
        if !std::mem::replace(&mut self.held, true) {
            info!("not refreshed in time, but nobody can: the identity source does not issue; it stays");
        }
        // The end may be told before.
        let left = until.saturating_duration_since(Instant::now());
        self.timer = Some(self.clock.after(left.min(HELD_FOR)));
    }

    async fn request(&mut self, cx: Cx, request: Request) -> Result<Reply> {
        let cx = Cx { memory: self.memory.clone(), ..cx };
        // A server keeps no open files: they would pin the network namespaces of dead pods.
        let files = match self.policy {
            Policy::Expire => Files::default(),
            Policy::Refresh(_) => request.files.clone(),
        };
        let preferences = request.preferences.clone();
        let limit = cx.left();
        // Never dropped half way: the elements keep the deadline where they wait, and undo by themselves.
        let mut reply = self.chain.start().request(&cx, request).await?;
        reply.connection.state = State::Up.into();
        self.timer = Some(self.clock.after(self.next_event(&reply, limit)));
        self.answered = Some(Instant::now());
        (self.dead_since, self.held) = (None, false);
        self.retry.reset();
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
        self.answered = None;
        let closed = self.chain.start().close(&cx, request).await;
        debug!(ok = closed.is_ok(), "closed");
        closed
    }

    async fn refresh(&mut self) {
        let (Policy::Refresh(limit), Some(request)) = (self.policy, self.established.clone()) else { return };
        let gone =
            self.unknown_since.is_some_and(|since| since.elapsed() >= RESELECT_AFTER || self.is_over());
        let anew = gone || self.anew;
        let asked = if anew { self.reselect(request.clone()) } else { request.clone() };
        let error = match self.request(Cx::within(limit), asked).await {
            Ok(reply) => {
                self.counts.0.refreshed.add();
                if anew {
                    let endpoint = &reply.connection.network_service_endpoint_name;
                    info!(%endpoint, "connected anew");
                    self.counts.0.reselected.add();
                }
                (self.unknown_since, self.anew) = (None, false);
                return;
            }
            Err(error) => error,
        };
        if error.kind == Kind::NotFound {
            self.unknown_since.get_or_insert_with(Instant::now);
        }
        if error.kind == Kind::Gone && self.move_elsewhere(request, limit).await {
            return;
        }
        warn!(%error, "could not refresh; trying again");
        self.counts.0.failed.add();
        self.timer = Some(self.clock.after(self.retry.pause()));
    }

    /// Asks for any endpoint when the old one's process is dead for some time. Nothing is ended before
    /// another one has answered: there may be none, and the old one's packets may still pass.
    async fn move_elsewhere(&mut self, request: Request, limit: Duration) -> bool {
        let since = *self.dead_since.get_or_insert_with(Instant::now);
        if since.elapsed() < MOVE_AFTER {
            return false;
        }
        let moved = Connection { state: State::Up.into(), ..self.reselect(request.clone()).connection };
        let mechanism = request.connection.mechanism.clone();
        let moved = Request { connection: Connection { mechanism, ..moved }, ..request };
        match self.request(Cx::within(limit), moved).await {
            Ok(reply) => {
                info!(endpoint = %reply.connection.network_service_endpoint_name, "moved to another endpoint");
                self.counts.0.reselected.add();
                true
            }
            Err(error) => {
                debug!(%error, "no other endpoint");
                false
            }
        }
    }

    /// Whether the life of the connection is over, everywhere: then nothing can be lost any more.
    fn is_over(&self) -> bool {
        if self.suspended_until().is_some() {
            return false;
        }
        let ends = self.established.iter().flat_map(|request| request.connection.segments());
        ends.filter_map(|segment| segment.expires).all(|end| self.clock.until(end.seconds).is_zero())
    }

    /// The same Request for any endpoint, by any mechanism. What the old one granted is not sent to
    /// the next; the path is, so that each process finds what it has to end.
    fn reselect(&self, mut request: Request) -> Request {
        let connection = &mut request.connection;
        connection.network_service_endpoint_name.clear();
        connection.mechanism = None;
        connection.context.clone_from(&self.wanted);
        connection.state = State::ReselectRequested.into();
        request
    }

    /// Time to the Close that the end of the connection's life needs, which may take as long as the
    /// Request, or to the next refresh.
    fn next_event(&self, reply: &Reply, limit: Duration) -> Duration {
        let until = |segment: &crate::api::PathSegment| {
            segment.expires.map_or(Duration::ZERO, |expires| self.clock.until(expires.seconds))
        };
        match self.policy {
            Policy::Expire => {
                let life = reply.connection.segment(-1).map_or(Duration::ZERO, until);
                life.saturating_sub(limit.min(life / CLOSED_BEFORE))
            }
            Policy::Refresh(_) => {
                let segments = reply.connection.segments();
                let life = segments.iter().map(until).min().unwrap_or_default();
                let count = u32::try_from(segments.len()).unwrap_or(u32::MAX);
                let index = reply.connection.path.as_ref().map_or(0, |path| path.index);
                let after = jitter(if count <= 1 { life / 3 } else { life / 5 + life * index / count / 5 });
                after.max(REFRESH_AFTER)
            }
        }
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;

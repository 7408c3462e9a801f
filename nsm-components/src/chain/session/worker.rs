//! The task of one connection.

mod refresh;

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{sync::mpsc, time::Instant};
use tracing::{debug, info, warn};

use super::{Asked, Cure, Event, Policy, Session, SessionCounts, Suspended, Task, late};
use crate::{
    api::{
        Connection, Mechanism, connection::State, connectioncontext::ConnectionContext, packed::Packed,
        peer::Files,
    },
    chain::{Backoff, Chain, Clock, Cx, Memory, Reply, Request, Result, merge::merge},
};

/// Pauses between tries to refresh.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(3));

/// Longest time a Request for another endpoint waits for the end of what is known.
const END_FIRST: Duration = Duration::from_millis(500);

/// What is told of a connection within this time after an answer may be told of what it was before.
pub(super) const SETTLED_AFTER: Duration = Duration::from_millis(500);

/// How often a connection that should have expired, but may not, is looked at.
const HELD_FOR: Duration = Duration::from_secs(5);

/// The task of one connection.
pub(super) struct Worker {
    id: String,
    chain: Chain,
    policy: Policy,
    clock: Clock,
    /// Weak, or the tasks would keep each other alive after the session.
    tasks: Weak<Mutex<HashMap<String, Task>>>,
    memory: Memory,
    /// The last Request that succeeded, with the connection as it was answered.
    established: Option<Established>,
    /// When it did.
    answered: Option<Instant>,
    /// What the caller was answered last.
    returned: Option<Packed<Connection>>,
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
    packets: Packets,
    /// Shortest life on the path when it was answered.
    life: Duration,
    passes_on: bool,
    counts: Begun,
    suspended: Option<Suspended>,
    /// Whether it should have expired already.
    held: bool,
}

/// What succeeded, at rest.
struct Established {
    connection: Packed<Connection>,
    preferences: Vec<Packed<Mechanism>>,
    files: Files,
}

/// What is said of the connection's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Packets {
    /// Nothing, or that they pass.
    Pass,
    /// They do not.
    Stuck,
    /// They do not, and another endpoint is to be asked.
    Lost,
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

impl Established {
    fn request(&self) -> Request {
        Request {
            connection: self.connection.unpack(),
            preferences: self.preferences.iter().map(Packed::unpack).collect(),
            files: self.files.clone(),
        }
    }
}

impl Worker {
    /// A task of this session for the connection of this id.
    pub(super) fn new(session: &Session, id: &str) -> Self {
        Self {
            id: id.to_owned(),
            chain: session.chain.clone(),
            policy: session.policy,
            clock: session.clock.clone(),
            tasks: Arc::downgrade(&session.tasks),
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
            packets: Packets::Pass,
            life: Duration::ZERO,
            passes_on: session.passes_on,
            counts: Begun::new(session.counts.clone()),
            suspended: session.suspended.clone(),
            held: false,
        }
    }

    pub(super) async fn run(mut self, mut events: mpsc::Receiver<Event>) {
        loop {
            tokio::select! {
                event = events.recv() => match event {
                    // Boxed, so that a connection at rest holds no room for what happens to it.
                    Some(event) => Box::pin(self.handle(event)).await,
                    None => return,
                },
                () = self.wait() => Box::pin(self.on_timer()).await,
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
            Event::Request(asked) if asked.cx.left().is_zero() => {
                let _ = asked.answer.send(Err(late(&self.id)));
            }
            Event::Request(asked) => {
                let Asked { cx, request, answer } = *asked;
                let reply = self.called(cx, request).await;
                let _ = answer.send(reply);
            }
            Event::Close(asked) => {
                let Asked { cx, request, answer } = *asked;
                // However long it waited: it is tried but once.
                let closed = self.close(cx.undo(), request).await;
                let _ = answer.send(closed);
            }
            Event::Heal { cure, told } => self.heal(cure, told).await,
            Event::End => self.end().await,
        }
    }

    /// Closes what is established, for nobody.
    async fn end(&mut self) {
        let Some(request) = self.established.as_ref().map(Established::request) else { return };
        if let Err(error) = self.close(Cx::within(Duration::from_secs(15)), request).await {
            warn!(%error, "could not close the connection");
        }
    }

    /// A Request of the caller.
    async fn called(&mut self, cx: Cx, mut request: Request) -> Result<Reply> {
        match (self.policy, &self.established, &self.returned) {
            (_, None, _) => self.wanted.clone_from(&request.connection.context),
            (Policy::Refresh(_), Some(known), Some(returned)) => {
                request.connection =
                    merge(&returned.unpack(), &request.connection, &known.connection.unpack());
            }
            (Policy::Expire, Some(_), _)
                if !self.passes_on && request.connection.state() == State::ReselectRequested =>
            {
                self.end_before_reselect(&cx, &request).await;
            }
            _ => {}
        }
        let reply = self.request(cx, request).await;
        if let (Ok(reply), Policy::Refresh(_)) = (&reply, self.policy) {
            self.returned = Some(Packed::of(&reply.connection));
        }
        reply
    }

    /// The caller comes anew: what this endpoint has ends first.
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
    async fn heal(&mut self, cure: Cure, told: Instant) {
        let Some(answered) = self.answered else { return };
        if told <= answered {
            return;
        }
        match cure {
            Cure::Ask => {}
            // A close that was told this early may be that of the connection before. What could not be refreshed
            // for long has expired on the way: nobody decided against it, and its addresses are still in use.
            Cure::AskAnew => self.anew |= told > answered + SETTLED_AFTER && !self.is_neglected(),
            Cure::Repair if self.packets == Packets::Lost => {}
            Cure::Repair => self.packets = Packets::Stuck,
            Cure::Leave => self.packets = Packets::Lost,
            Cure::Stay if self.packets == Packets::Pass => return,
            Cure::Stay => self.packets = Packets::Pass,
        }
        self.counts.0.healed.add();
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
        let preferences = request.preferences.iter().map(Packed::of).collect();
        let limit = cx.left();
        // Never dropped half way: the elements keep the deadline where they wait, and undo by themselves.
        let mut reply = self.chain.start().request(&cx, request).await?;
        reply.connection.state = State::Up.into();
        self.timer = Some(self.clock.after(self.next_event(&reply, limit)));
        self.answered = Some(Instant::now());
        self.life = self.shortest_life(&reply.connection);
        (self.dead_since, self.held) = (None, false);
        self.packets = Packets::Pass;
        self.retry.reset();
        let connection = Packed::of(&reply.connection);
        self.established = Some(Established { connection, preferences, files });
        Ok(reply)
    }

    async fn close(&mut self, cx: Cx, request: Request) -> Result<()> {
        let cx = Cx { memory: self.memory.clone(), ..cx };
        let request = match self.established.take() {
            // What is known here counts; files come with the call.
            Some(known) => Request { files: request.files, ..known.request() },
            None => request,
        };
        self.timer = None;
        self.answered = None;
        let closed = self.chain.start().close(&cx, request).await;
        debug!(ok = closed.is_ok(), "closed");
        closed
    }
}

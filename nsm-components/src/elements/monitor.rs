//! `monitor`: tells whoever asks which connections there are and how they change (protocol §4.3).
//!
//! A caller sees the connections it is part of, and no tokens: upstream shows everything to
//! everybody. What the processes further along the path say of a connection is passed on.

mod below;
mod past;
mod subscribers;

use std::{collections::HashMap, sync::Arc, time::SystemTime};

use async_trait::async_trait;
use futures::{Stream, StreamExt};
use parking_lot::Mutex;
use tonic::Status;

use self::{
    below::Below,
    past::{Asked, Before, Closed},
    subscribers::{Subscribers, Told},
};
pub use self::{
    below::{PeerEvents, Peers, PeersByGrpc},
    past::{Healed, Past},
};
use crate::{
    api::{
        Connection,
        connection::{ConnectionEvent, ConnectionEventType, MonitorScopeSelector, State},
    },
    chain::{Cx, Element, Next, Reply, Request, Result},
};

/// A change of one connection, for this process's own use.
#[derive(Clone, Debug)]
pub struct MonitorEvent {
    /// As it is now, or last was.
    pub connection: Arc<Connection>,
    /// Whether it is closed.
    pub closed: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Monitor {
    state: Arc<Mutex<Known>>,
    below: Option<Below>,
}

#[derive(Debug, Default)]
struct Known {
    connections: HashMap<String, Shown>,
    closed: Closed,
    subscribers: Subscribers,
}

/// A connection as it is shown.
#[derive(Clone, Debug)]
struct Shown {
    told: Told,
    /// Why it is not up.
    error: Option<String>,
    /// Whether the next process said so: then it may take it back.
    by_next: bool,
    past: Past,
}

/// A connection as this process knows it, for those who look after the node.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Without tokens.
    pub connection: Arc<Connection>,
    /// Why it is not up, if it is not.
    pub error: Option<String>,
    /// What became of it.
    pub past: Past,
}

// === impl Shown ===

impl Shown {
    fn new(told: Told, past: Past) -> Self {
        Self { told, error: None, by_next: false, past }
    }

    fn before(&self) -> Before<'_> {
        let Self { told, error, past, .. } = self;
        Before { connection: &told.connection, error: error.as_deref(), past }
    }

    fn is_down(&self) -> bool {
        self.told.connection.state() == State::Down
    }

    /// The same, down; nothing when it is down already.
    fn down(&self, error: &str, by_next: bool) -> Option<Self> {
        if self.is_down() {
            return None;
        }
        let connection = Connection { state: State::Down.into(), ..(*self.told.connection).clone() };
        let past = self.past.changed(SystemTime::now());
        Some(Self { told: self.told.with(connection), error: Some(error.to_owned()), by_next, past })
    }

    /// The same, to be asked for again; nothing when it is not up, or was asked for since.
    fn ask_again(&self, why: &str, since: SystemTime) -> Option<Self> {
        if self.told.connection.state() != State::Up || self.past.refreshed >= since {
            return None;
        }
        let state = State::RefreshRequested.into();
        let connection = Connection { state, ..(*self.told.connection).clone() };
        let past = self.past.changed(SystemTime::now());
        Some(Self { told: self.told.with(connection), error: Some(why.to_owned()), by_next: false, past })
    }

    /// The same after the next process spoke of it; nothing when that changes nothing.
    fn said(&self, said: &Connection) -> Option<Self> {
        let known = &self.told.connection;
        let endpoint = &said.network_service_endpoint_name;
        if !endpoint.is_empty() && *endpoint != known.network_service_endpoint_name {
            // Of the time before the connection moved.
            return None;
        }
        if said.state() == State::Down {
            let next = known.segment(1).map_or("the next process", |segment| &segment.name);
            return self.down(&format!("{next} says that the connection is down"), true);
        }
        let is_same = known.state == said.state && known.context == said.context;
        if is_same || (known.state() != State::Up && !self.by_next) {
            return None;
        }
        let mut connection = (**known).clone();
        connection.state = said.state;
        connection.context.clone_from(&said.context);
        let past =
            if known.state == said.state { self.past.clone() } else { self.past.changed(SystemTime::now()) };
        let by_next = said.state() != State::Up;
        Some(Self { told: self.told.with(connection), error: None, by_next, past })
    }
}

// === impl Known ===

impl Known {
    /// A Request was answered.
    fn answered(&mut self, told: Told, asked: Asked) {
        let (id, now) = (&told.connection.id, SystemTime::now());
        let closed = self.closed.take(id, now);
        let before = self.connections.get(id).map(Shown::before);
        let past = Past::answered(before, closed, asked, &told.connection, now);
        self.publish(ConnectionEventType::Update, Shown::new(told, past));
    }

    /// It is closed.
    fn closed(&mut self, told: Told) {
        let (id, now) = (&told.connection.id, SystemTime::now());
        let known = self.connections.get(id);
        let past = known.map_or_else(|| Past::new(now), |known| known.past.clone());
        if let Some(known) = known {
            self.closed.remember(id, &past, known.error.clone(), now);
        }
        self.publish(ConnectionEventType::Delete, Shown::new(told, past));
    }

    fn publish(&mut self, kind: ConnectionEventType, shown: Shown) {
        self.subscribers.tell(kind, &shown.told);
        let id = &shown.told.connection.id;
        match kind {
            ConnectionEventType::Delete => self.connections.remove(id),
            _ => self.connections.insert(id.clone(), shown),
        };
    }
}

// === impl Monitor ===

impl Monitor {
    /// A monitor of a process that calls others: it passes on what they say.
    pub fn of_path(name: &str, peers: impl Peers) -> Self {
        Self { below: Some(Below::new(name, peers)), ..Self::default() }
    }

    /// Everything `peer` may see of what `selector` names: first one event with what there is, even
    /// if that is nothing, then the changes.
    ///
    /// # Errors
    ///
    /// `ResourceExhausted`: the peer, or all together, have as many streams as there may be.
    pub fn subscribe(
        &self,
        selector: MonitorScopeSelector,
        peer: &str,
    ) -> std::result::Result<
        impl Stream<Item = std::result::Result<ConnectionEvent, Status>> + Send + use<>,
        Status,
    > {
        let events = self.add(selector, Some(peer.to_owned()))?.map(|(kind, all)| {
            let shown = |told: &Told| (told.connection.id.clone(), (*told.connection).clone());
            Ok(ConnectionEvent { r#type: kind.into(), connections: all.iter().map(shown).collect() })
        });
        let cut = Status::resource_exhausted("too slow, or the process stops: ask again");
        Ok(events.chain(futures::stream::once(async { Err(cut) })))
    }

    /// All connections and their changes, for this process itself.
    pub fn watch(&self) -> impl Stream<Item = MonitorEvent> + Send + use<> {
        // Only streams of peers are limited.
        let events = self.add(MonitorScopeSelector::default(), None).ok();
        futures::stream::iter(events).flatten().flat_map(|(kind, all)| {
            let closed = kind == ConnectionEventType::Delete;
            let event = move |told: Told| MonitorEvent { connection: told.connection, closed };
            futures::stream::iter(all.into_iter().map(event))
        })
    }

    /// All connections as they are now, each with the error its last Request met, if it met one.
    pub fn connections(&self) -> Vec<(Arc<Connection>, Option<String>)> {
        let state = self.state.lock();
        let all = state.connections.values();
        all.map(|shown| (shown.told.connection.clone(), shown.error.clone())).collect()
    }

    /// The ids under which this process asked here for the connections that it has.
    pub(super) fn ids_before(&self, peer: &str) -> Vec<String> {
        let state = self.state.lock();
        let own = state.connections.values().filter(|shown| shown.told.is_asked_by(peer));
        own.filter_map(|shown| Some(shown.told.connection.segment(-1)?.id.clone())).collect()
    }

    /// The same with what became of each.
    pub fn seen(&self) -> Vec<Seen> {
        let all: Vec<_> = self.state.lock().connections.values().cloned().collect();
        let seen = |Shown { told, error, past, .. }: Shown| Seen { connection: told.connection, error, past };
        all.into_iter().map(seen).collect()
    }

    /// How many connections there are, and how many subscribers.
    pub fn size(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.connections.len(), state.subscribers.len().0)
    }

    /// A connection that was up and is not any more: told once, and no more until it is up again.
    fn down(&self, id: &str, error: &str, by_next: bool) {
        self.update(id, |shown| shown.down(error, by_next));
    }

    /// What the next process says of a connection that goes through both (protocol §4.3): its state
    /// and its context count, and nothing else. One that this process found to be down by itself
    /// stays so.
    fn said(&self, id: &str, connection: &Connection) {
        self.update(id, |shown| shown.said(connection));
    }

    /// A connection that its client shall ask for again, unless it has done so since then; answers whether it
    /// is told.
    pub fn ask_again(&self, id: &str, why: &str, since: SystemTime) -> bool {
        self.update(id, |shown| shown.ask_again(why, since))
    }

    /// Publishes what becomes of a connection that is known, before anything else can become of it; answers
    /// whether something does.
    fn update(&self, id: &str, change: impl FnOnce(&Shown) -> Option<Shown>) -> bool {
        let mut state = self.state.lock();
        let changed = state.connections.get(id).and_then(change);
        changed.map(|shown| state.publish(ConnectionEventType::Update, shown)).is_some()
    }

    fn add(
        &self,
        selector: MonitorScopeSelector,
        peer: Option<String>,
    ) -> std::result::Result<subscribers::Events, Status> {
        let mut state = self.state.lock();
        let Known { connections, subscribers, .. } = &mut *state;
        subscribers.add(selector, peer, connections.values().map(|shown| &shown.told), &self.state)
    }

    /// Publishes a connection whose Request was just answered.
    fn answered(&self, connection: Connection, asked: Asked) {
        // The tokens are read before the lock is taken.
        let told = Told::new(connection);
        self.state.lock().answered(told, asked);
    }

    /// The same of one that is closed.
    fn closed(&self, connection: Connection) {
        let told = Told::new(connection);
        self.state.lock().closed(told);
    }
}

#[async_trait]
impl Element for Arc<Monitor> {
    fn name(&self) -> &'static str {
        "monitor"
    }

    async fn request(&self, cx: &Cx, request: Request, next: Next<'_>) -> Result<Reply> {
        let (id, asked) = (request.connection.id.clone(), Asked::new(&request.connection));
        match next.request(cx, request).await {
            Ok(reply) => {
                self.answered(reply.connection.clone(), asked);
                if let Some(below) = &self.below {
                    let address =
                        cx.memory.with(|memory| memory.next.as_ref().map(|next| next.address.clone()));
                    below.follow(self, &id, address);
                }
                Ok(reply)
            }
            Err(error) => {
                self.down(&id, &error.message, false);
                Err(error)
            }
        }
    }

    async fn close(&self, cx: &Cx, request: Request, next: Next<'_>) -> Result<()> {
        let connection = request.connection.clone();
        self.below.as_ref().inspect(|below| below.forget(&connection.id));
        let closed = next.close(cx, request).await;
        self.closed(connection);
        closed
    }
}

#[cfg(test)]
mod tests;

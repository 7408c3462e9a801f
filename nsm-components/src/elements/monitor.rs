//! `monitor`: tells whoever asks which connections there are and how they change (protocol §4.3).
//!
//! A caller sees the connections it is part of, and no tokens: upstream shows everything to
//! everybody. What the processes further along the path say of a connection is passed on.

mod below;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use async_trait::async_trait;
use futures::{Stream, StreamExt};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use self::below::Below;
pub use self::below::{PeerEvents, Peers, PeersByGrpc};
use crate::{
    api::{
        Connection,
        connection::{ConnectionEvent, ConnectionEventType, MonitorScopeSelector, State},
    },
    chain::{Cx, Element, Next, Reply, Request, Result},
    transport::token,
};

/// Events a subscriber may be behind; a slower one is cut off and asks anew.
const QUEUE: usize = 256;

/// A change of one connection, for this process's own use.
#[derive(Clone, Debug)]
pub struct MonitorEvent {
    /// As it is now, or last was.
    pub connection: Connection,
    /// Whether it is closed.
    pub closed: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Monitor {
    state: Mutex<Known>,
    below: Option<Below>,
}

#[derive(Debug, Default)]
struct Known {
    connections: HashMap<String, Shown>,
    subscribers: Vec<Subscriber>,
}

/// A connection as it is shown.
#[derive(Clone, Debug)]
struct Shown {
    connection: Connection,
    /// Why it is not up.
    error: Option<String>,
    /// Whether the next process said so: then it may take it back.
    by_next: bool,
}

impl Shown {
    fn is_down(&self) -> bool {
        self.connection.state() == State::Down
    }
}

#[derive(Debug)]
struct Subscriber {
    selector: MonitorScopeSelector,
    /// SPIFFE ID; absent for this process itself.
    peer: Option<String>,
    events: mpsc::Sender<(ConnectionEventType, Vec<Connection>)>,
}

impl Subscriber {
    fn sees(&self, connection: &Connection) -> bool {
        self.selector.selects(connection)
            && self.peer.as_deref().is_none_or(|peer| takes_part(connection, peer))
    }
}

/// Whether `peer` is one of the processes on the path, by the tokens in it.
fn takes_part(connection: &Connection, peer: &str) -> bool {
    connection.segments().iter().any(|segment| {
        token::read(&segment.token)
            .is_ok_and(|claims| claims.sub == peer || claims.aud.iter().any(|aud| aud == peer))
    })
}

/// The connection as others may see it.
fn without_tokens(connection: &Connection) -> Connection {
    let mut connection = connection.clone();
    if let Some(path) = &mut connection.path {
        path.path_segments.iter_mut().for_each(|segment| segment.token.clear());
    }
    connection
}

// === impl Monitor ===

impl Monitor {
    /// A monitor of a process that calls others: it passes on what they say.
    pub fn of_path(name: &str, peers: impl Peers) -> Self {
        Self { below: Some(Below::new(name, peers)), ..Self::default() }
    }

    /// Everything `peer` may see of what `selector` names: first one event with what there is, even
    /// if that is nothing, then the changes.
    pub fn subscribe(
        &self,
        selector: MonitorScopeSelector,
        peer: &str,
    ) -> impl Stream<Item = std::result::Result<ConnectionEvent, Status>> + Send + use<> {
        let events = self.add(selector, Some(peer.to_owned())).map(|(kind, connections)| {
            let connections: BTreeMap<_, _> = connections
                .iter()
                .map(|connection| (connection.id.clone(), without_tokens(connection)))
                .collect();
            Ok(ConnectionEvent { r#type: kind.into(), connections })
        });
        let cut = Status::resource_exhausted("too slow, or the process stops: ask again");
        events.chain(futures::stream::once(async { Err(cut) }))
    }

    /// All connections and their changes, for this process itself.
    pub fn watch(&self) -> impl Stream<Item = MonitorEvent> + Send + use<> {
        self.add(MonitorScopeSelector::default(), None).flat_map(|(kind, connections)| {
            let closed = kind == ConnectionEventType::Delete;
            futures::stream::iter(
                connections.into_iter().map(move |connection| MonitorEvent { connection, closed }),
            )
        })
    }

    /// All connections as they are now, each with the error its last Request met, if it met one.
    pub fn connections(&self) -> Vec<(Connection, Option<String>)> {
        let state = self.state.lock();
        state.connections.values().map(|shown| (shown.connection.clone(), shown.error.clone())).collect()
    }

    /// How many connections there are, and how many subscribers that are still there.
    pub fn size(&self) -> (usize, usize) {
        let state = self.state.lock();
        let there = state.subscribers.iter().filter(|subscriber| !subscriber.events.is_closed());
        (state.connections.len(), there.count())
    }

    fn shown(&self, id: &str) -> Option<Shown> {
        self.state.lock().connections.get(id).cloned()
    }

    /// A connection that was up and is not any more: told once, and no more until it is up again.
    fn down(&self, id: &str, error: &str, by_next: bool) {
        if let Some(mut shown) = self.shown(id).filter(|shown| !shown.is_down()) {
            shown.connection.state = State::Down.into();
            self.publish(
                ConnectionEventType::Update,
                Shown { error: Some(error.to_owned()), by_next, ..shown },
            );
        }
    }

    /// What the next process says of a connection that goes through both (protocol §4.3): its state
    /// and context count, and what it knows of the path beyond itself. One that this process found
    /// to be down by itself stays so.
    fn said(&self, id: &str, connection: &Connection) {
        let Some(mut shown) = self.shown(id) else { return };
        let endpoint = &connection.network_service_endpoint_name;
        if !endpoint.is_empty() && *endpoint != shown.connection.network_service_endpoint_name {
            // Of the time before the connection moved.
            return;
        }
        if connection.state() == State::Down {
            let next = shown.connection.segment(1).map_or("the next process", |segment| &segment.name);
            let error = format!("{next} says that the connection is down");
            return self.down(id, &error, true);
        }
        if shown.is_down() && !shown.by_next {
            return;
        }
        let before = (shown.connection.state, shown.connection.context.clone());
        shown.connection.state = connection.state;
        shown.connection.context.clone_from(&connection.context);
        if before != (shown.connection.state, shown.connection.context.clone()) {
            self.publish(ConnectionEventType::Update, Shown { error: None, by_next: false, ..shown });
        }
    }

    fn add(
        &self,
        selector: MonitorScopeSelector,
        peer: Option<String>,
    ) -> ReceiverStream<(ConnectionEventType, Vec<Connection>)> {
        let (events, receiver) = mpsc::channel(QUEUE);
        let subscriber = Subscriber { selector, peer, events };
        let mut state = self.state.lock();
        let known = state.connections.values().map(|shown| &shown.connection);
        let known = known.filter(|known| subscriber.sees(known)).cloned().collect();
        // A new queue has room.
        let _ = subscriber.events.try_send((ConnectionEventType::InitialStateTransfer, known));
        state.subscribers.push(subscriber);
        ReceiverStream::new(receiver)
    }

    fn publish(&self, kind: ConnectionEventType, shown: Shown) {
        let mut state = self.state.lock();
        let Known { connections, subscribers } = &mut *state;
        let connection = &shown.connection;
        subscribers.retain(|subscriber| {
            if subscriber.sees(connection) {
                subscriber.events.try_send((kind, vec![connection.clone()])).is_ok()
            } else {
                !subscriber.events.is_closed()
            }
        });
        match kind {
            ConnectionEventType::Delete => connections.remove(&connection.id),
            _ => connections.insert(connection.id.clone(), shown),
        };
    }
}

#[async_trait]
impl Element for Arc<Monitor> {
    fn name(&self) -> &'static str {
        "monitor"
    }

    async fn request(&self, cx: &Cx, request: Request, next: Next<'_>) -> Result<Reply> {
        let id = request.connection.id.clone();
        match next.request(cx, request).await {
            Ok(reply) => {
                let connection = reply.connection.clone();
                self.publish(ConnectionEventType::Update, Shown { connection, error: None, by_next: false });
                if let Some(below) = &self.below {
                    let address = cx.memory.with(|memory| memory.next.as_ref().map(|next| next.0.clone()));
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
        self.publish(ConnectionEventType::Delete, Shown { connection, error: None, by_next: false });
        closed
    }
}

#[cfg(test)]
mod tests;

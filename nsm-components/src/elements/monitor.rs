//! `monitor`: tells whoever asks which connections there are and how they change (protocol §4.3).
//!
//! A caller sees the connections it is part of, and no tokens: upstream shows everything to
//! everybody.

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
}

#[derive(Debug, Default)]
struct Known {
    connections: HashMap<String, (Connection, Option<String>)>,
    subscribers: Vec<Subscriber>,
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
        self.state.lock().connections.values().cloned().collect()
    }

    /// A connection that was up and cannot be refreshed: told once, and no more until it is up again.
    fn down(&self, id: &str, error: &str) {
        let known = self.state.lock().connections.get(id).map(|(connection, _)| connection.clone());
        if let Some(mut connection) = known.filter(|known| known.state() != State::Down) {
            connection.state = State::Down.into();
            self.publish(ConnectionEventType::Update, &connection, Some(error.to_owned()));
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
        let known = state.connections.values().map(|(known, _)| known);
        let known = known.filter(|known| subscriber.sees(known)).cloned().collect();
        // A new queue has room.
        let _ = subscriber.events.try_send((ConnectionEventType::InitialStateTransfer, known));
        state.subscribers.push(subscriber);
        ReceiverStream::new(receiver)
    }

    fn publish(&self, kind: ConnectionEventType, connection: &Connection, error: Option<String>) {
        let mut state = self.state.lock();
        match kind {
            ConnectionEventType::Delete => state.connections.remove(&connection.id),
            _ => state.connections.insert(connection.id.clone(), (connection.clone(), error)),
        };
        state.subscribers.retain(|subscriber| {
            if subscriber.sees(connection) {
                subscriber.events.try_send((kind, vec![connection.clone()])).is_ok()
            } else {
                !subscriber.events.is_closed()
            }
        });
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
                self.publish(ConnectionEventType::Update, &reply.connection, None);
                Ok(reply)
            }
            Err(error) => {
                self.down(&id, &error.message);
                Err(error)
            }
        }
    }

    async fn close(&self, cx: &Cx, request: Request, next: Next<'_>) -> Result<()> {
        let connection = request.connection.clone();
        let closed = next.close(cx, request).await;
        self.publish(ConnectionEventType::Delete, &connection, None);
        closed
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::chain::Chain;

    fn request(id: &str) -> Request {
        Request { connection: Connection { id: id.into(), ..Default::default() }, ..Default::default() }
    }

    fn monitored() -> (Arc<Monitor>, Chain, Cx) {
        let monitor = Arc::new(Monitor::default());
        let chain = Chain::new([Arc::new(monitor.clone()) as Arc<dyn Element>]);
        (monitor, chain, Cx::within(Duration::from_secs(1)))
    }

    #[tokio::test]
    async fn a_new_subscriber_gets_what_there_is_and_then_every_change() {
        let (monitor, chain, cx) = monitored();
        chain.start().request(&cx, request("a")).await.unwrap();
        let mut events = Box::pin(monitor.add(MonitorScopeSelector::default(), None));
        chain.start().request(&cx, request("b")).await.unwrap();
        chain.start().close(&cx, request("a")).await.unwrap();
        let mut seen = Vec::new();
        for _ in 0..3 {
            let (kind, connections) = events.next().await.unwrap();
            seen.push((kind, connections[0].id.clone()));
        }
        let expected = [
            (ConnectionEventType::InitialStateTransfer, "a".to_owned()),
            (ConnectionEventType::Update, "b".to_owned()),
            (ConnectionEventType::Delete, "a".to_owned()),
        ];
        assert_eq!(seen, expected);
    }

    #[tokio::test]
    async fn the_first_event_comes_even_when_there_is_nothing_to_tell() {
        let (monitor, chain, cx) = monitored();
        chain.start().request(&cx, request("a")).await.unwrap();
        let mut events = Box::pin(monitor.subscribe(MonitorScopeSelector::default(), "spiffe://d/stranger"));
        let first = events.next().await.unwrap().unwrap();
        assert_eq!((first.r#type(), first.connections.len()), (ConnectionEventType::InitialStateTransfer, 0));
    }

    /// Fails every Request.
    struct Broken;

    #[async_trait]
    impl Element for Broken {
        fn name(&self) -> &'static str {
            "broken"
        }

        async fn request(&self, _: &Cx, _: Request, _: Next<'_>) -> Result<Reply> {
            Err(crate::chain::Error::new(crate::chain::Kind::Unavailable, "told to fail"))
        }
    }

    #[tokio::test]
    async fn a_connection_that_cannot_be_refreshed_is_told_to_be_down_once_and_with_its_error() {
        let (monitor, chain, cx) = monitored();
        chain.start().request(&cx, request("a")).await.unwrap();
        let mut events = Box::pin(monitor.add(MonitorScopeSelector::default(), None));
        events.next().await.unwrap();
        let broken = Chain::new([Arc::new(monitor.clone()) as Arc<dyn Element>, Arc::new(Broken)]);
        for _ in 0..2 {
            broken.start().request(&cx, request("a")).await.unwrap_err();
        }
        broken.start().request(&cx, request("unknown")).await.unwrap_err();
        let [(connection, error)] = &monitor.connections()[..] else { panic!("one connection is known") };
        assert_eq!((connection.state(), error.as_deref()), (State::Down, Some("told to fail")));
        chain.start().request(&cx, request("a")).await.unwrap();
        let states =
            [events.next().await.unwrap(), events.next().await.unwrap()].map(|(_, all)| all[0].state());
        assert_eq!(states, [State::Down, State::Up]);
    }

    #[tokio::test]
    async fn a_subscriber_that_does_not_read_is_cut_off_and_the_others_never_notice() {
        let (monitor, chain, cx) = monitored();
        let slow = monitor.subscribe(MonitorScopeSelector::default(), "x");
        let mut quick = Box::pin(monitor.watch());
        let stuck = Box::pin(monitor.add(MonitorScopeSelector::default(), None));
        for _ in 0..=QUEUE {
            chain.start().request(&cx, request("a")).await.unwrap();
            quick.next().await.unwrap();
        }
        assert_eq!(monitor.state.lock().subscribers.len(), 2);
        assert_eq!(stuck.count().await, QUEUE);
        drop(slow);
    }
}

//! Who is told of connections: so many and no more, and none that has gone.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll},
};

use futures::Stream;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tonic::Status;

use super::Known;
use crate::{
    api::{
        Connection,
        connection::{ConnectionEventType, MonitorScopeSelector},
    },
    transport::token,
};

/// Events a subscriber may be behind; a slower one is cut off and asks anew.
pub(super) const QUEUE: usize = 256;

/// Most streams of one SPIFFE ID: upstream's processes open one for each connection.
pub(super) const PER_PEER: usize = 4096;

/// Most streams of all peers together: as many as a process has connections.
pub(super) const IN_TOTAL: usize = 16_384;

/// A connection as subscribers are told of it; all of them share it.
#[derive(Clone, Debug)]
pub(super) struct Told {
    /// Without tokens: they are nobody else's, and much of what a connection holds.
    pub(super) connection: Arc<Connection>,
    /// SPIFFE IDs of the processes on the path, by the tokens that were in it, in order.
    parties: Arc<[String]>,
    /// Which of them asked this process.
    caller: Option<u8>,
}

pub(super) type Event = (ConnectionEventType, Vec<Told>);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Subscribers {
    all: HashMap<u64, Subscriber>,
    /// Streams by SPIFFE ID. One that was cut off counts until its reader is gone.
    peers: HashMap<String, usize>,
    streams: usize,
    next: u64,
}

#[derive(Debug)]
struct Subscriber {
    selector: MonitorScopeSelector,
    /// SPIFFE ID; absent for this process itself.
    peer: Option<String>,
    events: mpsc::Sender<Event>,
}

/// What one subscriber is told. Its end leaves nothing behind.
pub(super) struct Events {
    receiver: mpsc::Receiver<Event>,
    peer: Option<String>,
    number: u64,
    known: Weak<Mutex<Known>>,
}

// === impl Told ===

impl Told {
    pub(super) fn new(mut connection: Connection) -> Self {
        let (mut parties, mut caller) = (Vec::new(), None);
        let before = connection.path.as_ref().and_then(|path| path.index.checked_sub(1));
        for (index, segment) in (0..).zip(connection.path.iter_mut().flat_map(|path| &mut path.path_segments))
        {
            if let Ok(claims) = token::read(&std::mem::take(&mut segment.token)) {
                if before == Some(index) {
                    caller = Some(claims.sub.clone());
                }
                parties.push(claims.sub);
                parties.extend(claims.aud);
            }
        }
        parties.sort_unstable();
        parties.dedup();
        let place = |caller: String| u8::try_from(parties.binary_search(&caller).ok()?).ok();
        let caller = caller.and_then(place);
        Self { connection: Arc::new(connection), parties: parties.into(), caller }
    }

    /// Whether this process asked for the connection here.
    pub(super) fn is_asked_by(&self, peer: &str) -> bool {
        self.caller.is_some_and(|caller| self.parties[usize::from(caller)] == peer)
    }

    /// Whether this process is on the path.
    pub(super) fn is_of(&self, peer: &str) -> bool {
        self.parties.binary_search_by(|party| party.as_str().cmp(peer)).is_ok()
    }

    /// The same connection, on the same path, with other contents.
    pub(super) fn with(&self, connection: Connection) -> Self {
        Self { connection: Arc::new(connection), ..self.clone() }
    }
}

// === impl Subscriber ===

impl Subscriber {
    fn sees(&self, told: &Told) -> bool {
        self.peer.as_ref().is_none_or(|peer| told.is_of(peer)) && self.selector.selects(&told.connection)
    }
}

// === impl Subscribers ===

impl Subscribers {
    /// One more, told first of what it may see of `now`. Only streams of peers are limited.
    pub(super) fn add<'a>(
        &mut self,
        selector: MonitorScopeSelector,
        peer: Option<String>,
        now: impl Iterator<Item = &'a Told>,
        known: &Arc<Mutex<Known>>,
    ) -> Result<Events, Status> {
        if let Some(peer) = &peer {
            self.count(peer)?;
        }
        let (events, receiver) = mpsc::channel(QUEUE);
        let (number, known) = (self.next, Arc::downgrade(known));
        let subscriber = Subscriber { selector, peer: peer.clone(), events };
        let now = now.filter(|told| subscriber.sees(told)).cloned().collect();
        // A new queue has room.
        let _ = subscriber.events.try_send((ConnectionEventType::InitialStateTransfer, now));
        self.next += 1;
        self.all.insert(number, subscriber);
        Ok(Events { receiver, peer, number, known })
    }

    fn count(&mut self, peer: &str) -> Result<(), Status> {
        if self.streams >= IN_TOTAL {
            let message = format!(
                "{IN_TOTAL} monitor streams are open here, the most of all processes: ask again later"
            );
            return Err(Status::resource_exhausted(message));
        }
        let open = self.peers.entry(peer.to_owned()).or_default();
        if *open >= PER_PEER {
            let message = format!(
                "{PER_PEER} monitor streams of {peer} are open here, the most of one process: end some first"
            );
            return Err(Status::resource_exhausted(message));
        }
        *open += 1;
        self.streams += 1;
        Ok(())
    }

    /// Tells those who see it; one whose queue is full is cut off.
    pub(super) fn tell(&mut self, kind: ConnectionEventType, told: &Told) {
        self.all.retain(|_, subscriber| {
            !subscriber.sees(told) || subscriber.events.try_send((kind, vec![told.clone()])).is_ok()
        });
    }

    fn remove(&mut self, number: u64, peer: Option<&String>) {
        self.all.remove(&number);
        let Some(peer) = peer else { return };
        self.streams -= 1;
        if let Some(open) = self.peers.get_mut(peer) {
            *open -= 1;
            if *open == 0 {
                self.peers.remove(peer);
            }
        }
    }

    /// Those that are told, and the streams of peers that count.
    pub(super) fn len(&self) -> (usize, usize) {
        debug_assert_eq!(self.streams, self.peers.values().sum::<usize>());
        (self.all.len(), self.streams)
    }
}

// === impl Events ===

impl Stream for Events {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.receiver.poll_recv(cx)
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        if let Some(known) = self.known.upgrade() {
            known.lock().subscribers.remove(self.number, self.peer.as_ref());
        }
    }
}

//! What the next processes say of the connections that go on through them: one stream a process,
//! however many connections it carries.
//!
//! A stream that ends is opened again. When that cannot be done, the process is gone and all its
//! connections are down, even those that it had no time to show; when it can, those that the process
//! knew before and does not know now are, and those that its predecessor had no time to show.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    pin::Pin,
    sync::{Arc, Weak},
    time::Duration,
};

use async_trait::async_trait;
use futures::{Stream, StreamExt};
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;
use tracing::debug;

use super::Monitor;
use crate::{
    api::{
        Connection, PathSegment,
        connection::{ConnectionEvent, ConnectionEventType, State},
        peer::Address,
    },
    chain::{Kind, Result},
    elements::watch::watch,
    transport::Channels,
};

/// How long a process may be out of reach before its connections are said to be down.
const GRACE: Duration = Duration::from_millis(300);

/// Pauses between tries to reach a process.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3));

/// Pause before a process is asked again that shows this one nothing.
const HIDDEN: Duration = Duration::from_mins(1);

/// Most connections that a process may have shown before they are followed: it shows them as it
/// answers their Requests.
const EARLY: usize = 1024;

/// Events of a process.
pub type PeerEvents = Pin<Box<dyn Stream<Item = std::result::Result<ConnectionEvent, Status>> + Send>>;

/// The monitors of other processes.
#[async_trait]
pub trait Peers: Send + Sync + 'static {
    /// The events of all connections through the process at `address` that this process, `name`,
    /// takes part in. [`Kind::Unavailable`] is a process out of reach; any other failure is one that
    /// shows nothing.
    async fn open(&self, address: &Address, name: &str) -> Result<PeerEvents>;

    /// What changes when the process at `address` is another; nothing while there is no way to it.
    fn standing(&self, address: &Address) -> Option<u64>;
}

/// The monitors of other processes, as they are in real life.
#[derive(Debug)]
pub struct PeersByGrpc {
    /// Channels to them.
    pub channels: Channels,
    /// Longest life of a token.
    pub token_life: Duration,
}

/// See the module.
pub(super) struct Below(Arc<Shared>);

struct Shared {
    name: String,
    source: Box<dyn Peers>,
    peers: Mutex<Followed>,
}

#[derive(Default)]
struct Followed {
    /// By address.
    peers: HashMap<String, Peer>,
    /// Address of each connection's next process.
    of: HashMap<String, String>,
}

struct Peer {
    /// Its connections by this process's id.
    connections: BTreeMap<String, Through>,
    /// Ids that its stream has shown and that are not followed yet.
    early: BTreeSet<String>,
    _task: AbortOnDropHandle<()>,
}

/// A connection through a process.
struct Through {
    /// When a Request of it was answered.
    since: Instant,
    /// Who answered it, as [`Peers::standing`] tells.
    by: Option<u64>,
    /// Whether the stream has shown it.
    shown: bool,
}

// === impl PeersByGrpc ===

#[async_trait]
impl Peers for PeersByGrpc {
    async fn open(&self, address: &Address, name: &str) -> Result<PeerEvents> {
        let own = PathSegment { name: name.to_owned(), ..PathSegment::default() };
        Ok(Box::pin(watch(&self.channels, address, self.token_life, own).await?))
    }

    fn standing(&self, address: &Address) -> Option<u64> {
        self.channels.standing(address)
    }
}

// === impl Below ===

impl fmt::Debug for Below {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Below").field("name", &self.0.name).finish_non_exhaustive()
    }
}

impl Below {
    pub(super) fn new(name: &str, peers: impl Peers) -> Self {
        let shared = Shared { name: name.to_owned(), source: Box::new(peers), peers: Mutex::default() };
        Self(Arc::new(shared))
    }

    /// The connection goes on to the process at `address` from now on.
    pub(super) fn follow(&self, monitor: &Arc<Monitor>, id: &str, address: Option<Address>) {
        let Some(address) = address else { return self.forget(id) };
        let key = address.to_string();
        let mut followed = self.0.peers.lock();
        if followed.of.get(id) == Some(&key) {
            return;
        }
        let by = self.0.source.standing(&address);
        followed.remove(id);
        followed.of.insert(id.to_owned(), key.clone());
        let peer = followed.peers.entry(key.clone()).or_insert_with(|| {
            let watch =
                Watch { shared: Arc::downgrade(&self.0), monitor: Arc::downgrade(monitor), address, key };
            let task = AbortOnDropHandle::new(tokio::spawn(watch.run()));
            Peer { connections: BTreeMap::new(), early: BTreeSet::new(), _task: task }
        });
        let shown = peer.early.remove(id);
        peer.connections.insert(id.to_owned(), Through { since: Instant::now(), by, shown });
    }

    /// The connection is closed.
    pub(super) fn forget(&self, id: &str) {
        self.0.peers.lock().remove(id);
    }
}

impl Followed {
    /// Takes the connection out, and its process with the last one.
    fn remove(&mut self, id: &str) {
        let Some(key) = self.of.remove(id) else { return };
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.connections.remove(id);
            if peer.connections.is_empty() {
                self.peers.remove(&key);
            }
        }
    }
}

// === impl Watch ===

/// The stream of one process. Weak, or the tasks would keep what keeps them.
struct Watch {
    shared: Weak<Shared>,
    monitor: Weak<Monitor>,
    address: Address,
    key: String,
}

impl Watch {
    async fn run(self) {
        let mut pause = RETRY.0;
        // Since when it is out of reach. It has just answered a Request.
        let mut lost: Option<Instant> = None;
        loop {
            let Some(opened) = self.open().await else { return };
            match opened {
                Ok(events) => {
                    self.take(events).await;
                    (pause, lost) = (RETRY.0, Some(Instant::now()));
                    // A process that ends every stream at once gets no busy loop.
                    tokio::time::sleep(RETRY.0).await;
                }
                Err(error) if error.kind == Kind::Unavailable => {
                    debug!(address = %self.address, %error, "out of reach");
                    let lost = *lost.get_or_insert_with(Instant::now);
                    // One that came later was answered then.
                    self.down(|_, through| through.since.max(lost).elapsed() >= GRACE, &error.message);
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RETRY.1);
                }
                Err(error) => {
                    debug!(address = %self.address, %error, "shows nothing");
                    tokio::time::sleep(HIDDEN).await;
                }
            }
        }
    }

    async fn open(&self) -> Option<Result<PeerEvents>> {
        let shared = self.shared.upgrade()?;
        Some(shared.source.open(&self.address, &shared.name).await)
    }

    /// Until the stream ends. Its first event says what is there: a connection that is not, though
    /// the process showed it before or another one answered its Request, is lost.
    async fn take(&self, mut events: PeerEvents) {
        while let Some(Ok(event)) = events.next().await {
            let first = event.r#type() == ConnectionEventType::InitialStateTransfer;
            let gone = event.r#type() == ConnectionEventType::Delete;
            let mut shown = Vec::new();
            for mut connection in event.connections.into_values() {
                let Some(id) = self.own_id(&connection, gone) else { continue };
                if gone {
                    connection.state = State::Down.into();
                }
                if let Some(monitor) = self.monitor.upgrade() {
                    monitor.said(&id, &connection);
                }
                shown.push(id);
            }
            if first {
                let by = self.shared.upgrade().and_then(|shared| shared.source.standing(&self.address));
                let unknown = |id: &String, through: &Through| {
                    !shown.contains(id) && (through.shown || by.is_none() || through.by != by)
                };
                self.down(unknown, "the next process does not know the connection any more");
            }
            if !gone {
                self.mark(&shown);
            }
        }
    }

    /// This process's id of a connection that the next one speaks of: its segment is the current
    /// one, or the one before. One that is not followed is remembered, as it may soon be.
    fn own_id(&self, connection: &Connection, gone: bool) -> Option<String> {
        let shared = self.shared.upgrade()?;
        let mut peers = shared.peers.lock();
        let peer = peers.peers.get_mut(&self.key)?;
        let segments = [-1, 0].into_iter().filter_map(|offset| connection.segment(offset));
        for segment in segments.filter(|segment| segment.name == shared.name) {
            if peer.connections.contains_key(&segment.id) {
                return Some(segment.id.clone());
            }
            if gone {
                peer.early.remove(&segment.id);
            } else if peer.early.len() < EARLY {
                peer.early.insert(segment.id.clone());
            }
        }
        None
    }

    /// These connections are down.
    fn down(&self, which: impl Fn(&String, &Through) -> bool, error: &str) {
        let (Some(shared), Some(monitor)) = (self.shared.upgrade(), self.monitor.upgrade()) else { return };
        let lost: Vec<String> = match shared.peers.lock().peers.get(&self.key) {
            Some(peer) => {
                let lost = peer.connections.iter().filter(|(id, through)| which(id, through));
                lost.map(|(id, _)| id.clone()).collect()
            }
            None => return,
        };
        for id in &lost {
            monitor.down(id, error, true);
        }
    }

    /// The process has shown these.
    fn mark(&self, ids: &[String]) {
        let Some(shared) = self.shared.upgrade() else { return };
        let mut peers = shared.peers.lock();
        let Some(peer) = peers.peers.get_mut(&self.key) else { return };
        for id in ids {
            peer.connections.entry(id.clone()).and_modify(|through| through.shown = true);
        }
    }
}

#[cfg(test)]
#[path = "below_tests.rs"]
mod tests;

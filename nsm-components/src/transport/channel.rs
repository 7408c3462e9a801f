//! Channels to peers: one each, dialled once and kept while its connection stands.
//!
//! A channel never gets a second connection: tokens are made for the one it has, and the peer of
//! the next one, or this process itself, may have another key by then.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;

use super::{Calls, Counts, Error, FdTable, MAX_HEADER_LIST, Session, Source, Token, dial::Connector};
use crate::api::peer::Address;

/// A channel to one peer. Clones share the connection.
#[derive(Clone, Debug)]
pub struct Channel {
    /// For generated clients.
    pub grpc: Calls,
    /// Files to and from the peer; nothing arrives over TCP.
    pub files: FdTable,
    session: Arc<ArcSwapOption<Session>>,
    ended: CancellationToken,
    local: bool,
    lane: usize,
    number: u64,
    /// Counts who holds this channel.
    held: Arc<()>,
}

/// A channel that nobody used for this long is dropped.
const KEPT: Duration = Duration::from_mins(10);

/// How often it is looked for channels to drop.
const SWEEP: Duration = Duration::from_secs(30);

/// All channels of a process.
#[derive(Clone, Debug)]
pub struct Channels(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    source: Source,
    dial_timeout: Duration,
    open: Mutex<Open>,
    dialled: AtomicU64,
}

#[derive(Debug, Default)]
struct Open {
    slots: BTreeMap<String, Arc<Slot>>,
    swept: Option<Instant>,
}

/// The place of one peer.
#[derive(Debug, Default)]
struct Slot {
    /// Who holds it dials, and the others wait for that: when it failed last.
    dialling: tokio::sync::Mutex<Option<Instant>>,
    /// Never held across a wait: what stands is told while a newer one is dialled.
    standing: Mutex<Standing>,
}

#[derive(Debug, Default)]
struct Standing {
    channel: Option<Channel>,
    used: Option<Instant>,
}

// === impl Channel ===

impl Channel {
    /// The TLS connection beneath.
    pub fn session(&self) -> Option<Arc<Session>> {
        self.session.load_full()
    }

    /// A token for the peer.
    pub fn token(&self, life: Duration) -> Result<Token, Error> {
        self.session().ok_or(Error::BadCertificate("there is no connection"))?.token(life)
    }

    /// Whether calls can be made, and will be for some time.
    fn is_fresh(&self) -> bool {
        !self.ended.is_cancelled() && self.session().is_some_and(|session| !session.is_stale())
    }

    /// Whether files can be passed.
    pub fn is_local(&self) -> bool {
        self.local
    }
}

// === impl Slot ===

impl Slot {
    /// The channel, if calls can be made on it; it counts as used now.
    fn fresh(&self, now: Instant) -> Option<Channel> {
        let mut standing = self.standing.lock();
        standing.used = Some(now);
        standing.channel.as_ref().filter(|channel| channel.is_fresh()).cloned()
    }

    fn is_wanted(&self, now: Instant) -> bool {
        let standing = self.standing.lock();
        let recent = standing.used.is_some_and(|used| now.duration_since(used) < KEPT);
        standing.channel.as_ref().is_some_and(|channel| {
            // One of the holders is this slot.
            channel.is_fresh() && (recent || Arc::strong_count(&channel.held) > 1)
        })
    }

    /// The number of the channel whose connection stands.
    fn number(&self) -> Option<u64> {
        let standing = self.standing.lock();
        standing
            .channel
            .as_ref()
            .filter(|channel| !channel.ended.is_cancelled())
            .map(|channel| channel.number)
    }

    /// Takes this channel out; a newer one stays.
    fn take(&self, channel: &Channel) {
        self.standing.lock().channel.take_if(|known| Arc::ptr_eq(&known.session, &channel.session));
    }
}

// === impl Open ===

impl Open {
    fn slot(&mut self, key: &str, now: Instant) -> Arc<Slot> {
        if self.swept.is_none_or(|swept| now.duration_since(swept) >= SWEEP) {
            self.sweep(now);
        }
        self.slots.entry(key.to_owned()).or_default().clone()
    }

    /// Forgets the channels to processes that are gone, and those that nobody uses.
    fn sweep(&mut self, now: Instant) {
        self.swept = Some(now);
        // Who is in `get` has the slot, and got it under the lock that is held here.
        self.slots.retain(|_, slot| Arc::strong_count(slot) > 1 || slot.is_wanted(now));
    }
}

fn slot_key(address: &Address, lane: usize) -> String {
    match lane {
        0 => address.to_string(),
        // No address has a space.
        _ => format!("{address} {lane}"),
    }
}

// === impl Channels ===

impl Channels {
    /// No channel yet; each dial may take `dial_timeout`.
    pub fn new(source: Source, dial_timeout: Duration) -> Self {
        Self(Arc::new(Inner { source, dial_timeout, open: Mutex::default(), dialled: AtomicU64::new(0) }))
    }

    /// The channel to `address`, dialled at the first use, when its connection has ended, and, the
    /// new one first, before either side's leaf ends.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the channels as they were.
    pub async fn get(&self, address: &Address) -> Result<Channel, Error> {
        self.get_lane(address, 0).await
    }

    /// One more channel to the same peer, by its number: a connection carries a limited number of
    /// calls at a time, and watches are calls that do not end. Number 0 is the one that [`Self::get`]
    /// answers.
    ///
    /// # Cancel safety
    ///
    /// As of [`Self::get`].
    pub async fn get_lane(&self, address: &Address, lane: usize) -> Result<Channel, Error> {
        let asked = Instant::now();
        let key = slot_key(address, lane);
        let slot = self.0.open.lock().slot(&key, asked);
        if let Some(channel) = slot.fresh(asked) {
            return Ok(channel);
        }
        // Each peer has its own lock: one that does not answer must not hold up the others.
        let mut failed = slot.dialling.lock().await;
        if let Some(channel) = slot.fresh(asked) {
            return Ok(channel);
        }
        if failed.is_some_and(|failed| failed > asked) {
            return Err(Error::Dial { address: key, source: "another call has just tried".into() });
        }
        let dialled = self.dial(address, lane).await;
        *failed = dialled.is_err().then(Instant::now);
        slot.standing.lock().channel = dialled.as_ref().ok().cloned();
        dialled
    }

    /// Which channel to `address` stands now: while the number is the same, so is the process.
    pub fn standing(&self, address: &Address) -> Option<u64> {
        self.0.open.lock().slots.get(&slot_key(address, 0))?.number()
    }

    /// Forgets this channel to `address`: it broke, or nothing comes back on it. A newer one, which
    /// another call has dialled meanwhile, stays.
    pub fn discard(&self, address: &Address, channel: &Channel) {
        let mut open = self.0.open.lock();
        let key = slot_key(address, channel.lane);
        let Some(slot) = open.slots.get(&key) else { return };
        slot.take(channel);
        // Who is in `get` has the slot, and got it under the lock that is held here.
        if Arc::strong_count(slot) == 1 && slot.standing.lock().channel.is_none() {
            open.slots.remove(&key);
        }
    }

    /// As `get` does now and then.
    #[cfg(test)]
    pub(super) fn sweep(&self, now: Instant) {
        self.0.open.lock().sweep(now);
    }

    /// How many peers have a channel, or one that is being dialled.
    pub fn len(&self) -> usize {
        self.0.open.lock().slots.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What was done so far with this identity, by these channels and by listeners.
    pub fn counts(&self) -> &Arc<Counts> {
        self.0.source.counts()
    }

    async fn dial(&self, address: &Address, lane: usize) -> Result<Channel, Error> {
        let (files, session) = (FdTable::default(), Arc::new(ArcSwapOption::empty()));
        let ended = CancellationToken::new();
        let connector = Connector {
            address: address.clone(),
            source: self.0.source.clone(),
            limit: self.0.dial_timeout,
            files: files.clone(),
            session: session.clone(),
            ended: ended.clone(),
        };
        // The connector makes TLS itself, so for tonic this is plain HTTP. No HTTP/2 keep-alive: Go
        // answers it with GOAWAY. A dead process closes its unix sockets, and TCP has its own probes.
        let endpoint = Endpoint::from_static("http://localhost").http2_max_header_list_size(MAX_HEADER_LIST);
        let limit = self.0.dial_timeout;
        let grpc = tokio::time::timeout(limit, endpoint.connect_with_connector(connector))
            .await
            .map_err(|_| Error::DialTimeout {
                address: address.to_string(),
                milliseconds: limit.as_millis(),
            })?
            .map_err(|source| Error::Dial { address: address.to_string(), source: source.into() })?;
        let grpc = Calls::new(grpc, self.counts().clone());
        let number = self.0.dialled.fetch_add(1, Ordering::Relaxed);
        let local = address.is_local();
        Ok(Channel { grpc, files, session, ended, local, lane, number, held: Arc::default() })
    }
}

#[cfg(test)]
mod tests;

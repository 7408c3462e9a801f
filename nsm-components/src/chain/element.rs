//! Elements of network service chains, and what travels along them.

use std::{any::Any, fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::{Instrument, debug_span};

use super::Result;
use crate::api::{
    Connection, Mechanism,
    packed::Packed,
    peer::{Address, Files, Peer},
};

/// How long undoing a half-built connection may take.
const UNDO_BUDGET: Duration = Duration::from_secs(10);

/// A Request or Close on its way to the endpoint.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// The connection asked for, or to close.
    pub connection: Connection,
    /// Mechanisms the caller can use, best first; empty on Close.
    pub preferences: Vec<Mechanism>,
    /// Open files the mechanisms name.
    pub files: Files,
}

/// The answer on its way back.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    /// The connection as it is now.
    pub connection: Connection,
    /// Open files its mechanism names.
    pub files: Files,
}

/// Who called, as the transport found it.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The process on the other side of the TLS connection.
    pub peer: Peer,
    /// The token it brought and the end of its life, seconds since the epoch.
    pub token: Option<(Arc<str>, i64)>,
    /// The TLS connection it called on.
    pub link: Arc<dyn Link>,
}

/// What the TLS connection to a peer gives. A trait, for chains know no transport.
pub trait Link: fmt::Debug + Send + Sync {
    /// SPIFFE ID that this process showed there.
    fn own_id(&self) -> &str;

    /// A token of this process for the peer, and the end of its life in seconds since the epoch.
    fn own_token(&self) -> Result<(Arc<str>, i64)>;

    /// Whether the peer's key signed this token.
    fn is_signed(&self, token: &str) -> bool;

    /// The certificate that the peer showed, DER.
    fn certificate(&self) -> &[u8];
}

/// What travels beside a call.
#[derive(Clone, Debug)]
pub struct Cx {
    /// When the call must be done.
    pub deadline: Instant,
    /// Who called; absent for calls that begin in this process.
    pub caller: Option<Arc<Caller>>,
    /// Where the next process is; set by discovery, read by `connect`.
    pub next_hop: Option<Address>,
    /// What elements remember of the connection between calls.
    pub memory: Memory,
    /// The right to be worked on, given back when the last of the call is done.
    pub place: Option<Arc<dyn Any + Send + Sync>>,
}

/// What elements remember of one connection. It lives in the connection's task and goes with it.
#[derive(Clone, Debug, Default)]
pub struct Memory(Arc<Mutex<Remembered>>);

/// One field per element that remembers something; each is written by that element alone.
#[derive(Clone, Debug, Default)]
pub struct Remembered {
    /// `discoverforwarder`: name of the forwarder that carries the connection.
    pub forwarder: Option<String>,
    /// `discoverforwarder`: since when that forwarder is known not to be there.
    pub forwarder_gone: Option<Instant>,
    /// `connect`: whether nobody listened where the last Request was to go.
    pub refused: bool,
    /// `mechanismtranslation`: mechanism towards the next process.
    pub downstream: Option<Mechanism>,
    /// `connect`: where the next process was, and the connection as it last answered it.
    pub next: Option<Hop>,
    /// `connect`: who answered last, and the TLS connection to it.
    pub server: Option<(Peer, Arc<dyn Link>)>,
    /// `passthrough`: name of the endpoint that the connection was passed on to.
    pub passed_on: Option<String>,
    /// `recovery`: whether a former incarnation's connection was asked for.
    pub recovered: bool,
}

/// The next process on the way of a connection.
#[derive(Clone, Debug)]
pub struct Hop {
    /// Where it is.
    pub address: Address,
    /// The endpoint that the connection leads to.
    pub endpoint: String,
    /// The connection as it was answered last.
    pub answered: Packed<Connection>,
}

/// One link of a chain. It may act before `next`, after it, or instead of it.
#[async_trait]
pub trait Element: Send + Sync + 'static {
    /// Upstream's name of the element.
    fn name(&self) -> &'static str;

    /// Sets up a connection, or refreshes it.
    async fn request(&self, cx: &Cx, request: Request, next: Next<'_>) -> Result<Reply> {
        next.request(cx, request).await
    }

    /// Ends a connection. It goes on to the next element whatever fails here.
    async fn close(&self, cx: &Cx, request: Request, next: Next<'_>) -> Result<()> {
        next.close(cx, request).await
    }
}

/// The rest of a chain. `Copy`, so one element can call it to build and again to undo.
#[derive(Clone, Copy)]
pub struct Next<'a>(&'a [Arc<dyn Element>]);

/// A whole chain.
#[derive(Clone)]
pub struct Chain(Arc<[Arc<dyn Element>]>);

#[cfg(test)]
impl Caller {
    /// A caller without a token, to whom everything is signed.
    pub(crate) fn test(peer: Peer) -> Self {
        #[derive(Debug)]
        struct Nothing;
        impl Link for Nothing {
            fn own_id(&self) -> &'static str {
                ""
            }

            fn own_token(&self) -> Result<(Arc<str>, i64)> {
                Ok(("".into(), 4_000_000_000))
            }

            fn is_signed(&self, _: &str) -> bool {
                true
            }

            fn certificate(&self) -> &[u8] {
                &[]
            }
        }
        Self { peer, token: None, link: Arc::new(Nothing) }
    }
}

// === impl Cx ===

impl Cx {
    /// A call that begins in this process.
    pub fn within(limit: Duration) -> Self {
        let (memory, place) = (Memory::default(), None);
        Self { deadline: Instant::now() + limit, caller: None, next_hop: None, memory, place }
    }

    /// The same call with a fresh deadline: undoing must not inherit a spent one.
    #[must_use]
    pub fn undo(&self) -> Self {
        Self { deadline: Instant::now() + UNDO_BUDGET, ..self.clone() }
    }

    /// Time left.
    pub fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }
}

// === impl Memory ===

impl Memory {
    /// Looks at it, or changes it. Never held across an await.
    pub fn with<T>(&self, look: impl FnOnce(&mut Remembered) -> T) -> T {
        look(&mut self.0.lock())
    }
}

// === impl Next ===

impl Next<'_> {
    /// Calls the rest of the chain; its end answers with the connection as it is.
    pub async fn request(self, cx: &Cx, request: Request) -> Result<Reply> {
        match self.0 {
            [] => Ok(Reply { connection: request.connection, files: request.files }),
            [head, rest @ ..] => {
                let span = debug_span!("request", element = head.name());
                head.request(cx, request, Next(rest)).instrument(span).await
            }
        }
    }

    /// Calls the rest of the chain to end the connection.
    pub async fn close(self, cx: &Cx, request: Request) -> Result<()> {
        match self.0 {
            [] => Ok(()),
            [head, rest @ ..] => {
                let span = debug_span!("close", element = head.name());
                head.close(cx, request, Next(rest)).instrument(span).await
            }
        }
    }
}

// === impl Chain ===

impl Chain {
    /// A chain of these elements, first called first.
    pub fn new(elements: impl IntoIterator<Item = Arc<dyn Element>>) -> Self {
        Self(elements.into_iter().collect())
    }

    /// All of it.
    pub fn start(&self) -> Next<'_> {
        Next(&self.0)
    }
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|element| element.name())).finish()
    }
}

//! Channels to peers: one each, dialled once and kept while its connection stands.
//!
//! A channel never gets a second connection: tokens are made for the one it has, and the peer of
//! the next one, or this process itself, may have another key by then.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use http::Uri;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::Endpoint;
use tracing::debug;

use super::{Error, FdTable, MAX_HEADER_LIST, Session, Source, Token, tls, wire::Wire};
use crate::api::peer::Address;

/// A channel to one peer. Clones share the connection.
#[derive(Clone, Debug)]
pub struct Channel {
    /// For generated clients.
    pub grpc: tonic::transport::Channel,
    /// Files to and from the peer; nothing arrives over TCP.
    pub files: FdTable,
    session: Arc<ArcSwapOption<Session>>,
    ended: CancellationToken,
    local: bool,
}

/// All channels of a process.
#[derive(Clone, Debug)]
pub struct Channels(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    source: Source,
    dial_timeout: Duration,
    open: Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<Slot>>>>,
    dials: AtomicU64,
}

/// The place of one peer. Who holds it dials; the others wait for that.
#[derive(Debug, Default)]
struct Slot {
    channel: Option<Channel>,
    failed: Option<Instant>,
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

// === impl Channels ===

impl Channels {
    /// No channel yet; each dial may take `dial_timeout`.
    pub fn new(source: Source, dial_timeout: Duration) -> Self {
        Self(Arc::new(Inner { source, dial_timeout, open: Mutex::default(), dials: AtomicU64::default() }))
    }

    /// The channel to `address`, dialled at the first use, when its connection has ended, and, the
    /// new one first, before either side's leaf ends.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the channels as they were.
    pub async fn get(&self, address: &Address) -> Result<Channel, Error> {
        let asked = Instant::now();
        let key = address.to_string();
        let slot = self.0.open.lock().entry(key.clone()).or_default().clone();
        // Each peer has its own lock: one that does not answer must not hold up the others.
        let mut slot = slot.lock().await;
        if let Some(channel) = slot.channel.as_ref().filter(|channel| channel.is_fresh()) {
            return Ok(channel.clone());
        }
        if slot.failed.is_some_and(|failed| failed > asked) {
            return Err(Error::Dial { address: key, source: "another call has just tried".into() });
        }
        self.forget_ended();
        let dialled = self.dial(address).await;
        slot.failed = dialled.is_err().then(Instant::now);
        slot.channel = dialled.as_ref().ok().cloned();
        dialled
    }

    /// Forgets the channel to `address`: its process is gone for good.
    pub fn forget(&self, address: &Address) {
        self.0.open.lock().remove(&address.to_string());
    }

    /// Forgets the channels to processes that are gone. What is being dialled is held by a caller.
    fn forget_ended(&self) {
        let in_use = |slot: &Arc<tokio::sync::Mutex<Slot>>| {
            slot.try_lock().map_or(true, |slot| slot.channel.as_ref().is_some_and(Channel::is_fresh))
        };
        self.0.open.lock().retain(|_, slot| in_use(slot));
    }

    /// Number of TLS connections made so far.
    pub fn dials(&self) -> u64 {
        self.0.dials.load(Ordering::Relaxed)
    }

    async fn dial(&self, address: &Address) -> Result<Channel, Error> {
        let (files, session) = (FdTable::default(), Arc::new(ArcSwapOption::empty()));
        let ended = CancellationToken::new();
        let connector = Connector {
            address: address.clone(),
            channels: self.0.clone(),
            files: files.clone(),
            session: session.clone(),
            ended: ended.clone(),
        };
        // The connector makes TLS itself, so for tonic this is plain HTTP. No HTTP/2 keep-alive: Go
        // answers it with GOAWAY, and a dead process closes its unix sockets.
        let endpoint = Endpoint::from_static("http://localhost").http2_max_header_list_size(MAX_HEADER_LIST);
        let limit = self.0.dial_timeout;
        let grpc = tokio::time::timeout(limit, endpoint.connect_with_connector(connector))
            .await
            .map_err(|_| Error::DialTimeout {
                address: address.to_string(),
                milliseconds: limit.as_millis(),
            })?
            .map_err(|source| Error::Dial { address: address.to_string(), source: source.into() })?;
        Ok(Channel { grpc, files, session, ended, local: address.is_local() })
    }
}

/// Makes the one connection of a channel.
#[derive(Clone)]
struct Connector {
    address: Address,
    channels: Arc<Inner>,
    files: FdTable,
    session: Arc<ArcSwapOption<Session>>,
    ended: CancellationToken,
}

/// A connection whose end is told.
struct Told {
    stream: TlsStream<Wire>,
    _ended: DropGuard,
}

impl Connector {
    async fn connect(self) -> Result<TokioIo<Told>, Error> {
        let failed =
            |source: std::io::Error| Error::Dial { address: self.address.to_string(), source: source.into() };
        if self.ended.is_cancelled() {
            return Err(failed(std::io::ErrorKind::NotConnected.into()));
        }
        let wire = match (&self.address, self.address.path()) {
            (_, Some(path)) => {
                Wire::Unix(UnixStream::connect(path).await.map_err(failed)?, self.files.clone())
            }
            (address, None) => {
                let address = address.to_string();
                let stream =
                    TcpStream::connect(address.trim_start_matches("tcp://")).await.map_err(failed)?;
                stream.set_nodelay(true).map_err(failed)?;
                Wire::Tcp(stream)
            }
        };
        // One snapshot for certificate, roots and token key, however long the handshake takes.
        let mine = self.channels.source.current()?;
        let config = tls::client_config(&mine)?;
        let name = "localhost".try_into().map_err(|_| Error::BadCertificate("no name"))?;
        let stream = TlsConnector::from(Arc::new(config)).connect(name, wire).await.map_err(failed)?;
        let leaf = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let peer = tls::peer(leaf.ok_or(Error::BadCertificate("there is none"))?)?;
        debug!(address = %self.address, peer = %peer.id, "connected");
        self.channels.dials.fetch_add(1, Ordering::Relaxed);
        self.session.store(Some(Arc::new(Session::new(mine, peer))));
        Ok(TokioIo::new(Told { stream, _ended: self.ended.clone().drop_guard() }))
    }
}

impl AsyncRead for Told {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Told {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<Told>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let limit = self.channels.dial_timeout;
        let (connector, address) = (self.clone(), self.address.to_string());
        Box::pin(async move {
            tokio::time::timeout(limit, connector.connect())
                .await
                .map_err(|_| Error::DialTimeout { address, milliseconds: limit.as_millis() })?
        })
    }
}

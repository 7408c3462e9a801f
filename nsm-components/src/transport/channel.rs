//! Channels to peers: one each, dialled once, kept, and redialled beneath by itself.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::{TlsConnector, client::TlsStream};
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
    local: bool,
}

/// All channels of a process.
#[derive(Clone, Debug)]
pub struct Channels(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    source: Source,
    dial_timeout: Duration,
    open: tokio::sync::Mutex<BTreeMap<String, Channel>>,
    dials: AtomicU64,
}

// === impl Channel ===

impl Channel {
    /// The TLS connection beneath, as of the last dial.
    pub fn session(&self) -> Option<Arc<Session>> {
        self.session.load_full()
    }

    /// A token for the peer.
    pub fn token(&self, life: Duration) -> Result<Token, Error> {
        self.session().ok_or(Error::BadCertificate("there is no connection"))?.token(life)
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
        let open = tokio::sync::Mutex::default();
        Self(Arc::new(Inner { source, dial_timeout, open, dials: AtomicU64::default() }))
    }

    /// The channel to `address`, dialled at the first use and again, the new one first, before
    /// either side's leaf ends.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the channels as they were.
    pub async fn get(&self, address: &Address) -> Result<Channel, Error> {
        let key = address.to_string();
        if let Some(channel) = self.0.open.lock().await.get(&key)
            && channel.session().is_some_and(|session| !session.is_stale())
        {
            return Ok(channel.clone());
        }
        // Outside the lock: a peer that does not answer must not hold up the others.
        let channel = self.dial(address).await?;
        self.0.open.lock().await.insert(key, channel.clone());
        Ok(channel)
    }

    /// Forgets the channel to `address`: its process is gone for good.
    pub async fn forget(&self, address: &Address) {
        self.0.open.lock().await.remove(&address.to_string());
    }

    /// Number of TLS connections made so far.
    pub fn dials(&self) -> u64 {
        self.0.dials.load(Ordering::Relaxed)
    }

    async fn dial(&self, address: &Address) -> Result<Channel, Error> {
        let (files, session) = (FdTable::default(), Arc::new(ArcSwapOption::empty()));
        let connector = Connector {
            address: address.clone(),
            channels: self.0.clone(),
            files: files.clone(),
            session: session.clone(),
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
        Ok(Channel { grpc, files, session, local: address.is_local() })
    }
}

/// Makes the connections of one channel, one after the other.
#[derive(Clone)]
struct Connector {
    address: Address,
    channels: Arc<Inner>,
    files: FdTable,
    session: Arc<ArcSwapOption<Session>>,
}

impl Connector {
    async fn connect(self) -> Result<TokioIo<TlsStream<Wire>>, Error> {
        let failed =
            |source: std::io::Error| Error::Dial { address: self.address.to_string(), source: source.into() };
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
        Ok(TokioIo::new(stream))
    }
}

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<TlsStream<Wire>>;
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

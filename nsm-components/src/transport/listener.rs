//! Listening sockets, and what a handler learns of the connection its call came on.

use std::{
    collections::{HashMap, VecDeque},
    fs, io,
    net::{IpAddr, SocketAddr},
    os::unix::fs::PermissionsExt,
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::{Stream, StreamExt, stream};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, UnixListener},
    task::{AbortHandle, JoinSet},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;
use tonic::transport::server::{Connected, Router};
use tracing::{debug, warn};

use super::{Error, FdTable, Session, Source, tls, wire::Wire};
use crate::settings::Target;

/// Handshakes that may run at once on one socket. Beyond that the oldest is cut: a real one takes
/// milliseconds, so those who only connect and wait keep nobody else out.
const MAX_HANDSHAKES: usize = 256;

/// Connections of one peer on one socket. Upstream's clients make one for each connection of theirs.
const MAX_PER_PEER: usize = 1024;

/// Longest time a handshake may take.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);

/// Longest time open calls may go on after the stop.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// What a handler finds in its request's extensions.
#[derive(Clone, Debug)]
pub struct Accepted {
    /// The TLS connection.
    pub session: Arc<Session>,
    /// Files to and from the caller.
    pub files: FdTable,
    /// Whether files can be passed.
    pub local: bool,
}

/// A socket that accepts, before anything is served on it.
#[derive(Debug)]
pub enum Listener {
    /// A unix socket.
    Unix(UnixListener),
    /// A TCP socket.
    Tcp(TcpListener),
}

/// An accepted connection after its handshake.
pub(super) struct Connection {
    stream: TlsStream<Wire>,
    accepted: Accepted,
    _ticket: Ticket,
}

/// What comes in on one socket.
struct Incoming {
    listener: Listener,
    source: Source,
    running: JoinSet<Option<Connection>>,
    /// Those that run, and some that have ended: the oldest first.
    order: VecDeque<AbortHandle>,
    quota: Quota,
}

/// How many connections each peer has.
#[derive(Clone, Debug, Default)]
struct Quota(Arc<Mutex<HashMap<String, usize>>>);

/// One connection within a [`Quota`].
#[derive(Debug)]
struct Ticket {
    quota: Quota,
    peer: String,
}

// === impl Listener ===

impl Listener {
    /// Starts to listen. A socket file that stands there is replaced: its owner is gone, or this
    /// process takes over from it.
    pub fn bind(target: &Target) -> Result<Self, Error> {
        let failed = |source| Error::Listen { target: target.to_string(), source };
        match target {
            Target::Unix(path) => bind_unix(path).map(Self::Unix).map_err(failed),
            Target::Tcp(address) => bind_tcp(address).map(Self::Tcp).map_err(failed),
        }
    }

    /// The TCP port, where there is one.
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Unix(_) => None,
            Self::Tcp(listener) => listener.local_addr().ok().map(|address| address.port()),
        }
    }

    async fn accept(&self) -> io::Result<(Wire, FdTable)> {
        let table = FdTable::default();
        let wire = match self {
            Self::Unix(listener) => Wire::unix(listener.accept().await?.0, table.clone()),
            Self::Tcp(listener) => Wire::tcp(listener.accept().await?.0)?,
        };
        Ok((wire, table))
    }

    /// Serves `router` until `stop`, then lets open calls end. Connections of the mesh are not
    /// touched by that.
    pub async fn serve(self, router: Router, source: Source, stop: CancellationToken) -> Result<(), Error> {
        let incoming = self.incoming(source, stop.clone());
        let serving = router.serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());
        let drained = async {
            stop.cancelled().await;
            tokio::time::sleep(DRAIN_LIMIT).await;
        };
        tokio::select! {
            served = serving => served.map_err(Error::Serve),
            () = drained => Ok(()),
        }
    }

    /// Connections after their handshakes, which run side by side; a failed one is dropped.
    fn incoming(
        self,
        source: Source,
        stop: CancellationToken,
    ) -> impl Stream<Item = Result<Connection, io::Error>> {
        let (running, order, quota) = (JoinSet::new(), VecDeque::new(), Quota::default());
        let incoming = Incoming { listener: self, source, running, order, quota };
        let connections = stream::unfold(incoming, |mut incoming| async {
            let connection = incoming.next().await;
            Some((Ok(connection), incoming))
        });
        connections.take_until(stop.cancelled_owned())
    }
}

// === impl Incoming ===

impl Incoming {
    /// The next connection whose handshake was good.
    async fn next(&mut self) -> Connection {
        loop {
            tokio::select! {
                Some(done) = self.running.join_next() => {
                    if let Ok(Some(connection)) = done {
                        return connection;
                    }
                }
                accepted = self.listener.accept() => match accepted {
                    Ok((wire, table)) => self.begin(wire, table),
                    Err(error) => {
                        warn!(%error, "cannot accept");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                }
            }
        }
    }

    fn begin(&mut self, wire: Wire, table: FdTable) {
        if self.running.len() >= MAX_HANDSHAKES {
            self.order.retain(|handshake| !handshake.is_finished());
            if let Some(oldest) = self.order.pop_front() {
                oldest.abort();
                self.source.counts().refused.add();
            }
        }
        if self.order.len() >= 2 * MAX_HANDSHAKES {
            self.order.retain(|handshake| !handshake.is_finished());
        }
        let (source, quota) = (self.source.clone(), self.quota.clone());
        self.order.push_back(self.running.spawn(async move {
            let handshake = tokio::time::timeout(HANDSHAKE_LIMIT, handshake(wire, table, &source, &quota));
            match handshake.await {
                Ok(Ok(connection)) => return Some(connection),
                Ok(Err(error)) => debug!(%error, "refused a connection"),
                Err(_) => debug!("refused a connection: its handshake took too long"),
            }
            source.counts().refused.add();
            None
        }));
    }
}

// === impl Quota ===

impl Quota {
    fn take(&self, peer: &str) -> Option<Ticket> {
        let mut counts = self.0.lock();
        let count = counts.entry(peer.to_owned()).or_default();
        if *count >= MAX_PER_PEER {
            return None;
        }
        *count += 1;
        Some(Ticket { quota: self.clone(), peer: peer.to_owned() })
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut counts = self.quota.0.lock();
        if let Some(count) = counts.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.peer);
            }
        }
    }
}

async fn handshake(wire: Wire, files: FdTable, source: &Source, quota: &Quota) -> Result<Connection, Error> {
    let local = wire.is_local();
    let mine = source.current()?;
    let acceptor = TlsAcceptor::from(mine.server.clone());
    let refused = |source: io::Error| Error::Dial { address: "a client".into(), source: source.into() };
    let stream = acceptor.accept(wire).await.map_err(refused)?;
    let tls = stream.get_ref().1;
    // Whoever names no protocol does not speak gRPC, and would be waited for.
    if tls.alpn_protocol() != Some(tls::ALPN) {
        return Err(refused(io::Error::new(io::ErrorKind::InvalidData, "it did not ask for HTTP/2")));
    }
    let leaf = tls.peer_certificates().and_then(|chain| chain.first());
    let session = Arc::new(Session::new(mine, leaf, source)?);
    let peer = &session.peer.id;
    let ticket = quota.take(peer).ok_or_else(|| Error::TooMany { peer: peer.clone(), most: MAX_PER_PEER })?;
    files.trust();
    source.counts().accepted.add();
    Ok(Connection { stream, accepted: Accepted { session, files, local }, _ticket: ticket })
}

fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    // Who may call is decided by identity; the file must let everybody ask (protocol §1.8).
    fs::set_permissions(path, fs::Permissions::from_mode(0o777))?;
    Ok(listener)
}

fn bind_tcp(address: &str) -> io::Result<TcpListener> {
    let (host, port) = address.rsplit_once(':').ok_or(io::ErrorKind::InvalidInput)?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let ip: IpAddr = if host.is_empty() {
        IpAddr::from([0, 0, 0, 0])
    } else {
        host.parse().map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "an IP address is needed"))?
    };
    let port = port.parse().map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let listener = std::net::TcpListener::bind(SocketAddr::new(ip, port))?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

// === impl Connection ===

impl Connected for Connection {
    type ConnectInfo = Accepted;

    fn connect_info(&self) -> Accepted {
        self.accepted.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;

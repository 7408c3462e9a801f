//! The authority's TCP port: connections taken within bounds, each after its TLS handshake.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::{Stream, StreamExt as _};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tonic::transport::server::Connected;
use tracing::{debug, warn};

/// Connections at one time: each agent has one for the length of a call.
const CONNECTIONS: usize = 4096;

/// Handshakes at one time.
const HANDSHAKES: usize = 64;

const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(5);

/// Pause after a failed accept, which is a lack of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A connection within the bound.
#[derive(Debug)]
pub(super) struct Counted {
    io: TcpStream,
    _permit: OwnedSemaphorePermit,
}

/// Listens at `host:port`; without a host on all addresses of both families.
pub(super) async fn bind(address: &str) -> io::Result<TcpListener> {
    let Some(port) = address.strip_prefix(':') else { return TcpListener::bind(address).await };
    match TcpListener::bind(format!("[::]:{port}")).await {
        Ok(listener) => Ok(listener),
        // A host without IPv6.
        Err(_) => TcpListener::bind(format!("0.0.0.0:{port}")).await,
    }
}

/// Connections as they come out of their handshake. A handshake that fails is dropped, and holds
/// up nobody. Never ends and never fails.
pub(super) fn incoming(
    listener: TcpListener,
    tls: TlsAcceptor,
) -> impl Stream<Item = io::Result<TlsStream<Counted>>> {
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    let connections = futures::stream::unfold((listener, permits), async |(listener, permits)| {
        let permit = permits.clone().acquire_owned().await.ok()?;
        loop {
            match listener.accept().await {
                Ok((io, _)) => return Some((Counted { io, _permit: permit }, (listener, permits))),
                Err(error) => {
                    warn!(%error, "cannot accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    });
    connections
        .map(move |io| timeout(HANDSHAKE_PATIENCE, tls.accept(io)))
        .buffer_unordered(HANDSHAKES)
        .filter_map(async |handshake| match handshake {
            Ok(Ok(stream)) => Some(Ok(stream)),
            Ok(Err(error)) => {
                debug!(%error, "a handshake failed");
                None
            }
            Err(_) => {
                debug!("a handshake took too long");
                None
            }
        })
}

// === impl Counted ===

impl Connected for Counted {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Counted {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, data)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

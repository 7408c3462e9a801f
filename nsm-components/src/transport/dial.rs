//! One dial: a stream, TLS on it, and word of its end.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::debug;

use super::{Error, FdTable, Session, Source, fds::Share, wire::Wire};
use crate::api::peer::Address;

/// Makes the one connection of a channel.
#[derive(Clone)]
pub(super) struct Connector {
    pub(super) address: Address,
    pub(super) source: Source,
    /// How long it may take.
    pub(super) limit: Duration,
    pub(super) files: FdTable,
    /// Where the connection's session goes.
    pub(super) session: Arc<ArcSwapOption<Session>>,
    /// Cancelled when the connection ends.
    pub(super) ended: CancellationToken,
}

/// A connection whose end is told.
pub(super) struct Told {
    stream: TlsStream<Wire>,
    _ended: DropGuard,
}

impl Connector {
    async fn connect(self) -> Result<TokioIo<Told>, Error> {
        let failed =
            |source: std::io::Error| Error::Dial { address: self.address.to_string(), source: source.into() };
        // Never a second one, also when tonic sees the end of the first before it is told here.
        if self.session.load().is_some() {
            return Err(failed(std::io::ErrorKind::NotConnected.into()));
        }
        let wire = match (&self.address, self.address.path()) {
            (_, Some(path)) => {
                Wire::unix(UnixStream::connect(path).await.map_err(failed)?, self.files.clone())
            }
            (address, None) => {
                let address = address.to_string();
                let stream = TcpStream::connect(address.trim_start_matches("tcp://")).await;
                Wire::tcp(stream.map_err(failed)?).map_err(failed)?
            }
        };
        // One snapshot for certificate, roots and token key, however long the handshake takes.
        let mine = self.source.current()?;
        let name = "localhost".try_into().map_err(|_| Error::BadCertificate("no name"))?;
        let stream = TlsConnector::from(mine.client.clone()).connect(name, wire).await.map_err(failed)?;
        let leaf = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let session = Session::new(mine, leaf, &self.source)?;
        self.files.trust(Share::default());
        debug!(address = %self.address, peer = %session.peer.id, "connected");
        self.source.counts().dials.add();
        self.session.store(Some(Arc::new(session)));
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
        let (connector, limit, address) = (self.clone(), self.limit, self.address.to_string());
        Box::pin(async move {
            tokio::time::timeout(limit, connector.connect())
                .await
                .map_err(|_| Error::DialTimeout { address, milliseconds: limit.as_millis() })?
        })
    }
}

//! An accepted connection as it is served: until either side's leaf ends.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Sleep,
};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use super::{Accepted, incoming::Ticket};
use crate::transport::{session::now, wire::Wire};

/// Longest time between two looks at the clock, which may be set.
const LOOK: Duration = Duration::from_mins(5);

/// An accepted connection after its handshake.
///
/// It ends with the first of both leaves. This project's peers have replaced it long before; others
/// keep theirs, and could pass nothing on it any more: a token lives no longer than the leaves that
/// its connection began with (protocol §3.2). They connect again, with what is valid then.
pub(in crate::transport) struct Connection {
    stream: TlsStream<Wire>,
    accepted: Accepted,
    /// Seconds since the epoch.
    end: i64,
    look: Pin<Box<Sleep>>,
    _ticket: Ticket,
}

// === impl Connection ===

impl Connection {
    pub(super) fn new(stream: TlsStream<Wire>, accepted: Accepted, ticket: Ticket) -> Self {
        let end = accepted.session.end();
        let look = Box::pin(tokio::time::sleep(until_next_look(end)));
        Self { stream, accepted, end, look, _ticket: ticket }
    }

    /// Ready when its time is over.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.look.as_mut().poll(cx).is_ready() {
            if now() >= self.end {
                return Poll::Ready(());
            }
            self.look.set(tokio::time::sleep(until_next_look(self.end)));
        }
        Poll::Pending
    }
}

fn until_next_look(end: i64) -> Duration {
    let left = u64::try_from(end.saturating_sub(now())).unwrap_or(0);
    // `now` counts whole seconds.
    Duration::from_secs(left).clamp(Duration::from_millis(100), LOOK)
}

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
        if self.poll_end(cx).is_ready() {
            let message = "the certificate of one side has expired: connect again";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, message)));
        }
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

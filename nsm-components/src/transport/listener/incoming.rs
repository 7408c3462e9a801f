//! From an accepted socket to a connection that is served: who has said nothing yet waits beside
//! those who shake hands, so neither the silent nor the many keep anybody out.

use std::{collections::HashMap, io, sync::Arc, time::Duration};

use futures::{Stream, StreamExt, stream};
use parking_lot::Mutex;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::{Instant, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{Accepted, Listener, connection::Connection};
use crate::transport::{Error, FdTable, Session, Source, fds::Share, tls, wire::Wire};

/// Handshakes that run at once on one socket. They cost a processor some milliseconds each, so more
/// of them at once would only make each one longer.
pub(super) const HANDSHAKES: usize = 64;

/// Accepted sockets without a finished handshake, on one socket. Beyond that peers wait in the
/// kernel's queue.
pub(super) const ROOM: usize = 1024;

/// Connections of one peer on one socket. Upstream's clients make one for each connection of theirs.
pub(super) const MAX_PER_PEER: usize = 1024;

/// How long a peer may say nothing when the room is half full; else [`HANDSHAKE_LIMIT`].
const SILENCE: Duration = Duration::from_secs(1);

/// Longest time until a peer's first byte, and for the handshake from there.
pub(super) const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);

/// What comes in on one socket.
struct Incoming {
    listener: Listener,
    desk: Desk,
    running: JoinSet<Option<Connection>>,
}

/// What all handshakes on one socket share.
#[derive(Clone)]
struct Desk {
    source: Source,
    quota: Quota,
    room: Arc<Semaphore>,
    turns: Arc<Semaphore>,
}

/// How many connections each peer has, and what they share.
#[derive(Clone, Debug, Default)]
pub(super) struct Quota(Arc<Mutex<HashMap<String, (usize, Share)>>>);

/// One connection within a [`Quota`].
#[derive(Debug)]
pub(super) struct Ticket {
    quota: Quota,
    peer: String,
    files: Share,
}

/// Connections after their handshakes, which run side by side; a failed one is dropped.
pub(super) fn incoming(
    listener: Listener,
    source: Source,
    stop: CancellationToken,
) -> impl Stream<Item = Result<Connection, io::Error>> {
    let incoming = Incoming { listener, desk: Desk::new(source), running: JoinSet::new() };
    let connections = stream::unfold(incoming, |mut incoming| async {
        let connection = incoming.next().await;
        Some((Ok(connection), incoming))
    });
    connections.take_until(stop.cancelled_owned())
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
                accepted = self.desk.accept(&self.listener) => match accepted {
                    Ok((place, wire, files)) => {
                        self.running.spawn(self.desk.clone().receive(place, wire, files));
                    }
                    Err(error) => {
                        warn!(%error, "cannot accept");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                }
            }
        }
    }
}

// === impl Desk ===

impl Desk {
    fn new(source: Source) -> Self {
        let (room, turns) = (Arc::new(Semaphore::new(ROOM)), Arc::new(Semaphore::new(HANDSHAKES)));
        Self { source, quota: Quota::default(), room, turns }
    }

    /// One more, as soon as there is room. Safe to cancel.
    async fn accept(&self, listener: &Listener) -> io::Result<(OwnedSemaphorePermit, Wire, FdTable)> {
        let place = self.room.clone().acquire_owned().await.map_err(io::Error::other)?;
        let (wire, files) = listener.accept().await?;
        Ok((place, wire, files))
    }

    async fn receive(self, _place: OwnedSemaphorePermit, wire: Wire, files: FdTable) -> Option<Connection> {
        if self.hears(&wire).await {
            let _turn = self.turns.acquire().await.ok()?;
            match timeout(HANDSHAKE_LIMIT, self.handshake(wire, files)).await {
                Ok(Ok(connection)) => return Some(connection),
                Ok(Err(error)) => debug!(%error, "refused a connection"),
                Err(_) => debug!("refused a connection: its handshake took too long"),
            }
        } else {
            debug!("refused a connection: the peer said nothing");
        }
        self.source.counts().refused.add();
        None
    }

    /// Whether the peer says something in time.
    async fn hears(&self, wire: &Wire) -> bool {
        let end = Instant::now() + HANDSHAKE_LIMIT;
        loop {
            match timeout(SILENCE, wire.heard()).await {
                Ok(heard) => return heard.is_ok(),
                Err(_) if self.room.available_permits() < ROOM / 2 || Instant::now() >= end => return false,
                Err(_) => {}
            }
        }
    }

    async fn handshake(&self, wire: Wire, files: FdTable) -> Result<Connection, Error> {
        let local = wire.is_local();
        let mine = self.source.current()?;
        let acceptor = TlsAcceptor::from(mine.server.clone());
        let refused = |source: io::Error| Error::Dial { address: "a client".into(), source: source.into() };
        let stream = acceptor.accept(wire).await.map_err(refused)?;
        let tls = stream.get_ref().1;
        // Whoever names no protocol does not speak gRPC, and would be waited for.
        if tls.alpn_protocol() != Some(tls::ALPN) {
            return Err(refused(io::Error::new(io::ErrorKind::InvalidData, "it did not ask for HTTP/2")));
        }
        let leaf = tls.peer_certificates().and_then(|chain| chain.first());
        let session = Arc::new(Session::new(mine, leaf, &self.source)?);
        let peer = &session.peer.id;
        let too_many = || Error::TooMany { peer: peer.clone(), most: MAX_PER_PEER };
        let ticket = self.quota.take(peer).ok_or_else(too_many)?;
        files.trust(ticket.files.clone());
        self.source.counts().accepted.add();
        Ok(Connection::new(stream, Accepted { session, files, local }, ticket))
    }
}

// === impl Quota ===

impl Quota {
    fn take(&self, peer: &str) -> Option<Ticket> {
        let mut counts = self.0.lock();
        let (count, files) = counts.entry(peer.to_owned()).or_default();
        if *count >= MAX_PER_PEER {
            return None;
        }
        *count += 1;
        Some(Ticket { quota: self.clone(), peer: peer.to_owned(), files: files.clone() })
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut counts = self.quota.0.lock();
        if let Some((count, _)) = counts.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_peer_has_a_bounded_number_of_connections_and_gets_one_again_when_one_ends() {
        let quota = Quota::default();
        let mut tickets: Vec<_> = (0..MAX_PER_PEER).map(|_| quota.take("spiffe://d/a").unwrap()).collect();
        assert!(quota.take("spiffe://d/a").is_none());
        assert!(quota.take("spiffe://d/b").is_some());
        tickets.pop();
        assert!(quota.take("spiffe://d/a").is_some());
        tickets.clear();
        assert!(quota.0.lock().is_empty());
    }
}

//! Listening sockets, and what a handler learns of the connection its call came on.

mod connection;
mod incoming;

use std::{
    fs, io,
    net::{IpAddr, SocketAddr},
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::Arc,
    time::Duration,
};

use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Router;

use self::incoming::incoming;
use super::{Error, FdTable, Session, Source, wire::Wire};
use crate::settings::Target;

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
        let incoming = incoming(self, source, stop.clone());
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

#[cfg(test)]
mod tests;

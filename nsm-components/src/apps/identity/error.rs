//! Why an identity process cannot start or go on.

use std::{io, path::PathBuf};

use super::{generations::GenerationError, id::IdError, tls::OwnSvidError};

/// What ended an identity process.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The Workload API can only be served on a unix socket.
    #[error("NSM_LISTEN_ON={0} cannot serve the Workload API: use unix:///path")]
    NoUnixSocket(String),
    /// Something else lies where the socket should be.
    #[error("{} is no socket and is left alone: move it away or set NSM_LISTEN_ON", .0.display())]
    NotASocket(PathBuf),
    /// A file or folder could not be used.
    #[error("cannot {what} {}", .path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The trust domain cannot stand in a SPIFFE ID.
    #[error(transparent)]
    Id(#[from] IdError),
    /// The root key cannot be used.
    #[error("cannot use the root key in {place}")]
    Root {
        /// File or object that holds it.
        place: String,
        /// Why.
        #[source]
        source: GenerationError,
    },
    /// The file of the CAs holds something else.
    #[error("{} is damaged and left alone: put a copy of it back, or remove it to make a new CA", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// A rotation was asked for and not begun.
    #[error("the identity process at {address} did not begin a rotation: {why}")]
    NotRotated {
        /// Its socket.
        address: String,
        /// What it answered, or why it did not.
        why: String,
    },
    /// A TCP address is needed.
    #[error("{variable}={value} cannot be used: use tcp://host:port")]
    NoTcp {
        /// The setting.
        variable: &'static str,
        /// What it was set to.
        value: String,
    },
    /// The TCP address could not be taken.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// There is no way to the API server.
    #[error("no API server is known to this process: it has to run in a pod with a service account")]
    Client(#[source] kube::Error),
    /// TLS cannot be set up.
    #[error("TLS cannot be set up")]
    Tls(#[source] rustls::Error),
    /// The process cannot have an identity of its own.
    #[error(transparent)]
    OwnSvid(#[from] OwnSvidError),
    /// The server ended by itself.
    #[error("the gRPC server on {address} failed")]
    Serve {
        /// Where it listened.
        address: String,
        /// Why.
        #[source]
        source: tonic::transport::Error,
    },
}

impl Error {
    /// For `map_err`: what was tried on which file.
    pub(super) fn file(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { what, path, source }
    }
}

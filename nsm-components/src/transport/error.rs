//! What can go wrong between two processes.

use std::io;

use super::wire::MAX_FILES;

/// A failure of the transport, by what failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The Workload API did not answer in time.
    #[error(
        "no identity from the Workload API at {socket} within {seconds} s: is the identity agent running?"
    )]
    NoIdentity {
        /// The socket asked.
        socket: String,
        /// How long it was waited for.
        seconds: u64,
    },
    /// The Workload API answered something that is no SVID.
    #[error("the Workload API at {socket} answered with an unusable SVID: {reason}")]
    BadSvid {
        /// The socket asked.
        socket: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A certificate without the one SPIFFE ID it must have.
    #[error("the peer's certificate cannot be used: {0}")]
    BadCertificate(&'static str),
    /// The peer could not be reached, or is not who it should be.
    #[error("cannot connect to {address}")]
    Dial {
        /// Where it was looked for.
        address: String,
        /// The transport's own error.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The peer did not answer in time.
    #[error("cannot connect to {address} within {milliseconds} ms")]
    DialTimeout {
        /// Where it was looked for.
        address: String,
        /// How long it was tried.
        milliseconds: u128,
    },
    /// The TLS configuration was refused.
    #[error("cannot set up TLS")]
    Tls(#[from] rustls::Error),
    /// A token could not be signed.
    #[error("cannot sign a token for {audience}")]
    Sign {
        /// SPIFFE ID of the token's audience.
        audience: String,
        /// The signer's own error.
        #[source]
        source: jsonwebtoken::errors::Error,
    },
    /// A listening socket could not be made.
    #[error("cannot listen on {target}")]
    Listen {
        /// What was to be listened on.
        target: String,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// A file that the message names did not come.
    #[error("the file {key} did not arrive beside the message: is the peer on another node?")]
    NoFile {
        /// The file's key.
        key: String,
    },
    /// The kernel dropped files that came beside messages.
    #[error(
        "the file {key} was dropped beside the message: the peer sent more than {MAX_FILES} at once, or this \
         process may open no more files (ulimit -n): ask again"
    )]
    Cut {
        /// The file's key.
        key: String,
    },
    /// A peer has all the connections it may have.
    #[error("{peer} has {most} connections already: it may have no more")]
    TooMany {
        /// SPIFFE ID of the peer.
        peer: String,
        /// The most it may have.
        most: usize,
    },
    /// The server ended with an error.
    #[error("serving ended")]
    Serve(#[source] tonic::transport::Error),
}

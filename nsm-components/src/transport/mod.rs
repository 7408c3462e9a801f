//! How processes reach each other: gRPC over mutual TLS by SPIFFE identities, on unix sockets and
//! TCP, with open files passed beneath TLS on the former (protocol §1.8, §3, §6.9).
//!
//! One [`Channel`] per peer, kept; one [`Session`] per TLS connection, which knows both sides'
//! leaves and makes the tokens. Nothing here knows chains.

mod calls;
mod channel;
mod counts;
mod dial;
mod error;
mod fds;
mod file;
mod issued;
mod listener;
mod session;
mod svid;
#[cfg(test)]
pub(crate) mod testing;
mod tls;
pub mod token;
mod wire;

pub use self::{
    calls::Calls,
    channel::{Channel, Channels},
    counts::{Counts, METHODS, OTHER},
    error::Error,
    fds::FdTable,
    file::file_key,
    listener::{Accepted, Listener},
    session::{Session, Token},
    svid::{Outage, Source, Svid},
};

/// Metadata key of the caller's token.
pub const CLIENT_TOKEN: &str = "nsm-client-token";

/// Metadata key of the end of that token's life, RFC 3339.
pub const CLIENT_TOKEN_EXPIRES: &str = "nsm-client-token-expires";

/// Largest header list in bytes: a path of fifty hops with a token each.
pub const MAX_HEADER_LIST: u32 = 1 << 20;

/// Largest Request, registration or query that is read, in bytes, and largest answer to a Request: a
/// path of fifty hops, with as much again for all else. A larger one is refused with `OutOfRange`
/// before it is read.
pub const MAX_MESSAGE: usize = 256 << 10;

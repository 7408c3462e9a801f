//! Identity: who a process is, proved by an X.509-SVID from a SPIFFE Workload API socket.
//!
//! Three processes serve it. [`standalone`] signs for the programs of one host. On Kubernetes the
//! [`agent`] of each node attests the pod that calls and holds its keys, and the [`authority`] of
//! the cluster says what that pod is and signs. Every SVID on a node goes the same way:
//!
//! ```text
//! socket -> attest (peer to process, process to pod) -> renewal (one task per caller)
//!        -> issue (own CA, or the authority) -> workload_api (messages on the open streams)
//! ```
//!
//! A caller that cannot be served yet waits on its open stream; a valid SVID is never taken back.

pub mod agent;
pub mod authority;
pub mod standalone;

mod attest;
mod backoff;
mod bundle;
mod ca;
mod control;
mod error;
#[cfg(test)]
mod fake_api;
mod generations;
mod id;
mod issuer;
mod jwt;
mod listener;
mod pod;
mod pods;
mod probe;
mod published;
mod renewal;
mod review;
mod root;
mod signing;
mod socket;
mod store;
mod svid;
mod tls;
mod workload_api;
mod x509;

pub(super) use backoff::WatchBackoff;
pub use control::{Rotation, rotate};
pub use error::Error;
pub use probe::{ProbeError, probe_agent, probe_authority};

//! What a process did towards its peers, counted where it happens: dials, signatures, calls by method.
//! Plain counters without locks, shared by all channels and listeners of one identity.

use std::sync::atomic::{AtomicU64, Ordering};

/// The methods of the mesh's API, as they stand in a call's path (protocol §1.1). What is none of
/// them is counted as [`OTHER`].
pub const METHODS: [&str; 10] = [
    "/networkservice.NetworkService/Request",
    "/networkservice.NetworkService/Close",
    "/connection.MonitorConnection/MonitorConnections",
    "/registry.NetworkServiceRegistry/Register",
    "/registry.NetworkServiceRegistry/Find",
    "/registry.NetworkServiceRegistry/Unregister",
    "/registry.NetworkServiceEndpointRegistry/Register",
    "/registry.NetworkServiceEndpointRegistry/Find",
    "/registry.NetworkServiceEndpointRegistry/Unregister",
    OTHER,
];

/// Name that stands for all other methods.
pub const OTHER: &str = "other";

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

/// All counts of one process; everything is zero at its start.
#[derive(Debug, Default)]
pub struct Counts {
    /// TLS connections made to peers.
    pub dials: Counter,
    /// TLS connections of peers that were accepted.
    pub accepted: Counter,
    /// Connections of peers whose handshake failed or took too long.
    pub refused: Counter,
    /// Tokens signed.
    pub signatures: Counter,
    /// Tokens used again instead.
    pub signatures_saved: Counter,
    /// Signatures of tokens verified.
    pub verifications: Counter,
    /// Tokens that were known to be verified.
    pub verifications_saved: Counter,
    calls: [Counter; METHODS.len()],
}

impl Counter {
    /// One more.
    pub fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// How many so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Counts {
    /// One more call to a peer, by its path.
    pub(super) fn called(&self, path: &str) {
        let method = METHODS.iter().position(|method| *method == path).unwrap_or(METHODS.len() - 1);
        self.calls[method].add();
    }

    /// Calls made to peers, one row for each of [`METHODS`] in their order.
    pub fn calls(&self) -> impl Iterator<Item = (&'static str, u64)> {
        METHODS.iter().copied().zip(self.calls.iter().map(Counter::get))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_by_method_and_strange_ones_together() {
        let counts = Counts::default();
        for path in [METHODS[0], METHODS[0], METHODS[8], "/grpc.health.v1.Health/Check", "/x"] {
            counts.called(path);
        }
        let seen: Vec<_> = counts.calls().filter(|(_, count)| *count > 0).collect();
        assert_eq!(seen, [(METHODS[0], 2), (METHODS[8], 1), (OTHER, 2)]);
    }
}

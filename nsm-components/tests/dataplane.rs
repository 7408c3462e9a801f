//! The data plane on the real kernel. Needs root; sends packets only inside of its own namespaces.

// Helpers of tests are tests: what they cannot do fails the test.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "dataplane/adopt.rs"]
mod adopt;
#[path = "dataplane/local.rs"]
mod local;
#[path = "dataplane/monitor.rs"]
mod monitor;
#[path = "dataplane/owner.rs"]
mod owner;
#[path = "dataplane/policies.rs"]
mod policies;
#[path = "dataplane/remote.rs"]
mod remote;
#[path = "dataplane/remove.rs"]
mod remove;
#[path = "dataplane/world.rs"]
mod world;

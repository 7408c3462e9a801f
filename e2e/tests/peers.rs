//! Upstream's processes beside ours: what each of them is told over the wire, the other takes. One
//! process of a mesh is composed of upstream's own packages (`e2e/peers`), the rest is ours. Needs
//! root, and `go build -o bin/peers .` in that folder; sends packets only inside of its own
//! namespaces.

// Helpers of tests are tests: what they cannot do fails the test.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "peers/finds.rs"]
mod finds;
#[path = "peers/forwarder.rs"]
mod forwarder;
#[path = "peers/identity.rs"]
mod identity;
#[path = "peers/matrix.rs"]
mod matrix;
#[path = "peers/nsc.rs"]
mod nsc;
#[path = "peers/nse.rs"]
mod nse;
#[path = "peers/nsmgr.rs"]
mod nsmgr;
#[path = "peers/refusals.rs"]
mod refusals;
#[path = "peers/registry.rs"]
mod registry;
#[path = "netns/stranger.rs"]
#[allow(dead_code)] // Tests of namespaces use more of it.
mod stranger;
#[path = "peers/upstream.rs"]
mod upstream;

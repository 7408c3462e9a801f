//! The mesh with SPIRE in place of its own identity: SPIRE's server and agent, built from upstream's
//! module (`e2e/spire`), give every process its SVID. Needs root and `NSM_SPIRE_BIN`, the program
//! that `e2e/spire.sh` builds; sends packets only inside of its own namespaces.

// Helpers of tests are tests: what they cannot do fails the test.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "spire/configuration.rs"]
mod configuration;
#[path = "spire/connections.rs"]
mod connections;
#[path = "spire/server.rs"]
mod server;
#[path = "spire/stage.rs"]
mod stage;
#[path = "netns/story.rs"]
#[allow(dead_code)] // Tests of namespaces use more of it.
mod story;
#[path = "spire/trust.rs"]
mod trust;

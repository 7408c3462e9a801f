//! The operator and its resources before a real API server: what the server takes and refuses, what
//! the operator asks of it, and what it may. Runs on the machine's loopback, needs no root.
//!
//! There are no nodes here; tests say themselves what a kubelet would.

// Helpers of tests are tests: what they cannot do fails the test.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "controlplane/definitions.rs"]
mod definitions;
#[path = "controlplane/drift.rs"]
mod drift;
#[path = "controlplane/install.rs"]
mod install;
#[path = "controlplane/rest.rs"]
mod rest;
#[path = "controlplane/stage.rs"]
mod stage;

//! The operator and its resources before a real API server: what the server takes and refuses, what
//! the operator asks of it, and what it may. Runs on the machine's loopback, needs no root.
//!
//! There are no nodes here; tests say themselves what a kubelet would.

// Helpers of tests are tests: what they cannot do fails the test.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "controlplane/annotations.rs"]
mod annotations;
#[path = "controlplane/chart.rs"]
mod chart;
#[path = "controlplane/crash.rs"]
mod crash;
#[path = "controlplane/definitions.rs"]
mod definitions;
#[path = "controlplane/drift.rs"]
mod drift;
#[path = "controlplane/election.rs"]
mod election;
#[path = "controlplane/endpoints.rs"]
mod endpoints;
#[path = "controlplane/install.rs"]
mod install;
#[path = "controlplane/invalid.rs"]
mod invalid;
#[path = "controlplane/outage.rs"]
mod outage;
#[path = "controlplane/overrides.rs"]
mod overrides;
#[path = "controlplane/plan.rs"]
mod plan;
#[path = "controlplane/prune.rs"]
mod prune;
#[path = "controlplane/random.rs"]
mod random;
#[path = "controlplane/recreated.rs"]
mod recreated;
#[path = "controlplane/registry/mod.rs"]
mod registry;
#[path = "controlplane/removal.rs"]
mod removal;
#[path = "controlplane/repair.rs"]
mod repair;
#[path = "controlplane/reports.rs"]
mod reports;
#[path = "controlplane/rest.rs"]
mod rest;
#[path = "controlplane/rights.rs"]
mod rights;
#[path = "controlplane/rollout.rs"]
mod rollout;
#[path = "controlplane/settings.rs"]
mod settings;
#[path = "controlplane/stage.rs"]
mod stage;
#[path = "controlplane/storms.rs"]
mod storms;
#[path = "controlplane/teardown.rs"]
mod teardown;
#[path = "controlplane/told.rs"]
mod told;

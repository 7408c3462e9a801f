//! The operator: resources into workloads, health into status. It knows no netlink and no wire.
//!
//! | modules | what they do | effects |
//! |---|---|---|
//! | [`names`], [`object`] | words that all share: labels, kinds, keys | none |
//! | [`validate`], [`render`], [`install`] | resources and settings into the objects they mean | none |
//! | [`compare`], [`plan`], [`convergence`], [`status`] | desired and observed into differences, steps, conditions and sums | none |
//! | [`rollout`] | which revision of the node daemons runs on which node, and the next step | none |
//! | [`kept`] | what of objects must outlive them | none |
//! | [`server`] | which API servers will do | none |
//! | [`preflight`] | what is looked at before a leader begins | reads |
//! | [`dereference`], [`collect`] | what the watches know, and the watches | reads |
//! | [`election`] | which of several operators leads, from its Lease and a clock; the mesh has it, too | none |
//! | [`lease`] | the Lease, and the fence before all writes | writes it |
//! | [`apply`] | the only writer of everything else, behind the fence | writes |
//! | [`metrics`] | figures | none |
//! | [`ledger`] | counts what is asked of the API server | none |
//! | [`health`] | serves figures and health | listens |
//! | [`forecast`] | what an `NSMConfig` would change on a cluster | reads |
//! | [`remove`] | removes a mesh as its user would, for uninstalling | deletes the `NSMConfig` |
//! | [`daemon`] | client, logs, signals | process |
//! | [`controllers`] | which of the above follows which event | by way of the others |
//!
//! Arrows go up only (`tests/arrows.rs` keeps it): what has no effects knows nothing that has.
//!
//! At rest the operator asks the API server for nothing but its Lease: what it compares comes from its
//! watches, and what is in sync is not written.

pub mod apply;
pub mod collect;
pub mod compare;
pub mod controllers;
pub mod convergence;
pub mod daemon;
pub mod dereference;
pub use nsm_components::election;
pub mod forecast;
pub mod health;
pub mod install;
pub mod kept;
pub mod lease;
pub mod ledger;
pub mod metrics;
pub mod names;
pub mod object;
pub mod plan;
pub mod preflight;
pub mod remove;
pub mod render;
pub mod rollout;
pub mod server;
pub mod status;
pub mod validate;

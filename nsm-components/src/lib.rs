//! Network Service Mesh: registry, nsmgr, forwarder, identity, client and endpoint.
//!
//! The folders are layers; each may use only what stands above it here, and modules of one line
//! do not know each other (`tests/arrows.rs` keeps it):
//!
//! 1. [`api`], [`settings`], [`election`]: names, wire types and pure rules
//! 2. `chain`, `transport`, `dataplane`, `daemon`: mechanisms
//! 3. `elements`: links of chains, under upstream's names
//! 4. `apps`: the processes, each a chain that reads top to bottom as its design
//!
//! Without the feature `mesh` only the names and settings are left, and with
//! `election` who of several writes: all that the operator needs.

pub mod api;
#[cfg(feature = "election")]
pub mod election;
pub mod settings;

#[cfg(feature = "mesh")]
pub mod apps;
#[cfg(feature = "mesh")]
pub mod chain;
#[cfg(feature = "mesh")]
pub mod daemon;
#[cfg(feature = "mesh")]
pub mod dataplane;
#[cfg(feature = "mesh")]
pub mod elements;
#[cfg(feature = "mesh")]
pub mod transport;

//! The processes of the mesh, each a short list of what it is made of.

pub mod connections;
pub mod drain;
mod endpoint;
mod figures;
pub mod forwarder;
pub mod health;
pub mod identity;
mod mesh;
pub mod nsc;
pub mod nse;
pub mod nsmgr;
mod outage;
mod policies;
pub mod purge;
pub mod registry;
pub mod standalone;

pub use self::{endpoint::Endpoint, mesh::Error};

//! A real API server for tests, and those who act on it.
//!
//! | what | who it stands for |
//! |---|---|
//! | [`ControlPlane`] | etcd, the API server and, when wanted, the controllers; gone with the test |
//! | [`Account`] | a service account, with exactly the rights it was given |
//! | [`Operator`] | the operator's real process, under its own account |
//! | [`Kubelet`] | the nodes there are none of: says that pods run |
//! | [`Proxy`] | an API server that is overloaded, or has forgotten |
//! | [`Audit`] | the API server's own record of who asked for what |
//!
//! Nothing here leaves the machine's loopback.

mod account;
mod audit;
mod kubelet;
mod manifests;
mod operator;
mod plane;
mod programs;
mod proxy;
mod wait;

pub use self::{
    account::Account,
    audit::{Audit, Mark, Request, Requests, without_revision},
    kubelet::Kubelet,
    manifests::{MANAGER, api, apply, apply_file, create, documents, file},
    operator::Operator,
    plane::ControlPlane,
    programs::repository,
    proxy::{Fate, Proxy},
    wait::{DEADLINE, eventually},
};

//! From what was observed to what stands in status. No effects, and no clock of its own: `now` is
//! given.

mod conditions;
mod config;
mod endpoint;
mod rollup;
mod service;
mod workload;

pub use self::{
    conditions::{Verdict, conditions},
    config::{ConfigInput, GRACE, Outcome, config},
    endpoint::{Accepted, EndpointInput, endpoint},
    rollup::{ServiceRollup, TemplateRollup, mesh, network_service, template},
    service::service,
    workload::Rollout,
};

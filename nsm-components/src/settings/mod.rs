//! Settings of every process: read from the environment here, rendered into workloads by the
//! operator with the same names. Names and defaults are upstream's where upstream has them
//! (protocol §8); durations are written as in Go (`200ms`, `1m30s`).
//!
//! Reading never stops at the first mistake: [`Errors`] lists all, each with the variable, the
//! value and what is allowed.

mod components;
mod duration;
mod loglevel;
mod reader;
mod recorded;
mod url;
pub mod vars;

use std::{collections::BTreeMap, fmt};

pub(crate) use self::reader::Reader;
pub use self::{
    components::{
        Common, Connections, DnsServers, Endpoint, Forwarder, IdentityAgent, IdentityAuthority,
        IdentityStandalone, IpamPolicy, Nsc, Nse, Nsmgr, ObjectRef, Policies, Purge, Registry, Shown,
        Standalone, Storage,
    },
    loglevel::LogLevel,
    recorded::Recorded,
    url::{NsmUrl, Target, UrlError},
};

/// Where settings come from: the process's environment, or a map in tests.
pub trait Vars {
    /// The value of a variable; set but empty is `Some("")`.
    fn get(&self, name: &str) -> Option<String>;
}

/// The environment of this process.
#[derive(Clone, Copy, Debug)]
pub struct ProcessEnvironment;

impl Vars for ProcessEnvironment {
    fn get(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }
}

impl Vars for BTreeMap<String, String> {
    fn get(&self, name: &str) -> Option<String> {
        BTreeMap::get(self, name).cloned()
    }
}

/// One bad variable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name}={value:?} is not allowed: {allowed}")]
pub struct SettingError {
    /// Name of the variable.
    pub name: String,
    /// What it was set to; empty when it is missing.
    pub value: String,
    /// What would have been right.
    pub allowed: String,
}

/// All bad variables of one process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Errors(pub Vec<SettingError>);

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of the settings cannot be used", self.0.len())?;
        self.0.iter().try_for_each(|error| write!(f, "\n  {error}"))
    }
}

impl std::error::Error for Errors {}

#[cfg(test)]
mod tests;

//! Settings of `nsm registry`.

use super::{Common, SECOND};
use crate::settings::{Errors, Reader, Target, Vars, vars};

/// `nsm registry`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registry {
    /// What all read.
    pub common: Common,
    /// `NSM_LISTEN_ON`.
    pub listen_on: Vec<Target>,
}

impl Registry {
    /// Reads all settings of the process.
    pub fn read(vars: &dyn Vars) -> Result<Self, Errors> {
        let mut reader = Reader::new(vars);
        let settings = Self {
            common: Common::read(&mut reader, "registry", 5 * SECOND),
            listen_on: reader.list(vars::NSM_LISTEN_ON, "tcp://:5002"),
        };
        reader.finish(settings)
    }
}

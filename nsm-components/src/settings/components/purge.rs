//! Settings of `nsm purge`.

use std::path::PathBuf;

use super::forwarder;
use crate::settings::{Errors, Reader, Vars};

/// `nsm purge`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Purge {
    /// `NSM_BASE_DIR`: folder of the journal, as the forwarder has it.
    pub base_dir: PathBuf,
}

impl Purge {
    /// Reads all settings of the command.
    pub fn read(vars: &dyn Vars) -> Result<Self, Errors> {
        let mut reader = Reader::new(vars);
        let settings = Self { base_dir: forwarder::base_dir(&mut reader) };
        reader.finish(settings)
    }
}

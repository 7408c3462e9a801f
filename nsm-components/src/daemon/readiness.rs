//! What a process still lacks before it can serve.

use std::{fmt, sync::Arc};

use parking_lot::Mutex;

/// Says what is missing, or nothing.
type Check = Box<dyn Fn() -> Option<String> + Send>;

/// All that must be there. Clones share it.
#[derive(Clone, Default)]
pub struct Readiness(Arc<Mutex<Vec<(&'static str, Check)>>>);

impl fmt::Debug for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.missing()).finish()
    }
}

impl Readiness {
    /// One more thing that must be there; `check` answers why it is not, or nothing.
    pub fn require(&self, what: &'static str, check: impl Fn() -> Option<String> + Send + 'static) {
        self.0.lock().push((what, Box::new(check)));
    }

    /// What is missing now, each with its reason; empty when the process is ready.
    pub fn missing(&self) -> Vec<(&'static str, String)> {
        self.0.lock().iter().filter_map(|(what, check)| Some((*what, check()?))).collect()
    }
}

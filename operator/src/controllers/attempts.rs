//! How often each object failed in a row, and so how long to wait before the next attempt.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_mins(1);

/// Failures in a row, by object.
#[derive(Debug, Default)]
pub(super) struct Attempts(Mutex<HashMap<String, u32>>);

impl Attempts {
    /// Counts a failure: the time to wait, doubling from half a second to a minute.
    pub(super) fn failed(&self, key: &str) -> Duration {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(key.to_owned()).or_default();
        *count = count.saturating_add(1);
        FIRST.saturating_mul(1 << (*count - 1).min(10)).min(LONGEST)
    }

    /// How often the object has failed in a row.
    pub(super) fn so_far(&self, key: &str) -> u32 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(key).copied().unwrap_or(0)
    }

    /// Forgets the failures of an object.
    pub(super) fn succeeded(&self, key: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_start_anew_after_success() {
        let attempts = Attempts::default();
        let waits: Vec<Duration> = (0..40).map(|_| attempts.failed("a")).collect();
        assert_eq!(waits[..3], [FIRST, FIRST * 2, FIRST * 4]);
        assert_eq!(waits[39], LONGEST);
        assert_eq!((attempts.so_far("a"), attempts.so_far("b")), (40, 0));
        attempts.succeeded("a");
        assert_eq!(attempts.failed("a"), FIRST);
    }
}

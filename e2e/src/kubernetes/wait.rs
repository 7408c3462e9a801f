//! Waiting for what should come true.

use std::time::Duration;

use anyhow::Result;

use crate::wait;

/// How long anything may take that should come true: far longer than it does on a busy machine.
/// The slowest is the garbage collector, which looks for new kinds twice a minute.
pub const DEADLINE: Duration = Duration::from_secs(75);

/// Looks until it succeeds. After [`DEADLINE`] it fails with what was wrong at the last look.
pub async fn eventually<T>(what: &str, look: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    wait::eventually(wait::PACE, what, DEADLINE, look).await
}

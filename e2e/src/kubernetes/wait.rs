//! Waiting for what should come true.

use std::time::Duration;

use anyhow::{Result, anyhow};
use tokio::time::{Instant, sleep, timeout_at};

/// How long anything may take that should come true: far longer than it does on a busy machine.
/// The slowest is the garbage collector, which looks for new kinds twice a minute.
pub const DEADLINE: Duration = Duration::from_secs(75);

/// Pause between two looks.
const PACE: Duration = Duration::from_millis(25);

/// Looks until it succeeds. After [`DEADLINE`] it fails with what was wrong at the last look.
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let end = Instant::now() + DEADLINE;
    let mut last = anyhow!("the first look has not come back");
    loop {
        match timeout_at(end, look()).await {
            Ok(Ok(seen)) => return Ok(seen),
            Ok(Err(error)) => last = error,
            Err(_) => {}
        }
        if Instant::now() >= end {
            return Err(last.context(format!("not within {DEADLINE:?}: {what}")));
        }
        sleep(PACE).await;
    }
}

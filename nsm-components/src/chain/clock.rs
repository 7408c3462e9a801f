//! Time, so that it can be faked.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Tells the wall clock. It judges tokens and nothing else: waiting is on the monotonic clock, so
/// a clock that jumps ends no connection.
pub trait Now: Send + Sync + 'static {
    /// Seconds since the epoch.
    fn seconds(&self) -> f64;
}

/// A shared clock.
pub type Clock = Arc<dyn Now>;

impl dyn Now {
    /// Time from now to a moment given in seconds since the epoch; zero when it is over.
    pub fn until(&self, seconds: i64) -> Duration {
        #[allow(clippy::cast_precision_loss)] // exact until the year 285,000,000
        let left = seconds as f64 - self.seconds();
        Duration::try_from_secs_f64(left).unwrap_or_default()
    }
}

/// The system's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Now for SystemClock {
    fn seconds(&self) -> f64 {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
    }
}

//! Time, so that it can be faked. Two clocks: the wall clock judges tokens and nothing else, so one that
//! jumps ends no connection; lives and refreshes are on the boot time, which goes on while the machine
//! sleeps, as the lives go on that other machines have granted.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::time::{ClockId, Timespec, clock_gettime};
use tokio::{sync::watch, time::Instant};
use tracing::info;

/// How often it is looked whether the machine has slept.
const LOOK: Duration = Duration::from_secs(5);

/// A difference of the clocks below this is none.
const SHORTEST: Duration = Duration::from_secs(1);

/// After a sleep nothing ends in this time: those who refresh do it now, as soon as the identity source
/// has renewed what ended meanwhile, which it notices within half a minute.
const GRACE: Duration = Duration::from_mins(1);

/// How a machine slept (suspended to memory or to disk).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slept {
    /// All of it together.
    pub total: Duration,
    /// When the end of the last one was noticed.
    pub woke: Option<Instant>,
}

/// Tells the time.
pub trait Now: Send + Sync + 'static {
    /// The wall clock, in seconds since the epoch.
    fn seconds(&self) -> f64;

    /// How the machine has slept, and anew when it wakes; here it never does.
    fn slept(&self) -> watch::Receiver<Slept> {
        watch::channel(Slept::default()).1
    }
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

    /// The boot time so much later.
    pub fn after(&self, time: Duration) -> Instant {
        Instant::now() + self.slept().borrow().total + time
    }

    /// Waits until a boot time.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    pub async fn wait_until(&self, end: Instant) {
        let mut slept = self.slept();
        loop {
            let total = slept.borrow_and_update().total;
            let left = end.saturating_duration_since(Instant::now() + total);
            tokio::select! {
                () = tokio::time::sleep(left) => return,
                Ok(()) = slept.changed() => {}
            }
        }
    }

    /// Waits until a life is over that ends at a boot time; for some time after a sleep none is.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    pub async fn wait_for_end(&self, end: Instant) {
        loop {
            self.wait_until(end).await;
            // Looked at now: this may be the first that runs after the sleep.
            let woke = self.slept().borrow().woke;
            match woke.map(|woke| woke + GRACE).filter(|end| *end > Instant::now()) {
                Some(end) => tokio::time::sleep_until(end).await,
                None => return,
            }
        }
    }
}

/// The system's clock, of a machine that does not sleep.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Now for SystemClock {
    fn seconds(&self) -> f64 {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
    }
}

/// The system's clock, of a machine that may sleep.
#[derive(Debug)]
pub struct BootClock {
    slept: watch::Sender<Slept>,
    /// The same when the clock was made.
    before: Duration,
    asleep: fn() -> Duration,
}

impl BootClock {
    /// A clock that looks by itself as long as it is used.
    pub fn start() -> Arc<Self> {
        Self::of(asleep)
    }

    pub(super) fn of(asleep: fn() -> Duration) -> Arc<Self> {
        let clock = Arc::new(Self { slept: watch::Sender::new(Slept::default()), before: asleep(), asleep });
        let weak = Arc::downgrade(&clock);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(LOOK).await;
                let Some(clock) = weak.upgrade() else { return };
                clock.look();
            }
        });
        clock
    }

    fn look(&self) {
        let total = (self.asleep)().saturating_sub(self.before);
        self.slept.send_if_modified(|known| {
            let news = total >= known.total + SHORTEST;
            if news {
                info!(time = ?total.saturating_sub(known.total), "the machine slept");
                *known = Slept { total, woke: Some(Instant::now()) };
            }
            news
        });
    }
}

impl Now for BootClock {
    fn seconds(&self) -> f64 {
        SystemClock.seconds()
    }

    fn slept(&self) -> watch::Receiver<Slept> {
        self.look();
        self.slept.subscribe()
    }
}

/// How long the machine has slept since it was started: the one clock stands meanwhile.
fn asleep() -> Duration {
    let time = |id| {
        let Timespec { tv_sec, tv_nsec } = clock_gettime(id);
        Duration::new(u64::try_from(tv_sec).unwrap_or(0), u32::try_from(tv_nsec).unwrap_or(0))
    };
    let awake = time(ClockId::Monotonic);
    time(ClockId::Boottime).saturating_sub(awake)
}

#[cfg(test)]
#[path = "clock_tests.rs"]
mod tests;

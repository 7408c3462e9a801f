//! Delays between tries: doubling, capped, with jitter so that a cluster does not try in step.

use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

const FIRST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(20);

/// Delays of one row of tries; a new one after success.
#[derive(Clone, Copy, Debug)]
pub(super) struct Backoff(Duration);

impl Backoff {
    pub(super) fn new() -> Self {
        Self(FIRST)
    }

    /// How long to wait before the next try.
    pub(super) fn next(&mut self) -> Duration {
        let delay = self.0;
        self.0 = (delay * 2).min(LONGEST);
        // Half fixed, half random.
        delay / 2 + jitter(delay / 2)
    }
}

/// Delays between the tries of a watch. kube's own starts again at every event, and a watch that
/// cannot make its first list has an event before each try: it would never slow down.
#[derive(Debug, Default)]
pub(in crate::apps) struct WatchBackoff {
    backoff: Option<Backoff>,
    last: Option<Instant>,
}

/// A watch that held this long was well.
const WELL: Duration = Duration::from_mins(1);

impl Iterator for WatchBackoff {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        if self.last.is_none_or(|last| last.elapsed() > WELL) {
            self.backoff = None;
        }
        self.last = Some(Instant::now());
        Some(self.backoff.get_or_insert_with(Backoff::new).next())
    }
}

impl kube::runtime::utils::Backoff for WatchBackoff {
    fn reset(&mut self) {}
}

/// A random part of `whole`.
pub(super) fn jitter(whole: Duration) -> Duration {
    let share = u32::from(Uuid::new_v4().as_bytes()[0]);
    whole * share / 255
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_the_cap_and_never_above_it() {
        let mut backoff = Backoff::new();
        let delays: Vec<_> = (0..20).map(|_| backoff.next()).collect();
        assert!(delays[0] <= FIRST && delays[0] >= FIRST / 2);
        assert!(delays.iter().all(|delay| *delay <= LONGEST));
        assert!(delays[19] >= LONGEST / 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_starts_again_only_after_it_was_well() {
        use kube::runtime::utils::Backoff as _;
        let mut backoff = WatchBackoff::default();
        for _ in 0..20 {
            backoff.next();
            backoff.reset();
        }
        assert!(backoff.next().unwrap() >= LONGEST / 2);
        tokio::time::advance(WELL * 2).await;
        assert!(backoff.next().unwrap() <= FIRST);
    }
}

//! Delays between tries: doubling, capped, with jitter so that a cluster does not try in step.

use std::time::Duration;

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
}

//! Pauses between tries: each twice as long as the last up to a limit, none as long as another's.

use std::time::Duration;

/// The pauses of one task; see the module.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    /// From `first` up to `most`.
    pub fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, next: first }
    }

    /// The next pause.
    pub fn pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(self.most);
        jitter(pause)
    }

    /// Something succeeded: the next pause is the first one.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

/// Up to a tenth less: what began together shall not go on together.
pub fn jitter(duration: Duration) -> Duration {
    let [byte, ..] = *uuid::Uuid::new_v4().as_bytes();
    duration.saturating_sub(duration * u32::from(byte) / 2560)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_limit_and_begin_anew_after_a_success() {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_millis(500));
        let within = |pause: Duration, most: u64| {
            assert!(pause <= Duration::from_millis(most) && pause >= Duration::from_millis(most * 9 / 10));
        };
        for most in [200, 400, 500, 500] {
            within(backoff.pause(), most);
        }
        backoff.reset();
        within(backoff.pause(), 200);
    }

    #[test]
    fn a_hundred_that_began_together_do_not_all_go_on_together() {
        let all: std::collections::BTreeSet<_> = (0..100).map(|_| jitter(Duration::from_mins(1))).collect();
        assert!(all.len() > 10, "{}", all.len());
    }
}

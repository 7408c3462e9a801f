//! Times, their quantiles, and rounds of two things beside each other.

use std::{fs, future::Future, time::Duration};

use anyhow::Result;

/// Rounds of each side; the first is not counted.
const ROUNDS: usize = 8;

/// Times of one kind of call.
#[derive(Clone, Debug, Default)]
pub(crate) struct Times(Vec<Duration>);

/// Two sides measured in turns: A B B A A B …
#[derive(Debug, Default)]
pub(crate) struct Pair {
    /// What is measured.
    pub(crate) ours: Times,
    /// What it is held against.
    pub(crate) limit: Times,
    /// Median of each round of ours by that of the limit, in order of size.
    pub(crate) ratios: Vec<f64>,
    /// How busy the machine was with everything, in percent.
    pub(crate) busy: f64,
}

/// The machine's share of time that was not idle, from here to [`Busy::percent`].
pub(crate) struct Busy(u64, u64);

// === impl Times ===

impl Times {
    pub(crate) fn push(&mut self, time: Duration) {
        self.0.push(time);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The time that this share of all stays below, in milliseconds.
    pub(crate) fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort();
        #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let index = ((sorted.len() as f64 * share) as usize).min(sorted.len().saturating_sub(1));
        sorted.get(index).copied().unwrap_or_default().as_secs_f64() * 1e3
    }

    pub(crate) fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }
}

// === impl Pair ===

impl Pair {
    /// Runs rounds of both sides in turns.
    pub(crate) async fn measure<A, B>(
        mut ours: impl FnMut(usize) -> A,
        mut limit: impl FnMut(usize) -> B,
    ) -> Result<Self>
    where
        A: Future<Output = Result<Times>>,
        B: Future<Output = Result<Times>>,
    {
        let (mut pair, busy) = (Self::default(), Busy::start());
        for round in 0..ROUNDS {
            let (a, b) = if round % 2 == 0 {
                let a = ours(round).await?;
                (a, limit(round).await?)
            } else {
                let b = limit(round).await?;
                (ours(round).await?, b)
            };
            if round > 0 {
                pair.ratios.push(a.quantile(0.5) / b.quantile(0.5));
                pair.ours.extend(a);
                pair.limit.extend(b);
            }
        }
        pair.ratios.sort_by(f64::total_cmp);
        pair.busy = busy.percent();
        Ok(pair)
    }

    /// Median of the rounds' ratios.
    pub(crate) fn ratio(&self) -> f64 {
        self.ratios[self.ratios.len() / 2]
    }
}

// === impl Busy ===

impl Busy {
    pub(crate) fn start() -> Self {
        let (idle, all) = Self::read();
        Self(idle, all)
    }

    pub(crate) fn percent(&self) -> f64 {
        let (idle, all) = Self::read();
        #[allow(clippy::cast_precision_loss)]
        let idle = (idle - self.0) as f64 / ((all - self.1).max(1)) as f64;
        (1.0 - idle) * 100.0
    }

    /// Ticks idle and ticks in all (proc(5), `/proc/stat`).
    fn read() -> (u64, u64) {
        let text = fs::read_to_string("/proc/stat").unwrap_or_default();
        let first = text.lines().next().unwrap_or_default();
        let ticks: Vec<u64> = first.split_whitespace().skip(1).filter_map(|tick| tick.parse().ok()).collect();
        (ticks.iter().skip(3).take(2).sum(), ticks.iter().take(8).sum())
    }
}

//! What became of the connections that an earlier process left: what a rollout has to know.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::info;

use super::Standing;
use crate::dataplane::{Applied, Quiesced};

/// The connections that an earlier process left, by what became of them. What is in none of the parts is
/// waited for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// How many there were in the journal.
    pub baseline: u64,
    /// Asked for again, and found with links.
    pub recovered: u64,
    /// Closed by their clients before they asked again.
    pub closed_by_client: u64,
    /// Asked for again and found without links, or not asked for in time.
    pub lost: u64,
    /// Longest time for which one of them may have carried nothing: from the end of the earlier process, or
    /// from the start of this one where that end was not told, until it was made good.
    pub longest_gap: Duration,
    /// Whether the earlier process said that it stopped and left everything in place.
    pub quiesced: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Adoption {
    report: Mutex<Report>,
    /// When nobody served any more.
    since: Instant,
}

// === impl Report ===

impl Report {
    /// How many of them nothing is known of yet.
    pub fn pending(&self) -> u64 {
        self.baseline.saturating_sub(self.recovered + self.closed_by_client + self.lost)
    }
}

// === impl Adoption ===

impl Adoption {
    /// Of so many connections, after a process that said this when it stopped.
    pub(super) fn new(baseline: usize, quiesced: Option<&Quiesced>) -> Self {
        let report = Report { baseline: baseline as u64, quiesced: quiesced.is_some(), ..Report::default() };
        let away = quiesced.map(|quiesced| quiesced.ago).unwrap_or_default();
        let now = Instant::now();
        Self { report: Mutex::new(report), since: now.checked_sub(away).unwrap_or(now) }
    }

    /// As it is now.
    pub fn report(&self) -> Report {
        *self.report.lock()
    }

    /// A connection was asked for with success, which was that before.
    pub(super) fn asked(&self, before: Option<Standing>, applied: Applied) {
        let gap = match applied {
            Applied::Adopted => Duration::ZERO,
            _ => self.since.elapsed(),
        };
        self.settle(before, |report| {
            let found = if applied == Applied::Created { &mut report.lost } else { &mut report.recovered };
            *found += 1;
            report.longest_gap = report.longest_gap.max(gap);
        });
    }

    /// A connection was closed by its client.
    pub(super) fn closed(&self, before: Option<Standing>) {
        self.settle(before, |report| report.closed_by_client += 1);
    }

    /// A connection was not asked for in time.
    pub(super) fn not_asked(&self, before: Option<Standing>) {
        self.settle(before, |report| report.lost += 1);
    }

    fn settle(&self, before: Option<Standing>, change: impl FnOnce(&mut Report)) {
        if before != Some(Standing::Left) {
            return;
        }
        let mut report = self.report.lock();
        change(&mut report);
        if report.pending() == 0 {
            let Report { baseline, recovered, closed_by_client, lost, longest_gap, quiesced } = *report;
            info!(
                baseline,
                recovered,
                closed_by_client,
                lost,
                ?longest_gap,
                quiesced,
                "adoption is complete"
            );
        }
    }
}

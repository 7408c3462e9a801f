//! The table, and the same as JSON.

use std::{fs, path::Path};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::sample::Pair;

/// One figure.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Figure {
    pub(crate) id: &'static str,
    pub(crate) what: String,
    pub(crate) unit: &'static str,
    pub(crate) value: f64,
    pub(crate) p99: Option<f64>,
    /// The same without the mesh, in this run.
    pub(crate) limit: Option<f64>,
    pub(crate) peer: Option<f64>,
    pub(crate) ratio_to_limit: Option<f64>,
    /// Smallest and largest ratio of a round.
    pub(crate) ratio_spread: Option<(f64, f64)>,
    pub(crate) ratio_to_peer: Option<f64>,
    pub(crate) samples: usize,
    pub(crate) busy_percent: f64,
    /// What must hold, in words, and whether it does.
    pub(crate) bar: String,
    pub(crate) holds: bool,
}

/// All figures of a run.
#[derive(Debug, Default)]
pub(crate) struct Report(Vec<Figure>);

// === impl Figure ===

impl Figure {
    /// A median beside its limit, whose ratio may not exceed `bar`.
    pub(crate) fn ratio(id: &'static str, what: &str, pair: &Pair, bar: f64) -> Self {
        let ratio = pair.ratio();
        Self {
            id,
            what: what.to_owned(),
            unit: "ms",
            value: pair.ours.quantile(0.5),
            p99: Some(pair.ours.quantile(0.99)),
            limit: Some(pair.limit.quantile(0.5)),
            ratio_to_limit: Some(ratio),
            ratio_spread: pair.ratios.first().copied().zip(pair.ratios.last().copied()),
            samples: pair.ours.len(),
            busy_percent: pair.busy,
            bar: format!("p50 at most {bar} x the limit"),
            holds: ratio <= bar,
            ..Self::default()
        }
    }

    /// A value that may not exceed `bar`.
    pub(crate) fn at_most(id: &'static str, what: &str, unit: &'static str, value: f64, bar: f64) -> Self {
        let holds = value <= bar;
        let bar = format!("at most {bar} {unit}");
        Self { id, what: what.to_owned(), unit, value, bar, holds, ..Self::default() }
    }
}

// === impl Report ===

impl Report {
    /// Adds a figure and says it.
    pub(crate) fn add(&mut self, figure: Figure) {
        let optional =
            |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.3}"));
        if self.0.is_empty() {
            println!(
                "{:4} {:62} {:>11} {:>10} {:>10} {:>7} {:>15} {:>6}  bar",
                "id", "what", "value", "p99", "limit", "ratio", "spread", "busy"
            );
        }
        let spread = figure
            .ratio_spread
            .map_or_else(|| "-".to_owned(), |(low, high)| format!("{low:.2} to {high:.2}"));
        println!(
            "{:4} {:62} {:>7.3} {:3} {:>10} {:>10} {:>7} {:>15} {:>5.0}%  {}: {}",
            figure.id,
            figure.what,
            figure.value,
            figure.unit,
            optional(figure.p99),
            optional(figure.limit),
            optional(figure.ratio_to_limit),
            spread,
            figure.busy_percent,
            figure.bar,
            if figure.holds { "holds" } else { "MISSED" }
        );
        self.0.push(figure);
    }

    /// Writes the results; fails when a bar was missed.
    pub(crate) fn finish(self, path: &Path) -> Result<()> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(path, serde_json::to_string_pretty(&self.0)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
        println!("{}", path.display());
        let missed: Vec<_> =
            self.0.iter().filter(|figure| !figure.holds).map(|figure| &*figure.what).collect();
        if !missed.is_empty() {
            bail!("missed: {}", missed.join("; "));
        }
        Ok(())
    }
}

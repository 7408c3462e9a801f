//! From the start of a process to its first answer.

use std::time::Instant;

use anyhow::Result;
use nix::sys::signal::Signal;

use crate::{
    report::{Figure, Report},
    sample::{Busy, Times},
    stage::{REGISTRY, Stage},
};

/// Starts of each.
const STARTS: usize = 10;

pub(crate) async fn measure(stage: &Stage, report: &mut Report) -> Result<()> {
    let (mut registries, mut nsmgrs, busy) = (Times::default(), Times::default(), Busy::start());
    for _ in 0..STARTS {
        let begin = Instant::now();
        let mut registry = stage.registry("registry", REGISTRY).await?;
        registries.push(begin.elapsed());
        let begin = Instant::now();
        let mut nsmgr = stage.nsmgr().await?;
        nsmgrs.push(begin.elapsed());
        for process in [&mut nsmgr, &mut registry] {
            process.signal(Signal::SIGKILL)?;
            process.ended()?;
        }
    }
    for (what, times) in [("registry", registries), ("nsmgr", nsmgrs)] {
        let what = format!("{what}, from its start to its first answer");
        report.add(Figure {
            p99: Some(times.quantile(0.99)),
            samples: times.len(),
            busy_percent: busy.percent(),
            ..Figure::at_most("P29", &what, "ms", times.quantile(0.5), 100.0)
        });
    }
    Ok(())
}

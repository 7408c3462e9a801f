//! Figures of the operator beside their limits, on a real API server (`make operator-bench`): how soon it
//! answers, how long it takes to start, and how much it holds.

#[allow(dead_code, reason = "shared with the figures of the mesh")]
#[path = "../figures/report.rs"]
mod report;
#[allow(dead_code, reason = "shared with the figures of the mesh")]
#[path = "../figures/sample.rs"]
mod sample;

mod answers;
mod crowd;
mod stage;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;
use nsm_e2e::kubernetes::Operator;

use crate::{
    report::{Figure, Report},
    sample::Times,
    stage::Stage,
};

/// Measures the operator and writes target/bench/operator.json.
#[derive(Parser)]
struct Arguments {
    /// Where the results are written.
    #[arg(long, default_value = "target/bench/operator.json")]
    results: PathBuf,
    /// The operator's image, as an archive; without it its size is not told.
    #[arg(long)]
    image: Option<PathBuf>,
    /// What cargo adds.
    #[arg(long, hide = true)]
    bench: bool,
}

const MIB: f64 = 1024.0 * 1024.0;

/// Starts with all endpoints there.
const STARTS: usize = 5;

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let mut report = Report::default();
    let mut stage = Stage::start().await?;
    stage.settle().await?;
    report.add(memory("O1", "memory at rest, of a mesh on two nodes", stage.operator()?.resident()?, 16.0));

    let answers = answers::measure(&stage).await?;
    let of = |what, times: &Times, most| Figure {
        p99: Some(times.quantile(0.99)),
        samples: times.len(),
        ..Figure::at_most("O2", what, "ms", times.quantile(0.5), most)
    };
    report.add(of("from a watch's event to the write that repairs it", &answers.own, 3.0));
    // Repairs are to be written within a second.
    let what = "from an edit's answer to the request that repairs it, at the API server";
    report.add(of(what, &answers.whole, 1000.0));

    stage.stop_operator().await?;
    crowd::make(&stage.client).await?;
    let mut starts = Times::default();
    for _ in 0..STARTS {
        stage.start_operator()?;
        starts.push(stage.synced().await?);
        stage.settle().await?;
        if starts.len() < STARTS {
            stage.stop_operator().await?;
        }
    }
    let what = "from its start until it knows 10,000 endpoints, 1,000 nodes, 3,000 pods";
    report.add(Figure {
        p99: Some(starts.quantile(0.99)),
        samples: starts.len(),
        ..Figure::at_most("O3", what, "ms", starts.quantile(0.5), 500.0)
    });
    let operator = stage.operator()?;
    report.add(memory("O4", "memory with all of these", operator.resident()?, 32.0));
    report.add(memory("O5", "most memory with all of these, start included", operator.peak()?, 32.0));

    let program = Operator::program()?;
    report.add(size("O6", "program, as it was built", &program, 20.0)?);
    if let Some(image) = &arguments.image {
        report.add(size("O7", "image", image, 25.0)?);
    }
    drop(stage);
    report.finish(&arguments.results)
}

/// A figure of memory in KiB.
#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn memory(id: &'static str, what: &str, kibibytes: u64, most: f64) -> Figure {
    Figure::at_most(id, what, "MiB", kibibytes as f64 / 1024.0, most)
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn size(id: &'static str, what: &str, file: &std::path::Path, most: f64) -> Result<Figure> {
    let size = std::fs::metadata(file).with_context(|| format!("{}", file.display()))?.len();
    Ok(Figure::at_most(id, what, "MiB", size as f64 / MIB, most))
}

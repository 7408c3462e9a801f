//! Figures beside their limits, measured in one run (`make bench`).
//!
//! A limit is the same work without the mesh: bare processes that this program starts of itself.
//! Rounds of both are interleaved, the first is not counted, and what is held against a bar is the
//! median of the rounds' ratios; milliseconds differ between machines and are shown for orientation.

mod bare;
mod clients;
mod heal;
mod links;
mod process;
mod registry;
mod relay;
mod report;
mod sample;
mod stage;

use anyhow::{Context, Result};
use clap::Parser;
use nix::sched::{CloneFlags, unshare};

use crate::{report::Report, stage::Stage};

/// Measures the mesh and writes target/bench/results.json.
#[derive(Parser)]
struct Arguments {
    /// Figures to measure, by id (P1 to P7, P13 to P15, P17, P19 to P21, P27, P29); all of them by default.
    #[arg(long, env = "ONLY", value_delimiter = ',')]
    only: Vec<String>,
    /// Where the results are written.
    #[arg(long, default_value = "target/bench/results.json")]
    results: std::path::PathBuf,
    /// What cargo adds.
    #[arg(long, hide = true)]
    bench: bool,
    #[command(subcommand)]
    part: Option<bare::Part>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if arguments.part.is_none() {
        // All traffic stays on a loopback of its own; threads started from here on are there too.
        unshare(CloneFlags::CLONE_NEWNET).context("the figures need root, for a network namespace")?;
        let up = std::process::Command::new("ip").args(["link", "set", "lo", "up"]).status()?;
        anyhow::ensure!(up.success(), "cannot set up the loopback");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    match arguments.part {
        Some(part) => runtime.block_on(part.run()),
        None => runtime.block_on(measure(&arguments)),
    }
}

async fn measure(arguments: &Arguments) -> Result<()> {
    let wanted = |ids: &[&str]| {
        arguments.only.is_empty() || ids.iter().any(|id| arguments.only.iter().any(|only| only == id))
    };
    let stage = Stage::start().await?;
    let mut report = Report::default();
    if wanted(&["P17", "P19", "P20", "P21"]) {
        registry::measure(&stage, &mut report).await?;
    }
    if wanted(&["P4", "P13"]) {
        relay::measure(&stage, &mut report).await?;
    }
    if wanted(&["P6"]) {
        clients::measure(&stage, &mut report).await?;
    }
    if wanted(&["P8"]) {
        tokio::task::block_in_place(|| heal::first_packets(&mut report))?;
    }
    if wanted(&["P9"]) {
        tokio::task::block_in_place(|| heal::many(&mut report))?;
    }
    if wanted(&["P13", "P29"]) {
        process::measure(&stage, &mut report).await?;
    }
    if wanted(&["P1", "P2", "P3", "P5", "P6", "P7", "P14", "P15", "P27", "P29"]) {
        links::measure(&stage, &mut report, wanted).await?;
    }
    report.finish(&arguments.results)
}

//! Endpoints that die while another one is ready.

use std::time::Duration;

use anyhow::Result;
use nsm_e2e::healing::{Deaths, all_at_once};

use crate::{
    report::{Figure, Report},
    sample::{Busy, Times},
};

/// Deaths one after the other.
const DEATHS: usize = 30;

/// Connections to one endpoint that dies.
const CONNECTIONS: usize = 1_000;

pub(crate) fn first_packets(report: &mut Report) -> Result<()> {
    let (mut deaths, mut times, busy) =
        (Deaths::begin(Duration::from_mins(1))?, Times::default(), Busy::start());
    for _ in 0..DEATHS {
        times.push(deaths.die()?);
    }
    let p99 = times.quantile(0.99);
    report.add(Figure {
        p99: Some(p99),
        samples: times.len(),
        busy_percent: busy.percent(),
        ..Figure::at_most(
            "P8",
            "endpoint dies, another ready: detected to first packet, p99",
            "ms",
            p99,
            50.0,
        )
    });
    Ok(())
}

pub(crate) fn many(report: &mut Report) -> Result<()> {
    let busy = Busy::start();
    let healed = all_at_once(CONNECTIONS, &[])?.as_secs_f64();
    report.add(Figure {
        samples: CONNECTIONS,
        busy_percent: busy.percent(),
        ..Figure::at_most("P9", "1,000 connections of one dead endpoint, all healed", "s", healed, 5.0)
    });
    Ok(())
}

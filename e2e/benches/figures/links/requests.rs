//! Requests one at a time, beside the least that they could cost: relays that verify and sign, and
//! the kernel asked for the same links.

use std::{cell::RefCell, time::Instant};

use anyhow::Result;

use super::{FAR, Links, NEAR, Relays};
use crate::{
    report::{Figure, Report},
    sample::{Pair, Times},
    stage::Stage,
};

/// Requests of a round.
const REQUESTS: u32 = 100;

/// Processes between client and endpoint, which all pass a Request on.
const BETWEEN_NEAR: usize = 2;
const BETWEEN_FAR: usize = 4;

/// Opens and closes connections; the closes' times are put beside.
async fn ours(links: &Links, service: &str, round: usize, closes: &RefCell<Times>) -> Result<Times> {
    let (client, mut times, mut open) = (links.one()?, Times::default(), Vec::new());
    // The channel's dial is no part of it.
    client.close(client.open(service, "dials").await?).await?;
    for number in 0..REQUESTS {
        let begin = Instant::now();
        let connection = client.open(service, &format!("nsm-{round}-{number}")).await?;
        times.push(begin.elapsed());
        open.push(connection);
    }
    for connection in open {
        let begin = Instant::now();
        client.close(connection).await?;
        closes.borrow_mut().push(begin.elapsed());
    }
    links.gone()?;
    Ok(times)
}

/// A chain's Request and then the links; the chain's own times are put beside.
async fn limit(
    relays: &Relays,
    round: usize,
    mut make: impl FnMut(u32) -> Result<()>,
    chains: &RefCell<Times>,
) -> Result<Times> {
    let mut times = Times::default();
    for number in 0..REQUESTS {
        let begin = Instant::now();
        relays.client.request(&format!("limit-{round}-{number}")).await?;
        chains.borrow_mut().push(begin.elapsed());
        make(number)?;
        times.push(begin.elapsed());
    }
    Ok(times)
}

pub(super) async fn measure(stage: &Stage, links: &Links, report: &mut Report) -> Result<()> {
    let (closes, chains) = (RefCell::new(Times::default()), RefCell::new(Times::default()));
    let relays = Relays::start(stage, "near", BETWEEN_NEAR).await?;
    let pairs = RefCell::new(links.pairs()?);
    let near = Pair::measure(
        |round| ours(links, NEAR, round, &closes),
        async |round| {
            let times = limit(&relays, round, |number| pairs.borrow_mut().make(number), &chains).await?;
            pairs.borrow_mut().clear()?;
            Ok(times)
        },
    )
    .await?;
    let p50 = near.limit.quantile(0.5);
    report.add(Figure::ratio("P1", "new connection with links, one node", &near, 2.0));
    report.add(Figure {
        limit: Some(p50),
        samples: near.ours.len(),
        ..Figure::at_most(
            "P2",
            "the same, p99 by 6 x the limit's p50",
            "ms",
            near.ours.quantile(0.99),
            6.0 * p50,
        )
    });
    let (closes, bare) = (closes.take(), chains.take().quantile(0.5));
    report.add(Figure {
        p99: Some(closes.quantile(0.99)),
        limit: Some(bare),
        samples: closes.len(),
        ..Figure::at_most(
            "P7",
            "Close, by a bare chain's call + 1 ms",
            "ms",
            closes.quantile(0.5),
            bare + 1.0,
        )
    });

    let (closes, chains) = (RefCell::new(Times::default()), RefCell::new(Times::default()));
    let relays = Relays::start(stage, "far", BETWEEN_FAR).await?;
    let tunnels = RefCell::new(links.tunnels()?);
    let far = Pair::measure(
        |round| ours(links, FAR, round, &closes),
        async |round| {
            let times = limit(&relays, round, |number| tunnels.borrow_mut().make(number), &chains).await?;
            tunnels.borrow_mut().clear()?;
            Ok(times)
        },
    )
    .await?;
    report.add(Figure::ratio("P3", "new connection with links, two nodes", &far, 2.0));
    Ok(())
}

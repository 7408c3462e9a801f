//! A thousand clients at once, each with a connection of its own.

use std::time::Instant;

use anyhow::Result;
use nsm_components::api::peer::Address;
use tokio::task::JoinSet;

use crate::{
    relay::{Client, mesh},
    report::{Figure, Report},
    sample::{Busy, Times},
    stage::{Stage, resident},
};

const CLIENTS: usize = 1_000;

pub(crate) async fn measure(stage: &Stage, report: &mut Report) -> Result<()> {
    let (_registry, _forwarder, nsmgr) = mesh(stage).await?;
    let empty = resident(&nsmgr)?;
    let (mut asking, mut times, mut failed) = (JoinSet::new(), Times::default(), Vec::new());
    let (begin, busy) = (Instant::now(), Busy::start());
    for number in 0..CLIENTS {
        let client = Client::new(stage.channels(), Address::Unix(stage.socket("nsmgr")));
        asking.spawn(async move {
            let answer = client.request(&format!("client-{number}")).await;
            answer.map(|reply| (begin.elapsed(), client, reply))
        });
    }
    let mut open = Vec::new();
    while let Some(answer) = asking.join_next().await {
        match answer? {
            Ok((time, client, reply)) => {
                times.push(time);
                open.push((client, reply));
            }
            Err(error) => failed.push(format!("{error:#}")),
        }
    }
    #[allow(clippy::cast_precision_loss)]
    let failures = failed.len() as f64;
    let bar = failed.first().map_or_else(|| "none".to_owned(), |first| format!("none, but: {first}"));
    report.add(Figure {
        p99: Some(times.quantile(0.99) / 1e3),
        samples: times.len(),
        busy_percent: busy.percent(),
        ..Figure::at_most("P6", "1,000 clients at once, all up", "s", times.quantile(1.0) / 1e3, 3.0)
    });
    report.add(Figure {
        bar: format!("failures: {bar}"),
        ..Figure::at_most("P6", "1,000 clients at once, failures", "", failures, 0.0)
    });
    #[allow(clippy::cast_precision_loss)]
    let each = (resident(&nsmgr)? - empty) * 1024.0 / CLIENTS as f64;
    report.add(Figure::at_most("P13", "nsmgr, a connection on a channel of its own", "KiB", each, 64.0));
    for (client, reply) in open {
        client.close(reply.connection).await?;
    }
    Ok(())
}

//! A thousand connections with links: how fast they come, what they hold, and how they are found again.

use std::{
    cell::RefCell,
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use futures::{StreamExt as _, stream};
use nsm_components::api::Connection;
use nsm_e2e::{
    mesh::{START, Signal, Who},
    wait::eventually,
};
use tokio::task::JoinSet;

use super::{Links, NEAR, client::Client};
use crate::{
    report::{Figure, Report},
    sample::{Busy, Pair, Times},
    stage::resident,
};

const CONNECTIONS: u32 = 1_000;

/// Requests under way at once, where it is not all.
const IN_FLIGHT: usize = 32;
const MANY_IN_FLIGHT: usize = 100;

/// Pause between two tries of a client whose forwarder is gone.
const PACE: Duration = Duration::from_millis(5);

/// A connection is refreshed this often where tokens live ten minutes.
const REFRESH: Duration = Duration::from_mins(2);

/// For how long idle processes are watched.
const IDLE: Duration = Duration::from_secs(30);

/// Of a second, in which the kernel counts (`sysconf(_SC_CLK_TCK)`, 100 on all Linux systems).
const TICKS: f64 = 100.0;

/// Opens connections, some at once; answers with them and with the time of each.
async fn open(client: &Client, round: usize, count: u32, at_once: usize) -> Result<(Vec<Connection>, Times)> {
    let mut asked = stream::iter(0..count)
        .map(|number| async move {
            let begin = Instant::now();
            let connection = client.open(NEAR, &format!("nsm-{round}-{number}")).await;
            connection.map(|connection| (connection, begin.elapsed()))
        })
        .buffer_unordered(at_once);
    let (mut all, mut times) = (Vec::new(), Times::default());
    while let Some(answer) = asked.next().await {
        let (connection, time) = answer?;
        all.push(connection);
        times.push(time);
    }
    Ok((all, times))
}

async fn close(links: &Links, client: &Client, all: Vec<Connection>) -> Result<()> {
    let closed: Vec<_> = stream::iter(all)
        .map(|connection| client.close(connection))
        .buffer_unordered(IN_FLIGHT)
        .collect()
        .await;
    closed.into_iter().collect::<Result<()>>()?;
    links.gone()
}

/// P5 and what P2 says of Requests side by side.
async fn rates(links: &Links, report: &mut Report) -> Result<()> {
    let (client, pairs) = (links.one()?, RefCell::new(links.pairs()?));
    let pair = Pair::measure(
        async |round| {
            let begin = Instant::now();
            let (all, _) = open(&client, round, CONNECTIONS, IN_FLIGHT).await?;
            let mut time = Times::default();
            time.push(begin.elapsed());
            close(links, &client, all).await?;
            Ok(time)
        },
        async |_| {
            let (begin, mut time) = (Instant::now(), Times::default());
            (0..CONNECTIONS).try_for_each(|number| pairs.borrow_mut().make(number))?;
            time.push(begin.elapsed());
            pairs.borrow_mut().clear()?;
            Ok(time)
        },
    )
    .await?;
    report.add(Figure::ratio("P5", "1,000 connections, beside links alone", &pair, 1.0 / 0.6));

    let (all, times) = open(&client, 100, CONNECTIONS, IN_FLIGHT).await?;
    close(links, &client, all).await?;
    let (p50, p99) = (times.quantile(0.5), times.quantile(0.99));
    report.add(Figure {
        limit: Some(p50),
        samples: times.len(),
        ..Figure::at_most("P2", "p99 with 32 in flight, by 2 x its p50", "ms", p99, 2.0 * p50)
    });
    let (all, times) = open(&client, 101, CONNECTIONS, MANY_IN_FLIGHT).await?;
    #[allow(clippy::cast_precision_loss)]
    let failed = f64::from(CONNECTIONS) - all.len() as f64;
    close(links, &client, all).await?;
    report.add(Figure {
        p99: Some(times.quantile(0.99)),
        samples: times.len(),
        ..Figure::at_most("P2", "failed with 100 in flight", "", failed, 0.0)
    });
    Ok(())
}

type Opened = Vec<(Client, Connection)>;

/// P6: all at once, each over a channel of its own.
async fn at_once(links: &Links, report: &mut Report) -> Result<Opened> {
    let (mut asking, mut times, mut opened, mut failed) =
        (JoinSet::new(), Times::default(), Vec::new(), Vec::new());
    let (begin, busy) = (Instant::now(), Busy::start());
    for number in 0..CONNECTIONS {
        let client = links.one()?;
        asking.spawn(async move {
            let connection = client.open(NEAR, &format!("nsm-{number}")).await;
            connection.map(|connection| (begin.elapsed(), client, connection))
        });
    }
    while let Some(answer) = asking.join_next().await {
        match answer? {
            Ok((time, client, connection)) => {
                times.push(time);
                opened.push((client, connection));
            }
            Err(error) => failed.push(format!("{error:#}")),
        }
    }
    report.add(Figure {
        p99: Some(times.quantile(0.99) / 1e3),
        samples: times.len(),
        busy_percent: busy.percent(),
        ..Figure::at_most(
            "P6",
            "1,000 clients at once with links, all up",
            "s",
            times.quantile(1.0) / 1e3,
            3.0,
        )
    });
    let why = failed.first().map_or_else(|| "none".to_owned(), |first| format!("none, but: {first}"));
    #[allow(clippy::cast_precision_loss)]
    let failures = failed.len() as f64;
    report.add(Figure {
        bar: format!("failures: {why}"),
        ..Figure::at_most("P6", "1,000 clients at once with links, failures", "", failures, 0.0)
    });
    Ok(opened)
}

/// Processor time that a process has had, in seconds (proc(5), `stat`, fields 14 and 15).
fn processor_time(links: &Links, who: Who) -> Result<f64> {
    let id = links.mesh.process(who)?.id().context("the process is gone")?;
    let stat = fs::read_to_string(format!("/proc/{id}/stat"))?;
    let (_, rest) = stat.rsplit_once(") ").context("no stat")?;
    let ticks = rest.split_whitespace().skip(11).take(2).map(str::parse::<f64>);
    Ok(ticks.sum::<Result<f64, _>>()? / TICKS)
}

/// P15: nothing but refreshes, as many as come with so many connections.
async fn idle(links: &Links, opened: &mut Opened, report: &mut Report) -> Result<()> {
    let processes = [Who::Nsmgr(1), Who::Forwarder(1)];
    let mut before = Vec::new();
    for who in processes {
        before.push(processor_time(links, who)?);
    }
    let (begin, mut pace) = (Instant::now(), tokio::time::interval(REFRESH / CONNECTIONS));
    for (client, connection) in opened.iter_mut() {
        pace.tick().await;
        if begin.elapsed() >= IDLE {
            break;
        }
        *connection = client.ask(connection.clone()).await?;
    }
    let time = begin.elapsed().as_secs_f64();
    for (who, before) in processes.into_iter().zip(before) {
        let share = (processor_time(links, who)? - before) / time * 100.0;
        let what = format!("{who} with 1,000 connections and their refreshes, of a core");
        report.add(Figure::at_most("P15", &what, "%", share, 1.0));
    }
    Ok(())
}

/// P29: a forwarder that is killed finds its links again.
async fn adoption(links: &mut Links, opened: &mut Opened, report: &mut Report) -> Result<()> {
    let indexes = |links: &Links| -> Result<Vec<_>> {
        let listed = links.pod()?.list("link show")?;
        Ok(listed.into_iter().map(|link| (link["ifindex"].clone(), link["ifname"].clone())).collect())
    };
    let before = indexes(links)?;
    links.mesh.end(&[Who::Forwarder(1)], Signal::SIGKILL)?;
    let begin = Instant::now();
    links.mesh.start_again(&[Who::Forwarder(1)])?;
    let Some((client, connection)) = opened.first_mut() else { return Ok(()) };
    let ask = async || client.ask(connection.clone()).await;
    let answer = eventually(PACE, "the forwarder that was killed answers", START, ask).await?;
    *connection = answer;
    let first = begin.elapsed().as_secs_f64() * 1e3;
    let what = "forwarder with 1,000 links, killed: from its start to the first Request";
    report.add(Figure::at_most("P29", what, "ms", first, 500.0));
    let begin = Instant::now();
    let asked: Vec<_> = stream::iter(opened.iter())
        .map(|(client, connection)| client.ask(connection.clone()))
        .buffer_unordered(IN_FLIGHT)
        .collect()
        .await;
    asked.into_iter().collect::<Result<Vec<_>>>()?;
    let all = begin.elapsed().as_secs_f64();
    report.add(Figure::at_most("P29", "all 1,000 asked for again and adopted", "s", all, 5.0));
    anyhow::ensure!(indexes(links)? == before, "links were made anew");
    Ok(())
}

pub(super) async fn measure(mut links: Links, report: &mut Report) -> Result<()> {
    rates(&links, report).await?;
    let mut opened = at_once(&links, report).await?;
    let held =
        resident(links.mesh.process(Who::Nsmgr(1))?)? + resident(links.mesh.process(Who::Forwarder(1))?)?;
    report.add(Figure::at_most(
        "P14",
        "nsmgr and forwarder with 1,000 connections, resident",
        "MiB",
        held,
        96.0,
    ));
    idle(&links, &mut opened, report).await?;
    adoption(&mut links, &mut opened, report).await?;
    let opened = Arc::new(opened);
    let closed: Vec<_> = stream::iter(opened.iter())
        .map(|(client, connection)| client.close(connection.clone()))
        .buffer_unordered(IN_FLIGHT)
        .collect()
        .await;
    closed.into_iter().collect::<Result<()>>()?;
    let begin = Instant::now();
    links.gone()?;
    let late = begin.elapsed().as_secs_f64();
    report.add(Figure::at_most("P7", "after 1,000 closes, until no link is left", "s", late, 2.0));
    Ok(())
}

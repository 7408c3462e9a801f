//! The registry: how many registrations it takes, how long a Find takes, how soon all watchers know.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use nix::sys::signal::Signal;
use nsm_components::{
    api::{
        peer::Address,
        registry::network_service_endpoint_registry_client::NetworkServiceEndpointRegistryClient,
        registry::{NetworkServiceEndpoint, NetworkServiceEndpointQuery},
    },
    chain::{RegistryChain, RegistryCx, RegistryElement},
    elements::registry::Connect,
    transport::{Channel, Channels},
};
use nsm_e2e::wait::{PACE, eventually};
use tokio::sync::Notify;
use tonic::Request as Call;

use crate::{
    report::{Figure, Report},
    sample::{Busy, Pair, Times},
    stage::{LIFE, REGISTRY, START, Stage, connect, resident},
};

/// Endpoints in a large registry and in a small one.
const ENTRIES: (usize, usize) = (10_000, 100);

/// Registrations in flight.
const IN_FLIGHT: usize = 32;

/// Finds of a round.
const FINDS: usize = 300;

/// Watchers, on so many connections, and those of them that stopped reading.
const WATCHERS: (usize, usize, usize) = (1_000, 4, 50);

/// Changes that they are told of.
const CHANGES: usize = 100;

const SMALL: &str = "127.0.0.1:5012";
const BARE: &str = "127.0.0.1:5022";
const WATCHED: &str = "watched";

fn entry(name: &str, service: &str) -> NetworkServiceEndpoint {
    NetworkServiceEndpoint {
        name: name.to_owned(),
        network_service_names: vec![service.to_owned()],
        url: "tcp://10.0.0.1:5001".to_owned(),
        ..NetworkServiceEndpoint::default()
    }
}

fn registry(channels: &Channels, address: &str) -> RegistryChain<NetworkServiceEndpoint> {
    let connect = Connect::new(channels.clone(), Address::Tcp(address.to_owned()), LIFE);
    RegistryChain::new([Arc::new(connect) as Arc<dyn RegistryElement<NetworkServiceEndpoint>>])
}

/// Registers endpoints, each of a service of its own; answers how many a second.
async fn fill(channels: &Channels, address: &str, entries: usize) -> Result<f64> {
    let registry = registry(channels, address);
    let begin = Instant::now();
    stream::iter(0..entries)
        .map(|number| {
            let registry = registry.clone();
            async move {
                let cx = RegistryCx::within(Duration::from_secs(10));
                registry.start().register(&cx, entry(&format!("nse-{number}"), &format!("ns-{number}"))).await
            }
        })
        .buffer_unordered(IN_FLIGHT)
        .try_for_each(|_| std::future::ready(Ok(())))
        .await?;
    #[allow(clippy::cast_precision_loss)]
    Ok(entries as f64 / begin.elapsed().as_secs_f64())
}

/// Looks for the endpoint of a service, over and over.
async fn finds(channel: &Channel, service: &str) -> Result<Times> {
    let mut times = Times::default();
    for _ in 0..FINDS {
        let mut call = Call::new(query(service, false));
        channel.token(LIFE)?.write(call.metadata_mut());
        let begin = Instant::now();
        let mut client = NetworkServiceEndpointRegistryClient::new(channel.grpc.clone());
        let found: Vec<_> = client.find(call).await?.into_inner().try_collect().await?;
        times.push(begin.elapsed());
        ensure!(found.len() == 1, "{} endpoints of {service}", found.len());
    }
    Ok(times)
}

fn query(service: &str, watch: bool) -> NetworkServiceEndpointQuery {
    NetworkServiceEndpointQuery { network_service_endpoint: Some(entry_like(service)), watch }
}

fn entry_like(service: &str) -> NetworkServiceEndpoint {
    NetworkServiceEndpoint {
        network_service_names: vec![service.to_owned()],
        ..NetworkServiceEndpoint::default()
    }
}

/// Starts watchers that count what they are told.
async fn watchers(stage: &Stage, count: &Arc<AtomicUsize>, all: &Arc<Notify>) -> Result<Vec<Channel>> {
    let live = WATCHERS.0 - WATCHERS.2;
    let mut channels = Vec::new();
    for connection in 0..WATCHERS.1 {
        let channel = connect(&stage.channels(), &Address::Tcp(REGISTRY.to_owned())).await?;
        for _ in 0..(live / WATCHERS.1 + usize::from(connection < live % WATCHERS.1)) {
            let mut call = Call::new(query(WATCHED, true));
            channel.token(LIFE)?.write(call.metadata_mut());
            let mut client = NetworkServiceEndpointRegistryClient::new(channel.grpc.clone());
            let mut events = client.find(call).await?.into_inner();
            let (count, all) = (count.clone(), all.clone());
            tokio::spawn(async move {
                while let Ok(Some(_)) = events.message().await {
                    if count.fetch_add(1, Ordering::Relaxed) + 1 == live {
                        all.notify_one();
                    }
                }
            });
        }
        channels.push(channel);
    }
    Ok(channels)
}

/// From before a Register to when the last watcher knows; one process of watchers does not read.
async fn fan_out(stage: &Stage, report: &mut Report) -> Result<()> {
    let stopped = stage.bare("watcher", &["watcher", REGISTRY, WATCHED, &WATCHERS.2.to_string()])?;
    let (count, all) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let _channels = watchers(stage, &count, &all).await?;
    let watching = async || match stopped.log() {
        log if log.contains("watching") => Ok(()),
        log => Err(log),
    };
    eventually(PACE, "the other watchers come up", START, watching).await?;
    stopped.signal(Signal::SIGSTOP)?;
    let registry = registry(&stage.channels(), REGISTRY);
    let (mut times, busy) = (Times::default(), Busy::start());
    for change in 0..CHANGES {
        count.store(0, Ordering::Relaxed);
        let begin = Instant::now();
        let cx = RegistryCx::within(Duration::from_secs(10));
        registry.start().register(&cx, entry(&format!("watched-{change}"), WATCHED)).await?;
        let told = tokio::time::timeout(Duration::from_secs(10), all.notified()).await;
        told.with_context(|| {
            format!("{} watchers were told of change {change}", count.load(Ordering::Relaxed))
        })?;
        times.push(begin.elapsed());
    }
    let what = format!("{} watchers, {} of them stopped: Register to the last one", WATCHERS.0, WATCHERS.2);
    report.add(Figure {
        p99: Some(times.quantile(0.99)),
        samples: times.len(),
        busy_percent: busy.percent(),
        holds: times.quantile(0.99) <= 25.0,
        bar: "p99 at most 25 ms".into(),
        ..Figure::at_most("P20", &what, "ms", times.quantile(0.5), 25.0)
    });
    Ok(())
}

pub(crate) async fn measure(stage: &Stage, report: &mut Report) -> Result<()> {
    let large = stage.registry("registry", REGISTRY).await?;
    let _small = stage.registry("small", SMALL).await?;
    let _bare = stage.bare("bare", &["registry", BARE])?;
    let channels = stage.channels();
    let [to_large, to_small, to_bare] =
        [REGISTRY, SMALL, BARE].map(|address| Address::Tcp(address.to_owned()));
    let bare = connect(&channels, &to_bare).await?;

    let busy = Busy::start();
    let (mut ours, mut limits) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        ours.push(fill(&channels, REGISTRY, ENTRIES.0).await?);
        limits.push(fill(&channels, BARE, ENTRIES.0).await?);
    }
    ours.sort_by(f64::total_cmp);
    limits.sort_by(f64::total_cmp);
    report.add(Figure {
        id: "P17",
        what: format!("registrations with {IN_FLIGHT} in flight, up to {} endpoints", ENTRIES.0),
        unit: "/s",
        value: ours[1],
        limit: Some(limits[1]),
        ratio_to_limit: Some(ours[1] / limits[1]),
        samples: 3 * ENTRIES.0,
        busy_percent: busy.percent(),
        bar: "at least 5000 /s".into(),
        holds: ours[1] >= 5_000.0,
        ..Figure::default()
    });
    let memory = resident(&large)?;
    report.add(Figure::at_most("P21", "registry with 10,000 endpoints, resident", "MiB", memory, 40.0));

    fill(&channels, SMALL, ENTRIES.1).await?;
    let (large, small) = (connect(&channels, &to_large).await?, connect(&channels, &to_small).await?);
    let of_large = |_| finds(&large, "ns-50");
    let pair = Pair::measure(of_large, |_| finds(&bare, "ns-50")).await?;
    report.add(Figure::ratio("P17", "Find of one among 10,000 endpoints, beside a bare call", &pair, 2.0));
    let pair = Pair::measure(of_large, |_| finds(&small, "ns-50")).await?;
    report.add(Figure::ratio("P19", "Find of one among 10,000 endpoints, beside 100", &pair, 1.3));
    fan_out(stage, report).await
}

//! Requests through an nsmgr, beside a bare relay that verifies one token and signs two.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nsm_components::{
    api::{
        Connection, Mechanism,
        peer::Address,
        registry::{NetworkService, NetworkServiceEndpoint, NetworkServiceLabels},
        trust::Trust,
    },
    chain::{Chain, Cx, Element, RegistryChain, RegistryCx, RegistryElement, Reply, Request},
    elements::{Connect, UpdatePath, registry},
    transport::Channels,
};
use nsm_e2e::process::Process;

use crate::{
    report::{Figure, Report},
    sample::{Pair, Times},
    stage::{LIFE, REGISTRY, Stage, connect, resident},
};

/// Requests of a round.
const REQUESTS: usize = 200;

/// The service asked for.
pub(crate) const SERVICE: &str = "bench";

/// A client that asks and does nothing by itself.
pub(crate) struct Client {
    chain: Chain,
    to: Address,
}

impl Client {
    pub(crate) fn new(channels: Channels, to: Address) -> Self {
        let trust = Trust::new(&["*".to_owned()], "spiffe://bench/client");
        let chain = Chain::new([
            Arc::new(UpdatePath::new("client", trust)) as Arc<dyn Element>,
            Arc::new(Connect::new(channels, LIFE)),
        ]);
        Self { chain, to }
    }

    fn cx(&self) -> Cx {
        Cx { next_hop: Some(self.to.clone()), ..Cx::within(Duration::from_secs(20)) }
    }

    pub(crate) async fn request(&self, id: &str) -> Result<Reply> {
        let connection =
            Connection { id: id.to_owned(), network_service: SERVICE.to_owned(), ..Connection::default() };
        let request = Request { connection, preferences: vec![Mechanism::kernel()], ..Request::default() };
        self.chain.start().request(&self.cx(), request).await.with_context(|| format!("connection {id}"))
    }

    pub(crate) async fn close(&self, connection: Connection) -> Result<()> {
        let request = Request { connection, ..Request::default() };
        Ok(self.chain.start().close(&self.cx(), request).await?)
    }
}

/// Registry, nsmgr and a forwarder that carries nothing; the forwarder and an endpoint of
/// [`SERVICE`] are registered.
pub(crate) async fn mesh(stage: &Stage) -> Result<(Process, Process, Process)> {
    let registry = stage.registry("registry", REGISTRY).await?;
    let forwarder =
        stage.bare("forwarder", &["forwarder", &stage.socket("forwarder").display().to_string()])?;
    let nsmgr = stage.nsmgr().await?;
    connect(&stage.channels(), &Address::Unix(stage.socket("forwarder"))).await?;
    register(stage).await?;
    Ok((registry, forwarder, nsmgr))
}

async fn register(stage: &Stage) -> Result<()> {
    let nsmgr = registry::Connect::new(stage.channels(), Address::Unix(stage.socket("nsmgr")), LIFE);
    let services = RegistryChain::new([Arc::new(nsmgr.clone()) as Arc<dyn RegistryElement<NetworkService>>]);
    let endpoints = RegistryChain::new([Arc::new(nsmgr) as Arc<dyn RegistryElement<NetworkServiceEndpoint>>]);
    let cx = || RegistryCx::within(Duration::from_secs(10));
    let service = NetworkService { name: SERVICE.to_owned(), payload: "IP".to_owned(), ..Default::default() };
    services.start().register(&cx(), service).await?;
    for (name, service, labels) in [
        (
            "forwarder",
            "forwarder",
            NetworkServiceLabels { labels: [("p2p".to_owned(), "true".to_owned())].into() },
        ),
        ("nse", SERVICE, NetworkServiceLabels::default()),
    ] {
        let entry = NetworkServiceEndpoint {
            name: name.to_owned(),
            network_service_names: vec![service.to_owned()],
            network_service_labels: [(service.to_owned(), labels)].into(),
            url: format!("unix://{}", stage.socket("forwarder").display()),
            ..NetworkServiceEndpoint::default()
        };
        endpoints.start().register(&cx(), entry).await?;
    }
    Ok(())
}

/// New connections, which are closed when their times are taken.
async fn fresh(client: &Client, round: usize) -> Result<Times> {
    let (mut times, mut open) = (Times::default(), Vec::new());
    for number in 0..REQUESTS {
        let begin = Instant::now();
        let reply = client.request(&format!("c-{round}-{number}")).await?;
        times.push(begin.elapsed());
        open.push(reply.connection);
    }
    for connection in open {
        client.close(connection).await?;
    }
    Ok(times)
}

/// The same connection over and over.
async fn refreshes(client: &Client) -> Result<Times> {
    let mut times = Times::default();
    for _ in 0..REQUESTS {
        let begin = Instant::now();
        client.request("refreshed").await?;
        times.push(begin.elapsed());
    }
    Ok(times)
}

pub(crate) async fn measure(stage: &Stage, report: &mut Report) -> Result<()> {
    let (_registry, _forwarder, nsmgr) = mesh(stage).await?;
    let sockets = [stage.socket("relay"), stage.socket("forwarder")].map(|path| path.display().to_string());
    let _relay = stage.bare("relay", &["relay", &sockets[0], &sockets[1]])?;
    connect(&stage.channels(), &Address::Unix(stage.socket("relay"))).await?;
    let ours = Client::new(stage.channels(), Address::Unix(stage.socket("nsmgr")));
    let bare = Client::new(stage.channels(), Address::Unix(stage.socket("relay")));

    report.add(Figure::at_most("P13", "nsmgr with nothing to do, resident", "MiB", resident(&nsmgr)?, 12.0));
    let pair = Pair::measure(|round| fresh(&ours, round), |round| fresh(&bare, round)).await;
    let pair = pair.with_context(|| stage.logs())?;
    report.add(Figure::ratio("P4", "new connection through the nsmgr, beside a bare relay", &pair, 1.5));
    let pair = Pair::measure(|_| refreshes(&ours), |_| refreshes(&bare)).await?;
    report.add(Figure::ratio("P4", "refresh through the nsmgr, beside a bare relay", &pair, 1.5));
    Ok(())
}

//! `nsm nsc`: a client that keeps the connections its settings name.

mod dns;

use std::{future, sync::Arc, time::Duration};

use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tonic::transport::{Server, server::Router};
use tracing::{info, warn};

use self::dns::LocalDns;
use super::{Error, mesh::Mesh};
use crate::{
    api::{Connection, peer::Address},
    chain::{Backoff, Chain, Cx, Element, Next, Policy, Reply, Request},
    elements::{
        AuthorizeClient, ClientInfo, Connect, DnsConfigs, DnsContextClient, ExcludedPrefixesClient, Heal,
        KernelClient, Liveness, LivenessClient, Pace, Recovery, UpdatePath, UsedPrefixes,
    },
    settings::{Nsc, NsmUrl},
};

/// Where a pod's DNS servers stand.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Pauses between tries to connect.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// One service that is asked for.
#[derive(Clone)]
struct Client {
    id: String,
    wanted: NsmUrl,
    chain: Chain,
    limit: Duration,
    _heal: Arc<AbortOnDropHandle<()>>,
}

/// What all connections of the process have in common.
#[derive(Default)]
struct Shared {
    used: UsedPrefixes,
    dns: DnsConfigs,
    liveness: Option<Liveness>,
}

/// Sends everything to the node's nsmgr.
struct ToNsmgr(Address);

#[async_trait::async_trait]
impl Element for ToNsmgr {
    fn name(&self) -> &'static str {
        "clienturl"
    }

    async fn request(&self, cx: &Cx, request: Request, next: Next<'_>) -> crate::chain::Result<Reply> {
        next.request(&Cx { next_hop: Some(self.0.clone()), ..cx.clone() }, request).await
    }

    async fn close(&self, cx: &Cx, request: Request, next: Next<'_>) -> crate::chain::Result<()> {
        next.close(&Cx { next_hop: Some(self.0.clone()), ..cx.clone() }, request).await
    }
}

// === impl Client ===

impl Client {
    /// The id is the same after a restart, and with it all ids on the way: the first Request is a refresh.
    fn new(
        mesh: &Mesh,
        settings: &Nsc,
        shared: &Shared,
        number: usize,
        wanted: NsmUrl,
    ) -> Result<Self, Error> {
        let id = format!("{}-{number}", settings.common.name);
        let nsmgr: Address = settings.connect_to.clone().into();
        let group = settings.awareness_groups.iter().position(|group| group.contains(&wanted));
        let kernel = KernelClient::new(wanted.interface.clone());
        let kernel = kernel.map_err(|source| Error::Kernel { what: "the network namespace", source })?;
        let mut inner = vec![
            Arc::new(ClientInfo::new(settings.common.client_info.clone())) as Arc<dyn Element>,
            // Before those that look at addresses: it brings what there was.
            Arc::new(Recovery::new(mesh.channels.clone(), nsmgr.clone(), mesh.token_life)),
            Arc::new(kernel),
            Arc::new(DnsContextClient::new(shared.dns.clone())),
            Arc::new(ExcludedPrefixesClient::new(shared.used.clone(), group)),
            Arc::new(ToNsmgr(nsmgr.clone())),
            Arc::new(
                AuthorizeClient::new(mesh.clock.clone(), mesh.channels.clone())
                    .with(mesh.policies.client.clone()),
            ),
            Arc::new(Connect::new(mesh.channels.clone(), mesh.token_life)),
        ];
        if let Some(liveness) = &shared.liveness {
            inner.insert(0, Arc::new(LivenessClient::new(liveness.clone())));
        }
        let policy = Policy::Refresh(settings.request_timeout);
        let session = Arc::new(mesh.session(Chain::new(inner), policy));
        let heal = Heal {
            session: session.clone(),
            channels: mesh.channels.clone(),
            address: nsmgr,
            name: settings.common.name.clone(),
            id: id.clone(),
            token_life: mesh.token_life,
            liveness: shared.liveness.clone(),
        };
        Ok(Self {
            id,
            wanted,
            chain: Chain::new([
                Arc::new(UpdatePath::new(&settings.common.name, mesh.trust.clone())) as Arc<dyn Element>,
                session,
            ]),
            limit: settings.request_timeout,
            _heal: Arc::new(AbortOnDropHandle::new(tokio::spawn(heal.run()))),
        })
    }

    fn request(&self) -> Request {
        let connection = Connection {
            id: self.id.clone(),
            network_service: self.wanted.network_service.clone(),
            labels: self.wanted.labels.clone(),
            ..Connection::default()
        };
        Request { connection, ..Request::default() }
    }

    /// Asks until it is connected. From then on the session refreshes by itself.
    async fn connect(&self, stop: &CancellationToken) -> Option<Connection> {
        let mut pauses = Backoff::new(RETRY.0, RETRY.1);
        loop {
            let service = &self.wanted.network_service;
            match self.chain.start().request(&Cx::within(self.limit), self.request()).await {
                Ok(reply) => {
                    let context = reply.connection.context.clone().unwrap_or_default();
                    let ip = context.ip_context.unwrap_or_default();
                    info!(
                        connection.id = %self.id, %service, endpoint = %reply.connection.network_service_endpoint_name,
                        addresses = ip.src_ip_addrs.join(","), peers = ip.dst_ip_addrs.join(","), "connected"
                    );
                    return Some(reply.connection);
                }
                Err(error) => {
                    warn!(connection.id = %self.id, %service, %error, "not connected; trying again");
                }
            }
            tokio::select! {
                () = tokio::time::sleep(pauses.pause()) => {}
                () = stop.cancelled() => return None,
            }
        }
    }

    async fn close(&self, connection: Connection) {
        let request = Request { connection, ..Request::default() };
        match self.chain.start().close(&Cx::within(self.limit), request).await {
            Ok(()) => info!(connection.id = %self.id, "closed"),
            Err(error) => warn!(connection.id = %self.id, %error, "could not close; it expires by itself"),
        }
    }
}

/// Connects all services, side by side, and keeps them until the stop; then closes them.
pub async fn run(settings: Nsc, stop: CancellationToken) -> Result<(), Error> {
    let mesh = Mesh::start(&settings.common, stop.clone()).await?;
    let wanted = settings.network_services.iter().cloned().enumerate();
    let pace = settings.liveness.map(|(interval, timeout)| Pace { interval, timeout });
    let shared = Shared { liveness: pace.map(Liveness::new), ..Shared::default() };
    let watching = shared.liveness.clone().zip(pace).map(|(liveness, pace)| liveness.run(pace));
    let _watching = watching.map(|watching| AbortOnDropHandle::new(tokio::spawn(watching)));
    let clients: Result<Vec<_>, Error> =
        wanted.map(|(number, wanted)| Client::new(&mesh, &settings, &shared, number, wanted)).collect();
    let clients = clients?;
    let local_dns = settings.local_dns.map(|address| LocalDns::new(address, RESOLV_CONF.into()));
    let local_dns = local_dns
        .map(|local| AbortOnDropHandle::new(tokio::spawn(local.run(shared.dns.subscribe(), stop.clone()))));
    let connecting = clients.iter().map(|client| client.connect(&stop));
    let connections = futures::future::join_all(connecting).await;
    // Healthy means connected: what waits for this program may use its interfaces.
    let router = |mut server: Server| -> Router { server.add_service(mesh.health(&[], future::ready(()))) };
    let served = if stop.is_cancelled() {
        Ok(())
    } else {
        mesh.serve(Mesh::bind(std::slice::from_ref(&settings.listen_on))?, router).await
    };
    let open = clients.iter().zip(connections).filter_map(|(client, connection)| Some((client, connection?)));
    futures::future::join_all(open.map(|(client, connection)| client.close(connection))).await;
    if let Some(local_dns) = local_dns {
        // It has stopped, and restores what it changed.
        let _ = local_dns.await;
    }
    served
}

//! `nsm nsc`: a client that keeps the connections its settings name.

use std::{future, sync::Arc, time::Duration};

use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tonic::transport::{Server, server::Router};
use tracing::{info, warn};

use super::{Error, mesh::Mesh};
use crate::{
    api::Connection,
    chain::{Chain, Cx, Element, Next, Policy, Reply, Request},
    elements::{ClientInfo, Connect, Heal, KernelClient, UpdatePath},
    settings::{Nsc, NsmUrl},
};

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

/// Sends everything to the node's nsmgr.
struct ToNsmgr(crate::api::peer::Address);

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
    fn new(mesh: &Mesh, settings: &Nsc, number: usize, wanted: NsmUrl) -> Result<Self, Error> {
        let kernel = KernelClient::new(wanted.interface.clone());
        let kernel = kernel.map_err(|source| Error::Kernel { what: "the network namespace", source })?;
        let inner = Chain::new([
            Arc::new(ClientInfo::new(settings.common.client_info.clone())) as Arc<dyn Element>,
            Arc::new(kernel),
            Arc::new(ToNsmgr(settings.connect_to.clone().into())),
            Arc::new(Connect::new(mesh.channels.clone(), mesh.token_life)),
        ]);
        let policy = Policy::Refresh(settings.request_timeout);
        let session = Arc::new(mesh.session(inner, policy));
        let heal = Heal {
            session: session.clone(),
            channels: mesh.channels.clone(),
            address: settings.connect_to.clone().into(),
            name: settings.common.name.clone(),
            token_life: mesh.token_life,
        };
        Ok(Self {
            id: format!("{}-{number}", settings.common.name),
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
        let mut pause = RETRY.0;
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
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => return None,
            }
            pause = (pause * 2).min(RETRY.1);
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
    let clients: Result<Vec<_>, Error> =
        wanted.map(|(number, wanted)| Client::new(&mesh, &settings, number, wanted)).collect();
    let clients = clients?;
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
    served
}

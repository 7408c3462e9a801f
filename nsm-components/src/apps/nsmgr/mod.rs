//! `nsm nsmgr`: the node's switchboard. Clients ask it, forwarders carry what it lets through,
//! endpoints register with it.

mod report;
mod wanted;

use std::sync::Arc;

use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tonic::transport::{Server, server::Router};

use super::{
    Error, figures,
    mesh::{Mesh, Vitals},
};
use crate::{
    api::{
        connection::monitor_connection_server::MonitorConnectionServer,
        networkservice::network_service_server::NetworkServiceServer,
        node::node_status_server::NodeStatusServer,
        registry::{
            NetworkService, NetworkServiceEndpoint,
            network_service_endpoint_registry_server::NetworkServiceEndpointRegistryServer,
            network_service_registry_server::NetworkServiceRegistryServer,
        },
    },
    chain::{Chain, Element, Policy, RegistryChain, RegistryElement, Session},
    elements::{
        Access, Authorize, ClientInfo, Connect, ConnectionService, DiscoverForwarder, Drain, Draining,
        ExcludedPrefixes, Index, LocalEntries, Monitor, NetSvcMonitor, NodeStatusService, Processes,
        UpdatePath, UpdateToken, registry,
    },
    settings::{Nsmgr, Target},
    transport::MAX_MESSAGE,
};

/// Full names of the gRPC services.
const SERVICES: &[&str] = &[
    "networkservice.NetworkService",
    "connection.MonitorConnection",
    "registry.NetworkServiceRegistry",
    "registry.NetworkServiceEndpointRegistry",
];

/// Registry chains: what peers call, and the inner part that this process asks itself.
struct Registries {
    services: RegistryChain<NetworkService>,
    endpoints: RegistryChain<NetworkServiceEndpoint>,
    inner_services: RegistryChain<NetworkService>,
    inner_endpoints: RegistryChain<NetworkServiceEndpoint>,
}

/// The URL under which other nodes reach the endpoints of this one.
fn public_url(listen_on: &[Target]) -> String {
    let tcp = listen_on.iter().find(|target| matches!(target, Target::Tcp(_)));
    tcp.or(listen_on.first()).map(ToString::to_string).unwrap_or_default()
}

fn registries(mesh: &Mesh, settings: &Nsmgr, local: &LocalEntries) -> Registries {
    let up =
        registry::Connect::new(mesh.channels.clone(), settings.registry_url.clone().into(), mesh.token_life)
            .by_url();
    let bypass = registry::LocalBypass::new(
        &public_url(&settings.listen_on),
        &settings.forwarder_service,
        local.clone(),
        mesh.trust.clone(),
    );
    let inner_services = RegistryChain::new(mesh.to_registry(&up));
    let [judged, connect] = mesh.to_registry(&up);
    let inner_endpoints = RegistryChain::new([
        Arc::new(bypass) as Arc<dyn RegistryElement<NetworkServiceEndpoint>>,
        judged,
        connect,
    ]);
    let [judged, connect] = mesh.to_registry(&up);
    Registries {
        services: RegistryChain::new([
            Arc::new(registry::UpdatePath::new(mesh.trust.clone()))
                as Arc<dyn RegistryElement<NetworkService>>,
            Arc::new(
                registry::Authorize::new(mesh.clock.clone()).with(mesh.policies.registry_server.clone()),
            ),
            judged,
            connect,
        ]),
        endpoints: RegistryChain::new([
            Arc::new(registry::UpdatePath::new(mesh.trust.clone()))
                as Arc<dyn RegistryElement<NetworkServiceEndpoint>>,
            Arc::new(
                registry::Authorize::new(mesh.clock.clone()).with(mesh.policies.registry_server.clone()),
            ),
            Arc::new(ClientInfo::new(settings.common.client_info.clone())),
            Arc::new(registry::Expire::new(inner_endpoints.clone(), mesh.clock.clone())),
        ]),
        inner_services,
        inner_endpoints,
    }
}

/// The whole chain, and the session in it.
fn chain(
    mesh: &Mesh,
    settings: &Nsmgr,
    monitor: &Arc<Monitor>,
    index: Index,
    local: LocalEntries,
    draining: Draining,
) -> (Chain, Arc<Session>) {
    let inner = Chain::new([
        Arc::new(monitor.clone()) as Arc<dyn Element>,
        Arc::new(ClientInfo::new(settings.common.client_info.clone())),
        Arc::new(ExcludedPrefixes::new(settings.excluded_prefixes_file.clone())),
        Arc::new(DiscoverForwarder::new(index.clone(), local, &settings.forwarder_service)),
        Arc::new(Connect::new(mesh.channels.clone(), mesh.token_life)),
    ]);
    let session = Arc::new(mesh.session(inner, Policy::Expire).passing_on());
    let chain = Chain::new([
        mesh.admit(),
        Arc::new(UpdatePath::new(&settings.common.name, mesh.trust.clone())),
        Arc::new(UpdateToken),
        // Before the session: who is refused leaves nothing.
        Arc::new(Authorize::new(mesh.clock.clone()).with(mesh.policies.server.clone())),
        Arc::new(Access::new(index, mesh.trust.clone())),
        Arc::new(Drain::new(draining, session.clone())),
        session.clone(),
    ]);
    (chain, session)
}

/// Serves until the stop. Connections stand on without it.
pub async fn run(settings: Nsmgr, stop: CancellationToken) -> Result<(), Error> {
    run_with(settings, Vitals::new(), stop).await
}

/// The same in a process that looks after it.
pub(super) async fn run_with(settings: Nsmgr, vitals: Vitals, stop: CancellationToken) -> Result<(), Error> {
    let readiness = vitals.readiness.clone();
    let mesh = Mesh::start_with(&settings.common, vitals, stop).await?;
    let draining = Draining::default();
    draining.show(&mesh.metrics, &readiness);
    let (monitor, local) = (Arc::new(mesh.monitor(&settings.common.name)), LocalEntries::default());
    figures::monitor(&mesh.metrics, &monitor);
    let registries = registries(&mesh, &settings, &local);
    let index =
        Index::new(registries.inner_services, registries.inner_endpoints, mesh.clock.clone(), &mesh.domain);
    figures::index(&mesh.metrics, &index);
    let (chain, session) = chain(&mesh, &settings, &monitor, index.clone(), local.clone(), draining.clone());
    let (name, service) = (&settings.common.name, &settings.forwarder_service);
    let channels = mesh.channels.clone();
    let processes =
        Arc::new(Processes::new(name, draining, session.clone(), local.clone(), service, channels));
    let _following = AbortOnDropHandle::new(tokio::spawn(processes.clone().run()));
    let moving = NetSvcMonitor { index, monitor: monitor.clone(), session };
    let _moving = AbortOnDropHandle::new(tokio::spawn(moving.run()));
    let _report = match &settings.node_state {
        Some(node) => {
            let client =
                kube::Client::try_default().await.map_err(|error| Error::Kubernetes(error.into()))?;
            let reporter = report::Reporter {
                node: node.clone(),
                name: settings.common.name.clone(),
                forwarder_service: settings.forwarder_service.clone(),
                monitor: monitor.clone(),
                local,
                processes: processes.clone(),
                outage: mesh.source.outage(),
            };
            let wanted = wanted::obey(client.clone(), node.clone(), processes.clone());
            let running = async { tokio::join!(reporter.run(client), wanted) };
            Some(AbortOnDropHandle::new(tokio::spawn(running)))
        }
        None => None,
    };
    let status = NodeStatusService {
        name: settings.common.name.clone(),
        monitor: monitor.clone(),
        processes,
        trust: mesh.trust.clone(),
        stop: mesh.stop.clone(),
    };
    let connections = ConnectionService::new(chain, monitor, mesh.token_life, mesh.stop.clone())
        .with(mesh.policies.monitor.clone());
    let registry = registry::RegistryService::new(
        registries.services,
        registries.endpoints,
        mesh.token_life,
        mesh.stop.clone(),
    );
    let router = |mut server: Server| -> Router {
        server
            .add_service(
                NetworkServiceServer::new(connections.clone()).max_decoding_message_size(MAX_MESSAGE),
            )
            .add_service(
                MonitorConnectionServer::new(connections.clone()).max_decoding_message_size(MAX_MESSAGE),
            )
            .add_service(
                NetworkServiceRegistryServer::new(registry.clone()).max_decoding_message_size(MAX_MESSAGE),
            )
            .add_service(
                NetworkServiceEndpointRegistryServer::new(registry.clone())
                    .max_decoding_message_size(MAX_MESSAGE),
            )
            .add_service(NodeStatusServer::new(status.clone()).max_decoding_message_size(MAX_MESSAGE))
            .add_service(mesh.health(SERVICES, std::future::ready(())))
    };
    mesh.serve(Mesh::bind(&settings.listen_on)?, router).await
}

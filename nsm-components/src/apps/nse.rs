//! `nsm nse`: an endpoint that hands out addresses and answers in its own network namespace.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tonic::transport::{Server, server::Router};
use tracing::warn;

use super::{Error, mesh::Mesh};
use crate::{
    api::{
        connection::monitor_connection_server::MonitorConnectionServer,
        networkservice::network_service_server::NetworkServiceServer,
        registry::{NetworkService, NetworkServiceEndpoint, NetworkServiceLabels},
    },
    chain::{Chain, Element, Policy, RegistryChain, RegistryElement},
    elements::{
        Authorize, ConnectionService, KernelServer, Mechanisms, Monitor, Point2PointIpam, TrimPath,
        UpdatePath, UpdateToken,
        registry::{self, Registration},
    },
    settings::Nse,
};

/// Full names of the gRPC services.
const SERVICES: &[&str] = &["networkservice.NetworkService", "connection.MonitorConnection"];

fn chain(mesh: &Mesh, settings: &Nse, monitor: &Arc<Monitor>) -> Result<Chain, Error> {
    let kernel = KernelServer::new();
    let kernel = kernel.map_err(|source| Error::Kernel { what: "the network namespace", source })?;
    let inner = Chain::new([
        Arc::new(monitor.clone()) as Arc<dyn Element>,
        Arc::new(TrimPath),
        Arc::new(Point2PointIpam::new(settings.cidr_prefix.clone())),
        Arc::new(Mechanisms::kernel()),
        Arc::new(kernel),
    ]);
    Ok(Chain::new([
        mesh.admit(),
        Arc::new(UpdatePath::new(&settings.common.name, mesh.trust.clone())),
        Arc::new(UpdateToken),
        Arc::new(Authorize::new(mesh.clock.clone()).with(mesh.server_policies.clone())),
        Arc::new(mesh.session(inner, Policy::Expire)),
    ]))
}

fn services(settings: &Nse) -> Vec<NetworkService> {
    if !settings.register_service {
        return Vec::new();
    }
    let service = |name: &String| NetworkService {
        name: name.clone(),
        payload: settings.payload.clone(),
        ..Default::default()
    };
    settings.service_names.iter().map(service).collect()
}

fn entry(settings: &Nse) -> NetworkServiceEndpoint {
    let mut labels = settings.common.client_info.clone();
    labels.extend(settings.labels.clone());
    let labels = NetworkServiceLabels { labels };
    NetworkServiceEndpoint {
        name: settings.common.name.clone(),
        network_service_names: settings.service_names.clone(),
        network_service_labels: settings
            .service_names
            .iter()
            .map(|name| (name.clone(), labels.clone()))
            .collect(),
        url: settings.listen_on.to_string(),
        ..NetworkServiceEndpoint::default()
    }
}

/// Serves until the stop; takes its registration back then if it is told to.
pub async fn run(settings: Nse, stop: CancellationToken) -> Result<(), Error> {
    let mesh = Mesh::start(&settings.common, stop).await?;
    let monitor = Arc::new(Monitor::default());
    let service = ConnectionService::new(
        chain(&mesh, &settings, &monitor)?,
        monitor,
        mesh.token_life,
        mesh.stop.clone(),
    );
    // Before the registration, which passes the socket on.
    let listeners = Mesh::bind(std::slice::from_ref(&settings.listen_on))?;
    let up =
        registry::Connect::new(mesh.channels.clone(), settings.connect_to.clone().into(), mesh.token_life);
    let registration = Registration::start(
        RegistryChain::new([Arc::new(up.clone()) as Arc<dyn RegistryElement<NetworkService>>]),
        RegistryChain::new([Arc::new(up) as Arc<dyn RegistryElement<NetworkServiceEndpoint>>]),
        mesh.clock.clone(),
        services(&settings),
        entry(&settings),
    );
    let router = |mut server: Server| -> Router {
        server
            .add_service(NetworkServiceServer::new(service.clone()))
            .add_service(MonitorConnectionServer::new(service.clone()))
            .add_service(mesh.health(SERVICES, registration.registered()))
    };
    let served = mesh.serve(listeners, router).await;
    if settings.unregister_itself
        && let Err(error) = registration.unregister().await
    {
        warn!(%error, "could not take the registration back; it expires by itself");
    }
    served
}

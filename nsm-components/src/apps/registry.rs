//! `nsm registry`: which network services there are and which endpoints serve them.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tonic::transport::{Server, server::Router};

use super::{
    Error, figures,
    mesh::{Mesh, Vitals},
};
use crate::{
    api::registry::{
        NetworkService, NetworkServiceEndpoint,
        network_service_endpoint_registry_server::NetworkServiceEndpointRegistryServer,
        network_service_registry_server::NetworkServiceRegistryServer,
    },
    chain::{RegistryChain, RegistryElement},
    elements::registry::{
        Access, Authorize, Connect, Interdomain, Memory, RegistryService, SetPayload, Storage, Store, UpdatePath,
    },
    settings::Registry,
    transport::MAX_MESSAGE,
};

/// Full names of the gRPC services.
const SERVICES: &[&str] = &["registry.NetworkServiceRegistry", "registry.NetworkServiceEndpointRegistry"];

fn services(
    mesh: &Mesh,
    proxy: Option<&Connect>,
    storage: Arc<dyn Storage<NetworkService>>,
) -> RegistryChain<NetworkService> {
    RegistryChain::new([
        Arc::new(UpdatePath::new(mesh.trust.clone())) as Arc<dyn RegistryElement<NetworkService>>,
        Arc::new(Authorize::new(mesh.clock.clone()).with(mesh.policies.registry_server.clone())),
        Arc::new(SetPayload),
        Arc::new(Interdomain::new(proxy)),
        Arc::new(Store::new(storage, mesh.clock.clone())),
    ])
}

fn endpoints(
    mesh: &Mesh,
    proxy: Option<&Connect>,
    services: RegistryChain<NetworkService>,
    storage: Arc<dyn Storage<NetworkServiceEndpoint>>,
) -> RegistryChain<NetworkServiceEndpoint> {
    RegistryChain::new([
        Arc::new(UpdatePath::new(mesh.trust.clone())) as Arc<dyn RegistryElement<NetworkServiceEndpoint>>,
        Arc::new(Authorize::new(mesh.clock.clone()).with(mesh.policies.registry_server.clone())),
        Arc::new(Access::new(services, mesh.trust.clone(), &mesh.domain)),
        Arc::new(Interdomain::new(proxy)),
        Arc::new(Store::new(storage, mesh.clock.clone())),
    ])
}

/// Serves until the stop.
pub async fn run(settings: Registry, stop: CancellationToken) -> Result<(), Error> {
    run_with(settings, Vitals::new(), stop).await
}

/// The same in a process that looks after it.
pub(super) async fn run_with(
    settings: Registry,
    vitals: Vitals,
    stop: CancellationToken,
) -> Result<(), Error> {
    let mesh = Mesh::start_with(&settings.common, vitals, stop).await?;
    let proxy = settings
        .proxy_registry_url
        .clone()
        .map(|url| Connect::new(mesh.channels.clone(), url.into(), mesh.token_life));
    let of_services: Arc<dyn Storage<NetworkService>> = Arc::new(Memory::default());
    let of_endpoints: Arc<dyn Storage<NetworkServiceEndpoint>> = Arc::new(Memory::default());
    figures::registry(&mesh.metrics, &of_services, &of_endpoints);
    let services = services(&mesh, proxy.as_ref(), of_services);
    let endpoints = endpoints(&mesh, proxy.as_ref(), services.clone(), of_endpoints);
    let service = RegistryService::new(services, endpoints, mesh.token_life, mesh.stop.clone());
    let router = |mut server: Server| -> Router {
        server
            .add_service(
                NetworkServiceRegistryServer::new(service.clone()).max_decoding_message_size(MAX_MESSAGE),
            )
            .add_service(
                NetworkServiceEndpointRegistryServer::new(service.clone())
                    .max_decoding_message_size(MAX_MESSAGE),
            )
            .add_service(mesh.health(SERVICES, std::future::ready(())))
    };
    mesh.serve(Mesh::bind(&settings.listen_on)?, router).await
}

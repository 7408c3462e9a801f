//! `nsm registry`: which network services there are and which endpoints serve them.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tonic::transport::{Server, server::Router};

use super::{Error, mesh::Mesh};
use crate::{
    api::{
        registry::{
            NetworkService, NetworkServiceEndpoint,
            network_service_endpoint_registry_server::NetworkServiceEndpointRegistryServer,
            network_service_registry_server::NetworkServiceRegistryServer,
        },
        trust::Trust,
    },
    chain::{Clock, RegistryChain, RegistryElement},
    elements::{
        health_service,
        registry::{Access, Authorize, Memory, RegistryService, SetPayload, Store, UpdatePath},
    },
    settings::Registry,
};

/// Full names of the gRPC services.
const SERVICES: &[&str] = &["registry.NetworkServiceRegistry", "registry.NetworkServiceEndpointRegistry"];

fn services(clock: &Clock, trust: &Trust) -> RegistryChain<NetworkService> {
    RegistryChain::new([
        Arc::new(UpdatePath::new(trust.clone())) as Arc<dyn RegistryElement<NetworkService>>,
        Arc::new(Authorize::new(clock.clone())),
        Arc::new(SetPayload),
        Arc::new(Store::new(Arc::new(Memory::default()), clock.clone())),
    ])
}

fn endpoints(
    clock: &Clock,
    trust: &Trust,
    domain: &str,
    services: RegistryChain<NetworkService>,
) -> RegistryChain<NetworkServiceEndpoint> {
    RegistryChain::new([
        Arc::new(UpdatePath::new(trust.clone())) as Arc<dyn RegistryElement<NetworkServiceEndpoint>>,
        Arc::new(Authorize::new(clock.clone())),
        Arc::new(Access::new(services, trust.clone(), domain)),
        Arc::new(Store::new(Arc::new(Memory::default()), clock.clone())),
    ])
}

/// Serves until the stop.
pub async fn run(settings: Registry, stop: CancellationToken) -> Result<(), Error> {
    let mesh = Mesh::start(&settings.common, stop).await?;
    let services = services(&mesh.clock, &mesh.trust);
    let endpoints = endpoints(&mesh.clock, &mesh.trust, &mesh.domain, services.clone());
    let service = RegistryService::new(services, endpoints, mesh.token_life, mesh.stop.clone());
    let router = |mut server: Server| -> Router {
        server
            .add_service(NetworkServiceRegistryServer::new(service.clone()))
            .add_service(NetworkServiceEndpointRegistryServer::new(service.clone()))
            .add_service(health_service(SERVICES, std::future::ready(())))
    };
    mesh.serve(Mesh::bind(&settings.listen_on)?, router).await
}

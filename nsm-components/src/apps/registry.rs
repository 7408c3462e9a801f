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
        Policies,
        registry::{Authorize, Expire, Memory, RegistryService, SetPayload, UpdatePath},
    },
    settings::Registry,
};

/// Full names of the gRPC services.
const SERVICES: &[&str] = &["registry.NetworkServiceRegistry", "registry.NetworkServiceEndpointRegistry"];

fn services(clock: &Clock, trust: &Trust, policies: &Policies) -> RegistryChain<NetworkService> {
    RegistryChain::new([
        Arc::new(UpdatePath::new(trust.clone())) as Arc<dyn RegistryElement<NetworkService>>,
        Arc::new(Authorize::new(clock.clone()).with(policies.clone())),
        Arc::new(SetPayload),
        Arc::new(Memory::default()),
    ])
}

fn endpoints(clock: &Clock, trust: &Trust, policies: &Policies) -> RegistryChain<NetworkServiceEndpoint> {
    let store = RegistryChain::new([Arc::new(Memory::default()) as Arc<dyn RegistryElement<_>>]);
    RegistryChain::new([
        Arc::new(UpdatePath::new(trust.clone())) as Arc<dyn RegistryElement<NetworkServiceEndpoint>>,
        Arc::new(Authorize::new(clock.clone()).with(policies.clone())),
        Arc::new(Expire::new(store, clock.clone())),
    ])
}

/// Serves until the stop.
pub async fn run(settings: Registry, stop: CancellationToken) -> Result<(), Error> {
    let mesh = Mesh::start(&settings.common, stop).await?;
    let service = RegistryService::new(
        services(&mesh.clock, &mesh.trust, &mesh.registry_policies),
        endpoints(&mesh.clock, &mesh.trust, &mesh.registry_policies),
        mesh.token_life,
        mesh.stop.clone(),
    );
    let router = |mut server: Server| -> Router {
        server
            .add_service(NetworkServiceRegistryServer::new(service.clone()))
            .add_service(NetworkServiceEndpointRegistryServer::new(service.clone()))
            .add_service(mesh.health(SERVICES, std::future::ready(())))
    };
    mesh.serve(Mesh::bind(&settings.listen_on)?, router).await
}

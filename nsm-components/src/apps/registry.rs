//! `nsm registry`: which network services there are and which endpoints serve them.

mod follow;
mod kubernetes;
mod leases;
mod objects;

use std::sync::Arc;

use futures::FutureExt;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Server, server::Router};

use self::kubernetes::Kubernetes;
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
    daemon::Readiness,
    elements::registry::{
        Access, Authorize, Connect, Interdomain, Memory, RegistryService, SetPayload, Storage, Store,
        UpdatePath,
    },
    settings::{self, Registry},
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

/// Where entries are kept.
struct Stored {
    services: Arc<dyn Storage<NetworkService>>,
    endpoints: Arc<dyn Storage<NetworkServiceEndpoint>>,
    kubernetes: Option<Kubernetes>,
}

async fn stored(mesh: &Mesh, storage: &settings::Storage, readiness: &Readiness) -> Result<Stored, Error> {
    let settings::Storage::Crd { namespace, replica } = storage else {
        let (services, endpoints) = (Memory::default(), Memory::default());
        return Ok(Stored { services: Arc::new(services), endpoints: Arc::new(endpoints), kubernetes: None });
    };
    let kubernetes = Kubernetes::start(mesh, namespace, replica.as_deref()).await?;
    figures::kubernetes(&mesh.metrics, &kubernetes.reach, &kubernetes.leases, {
        let candidate = kubernetes.candidate.clone();
        move || candidate.leads()
    });
    let reach = kubernetes.reach.clone();
    readiness.require("kubernetes", move || reach.lacks());
    Ok(Stored {
        services: kubernetes.services.clone(),
        endpoints: kubernetes.endpoints.clone(),
        kubernetes: Some(kubernetes),
    })
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
    let readiness = vitals.readiness.clone();
    let mesh = Mesh::start_with(&settings.common, vitals, stop).await?;
    let proxy = settings
        .proxy_registry_url
        .clone()
        .map(|url| Connect::new(mesh.channels.clone(), url.into(), mesh.token_life));
    let Stored { services: of_services, endpoints: of_endpoints, kubernetes } =
        stored(&mesh, &settings.storage, &readiness).await?;
    figures::registry(&mesh.metrics, &of_services, &of_endpoints);
    let services = services(&mesh, proxy.as_ref(), of_services);
    let endpoints = endpoints(&mesh, proxy.as_ref(), services.clone(), of_endpoints);
    let service = RegistryService::new(services, endpoints, mesh.token_life, mesh.stop.clone());
    let reach = kubernetes.as_ref().map(|kubernetes| kubernetes.reach.clone());
    let service = match reach.clone() {
        Some(reach) => service.stale_by(move || reach.stale().map(|(age, _)| age)),
        None => service,
    };
    let known = async move {
        if let Some(reach) = reach {
            reach.complete().await;
        }
    }
    .shared();
    let router = |mut server: Server| -> Router {
        server
            .add_service(
                NetworkServiceRegistryServer::new(service.clone()).max_decoding_message_size(MAX_MESSAGE),
            )
            .add_service(
                NetworkServiceEndpointRegistryServer::new(service.clone())
                    .max_decoding_message_size(MAX_MESSAGE),
            )
            .add_service(mesh.health(SERVICES, known.clone()))
    };
    let served = mesh.serve(Mesh::bind(&settings.listen_on)?, router).await;
    if let Some(kubernetes) = kubernetes {
        kubernetes.end().await;
    }
    served
}

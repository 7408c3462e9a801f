//! An endpoint of the mesh: what `nsm nse` is made of, and what users build their own on.
//!
//! ```no_run
//! use nsm_components::{apps::{Endpoint, Error}, daemon, settings::{self, ProcessEnvironment}};
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let settings = settings::Endpoint::read(&ProcessEnvironment)?;
//! Endpoint::new(settings).kernel()?.serve(daemon::stop_on_signals()?).await?;
//! # Ok(())
//! # }
//! ```

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tonic::transport::{Server, server::Router};
use tracing::{info, warn};

use super::{Error, figures, mesh::Mesh};
use crate::{
    api::{
        connection::monitor_connection_server::MonitorConnectionServer,
        networkservice::network_service_server::NetworkServiceServer,
        registry::{NetworkService, NetworkServiceEndpoint, NetworkServiceLabels},
    },
    chain::{Chain, Element, Policy, RegistryChain},
    elements::{
        Authorize, ConnectionService, KernelServer, Mechanisms, Monitor, OnIdle, TrimPath, UpdatePath,
        UpdateToken,
        registry::{self, Registration},
    },
    settings,
    transport::MAX_MESSAGE,
};

/// Full names of the gRPC services.
const SERVICES: &[&str] = &["networkservice.NetworkService", "connection.MonitorConnection"];

/// See the module. It serves its own elements behind those of every endpoint (protocol §4.1).
pub struct Endpoint {
    settings: settings::Endpoint,
    elements: Vec<Arc<dyn Element>>,
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let elements = self.elements.iter().map(|element| element.name()).collect::<Vec<_>>();
        f.debug_struct("Endpoint").field("settings", &self.settings).field("elements", &elements).finish()
    }
}

impl Endpoint {
    /// An endpoint that hands out nothing yet.
    pub fn new(settings: settings::Endpoint) -> Self {
        Self { settings, elements: Vec::new() }
    }

    /// The same with one more element, which is called after those before it.
    #[must_use]
    pub fn with(mut self, element: impl Element) -> Self {
        self.elements.push(Arc::new(element));
        self
    }

    /// The same with an interface in this process's network namespace for every connection.
    pub fn kernel(self) -> Result<Self, Error> {
        let kernel = KernelServer::new();
        let kernel = kernel.map_err(|source| Error::Kernel { what: "the network namespace", source })?;
        Ok(self.with(Mechanisms::kernel()).with(kernel))
    }

    /// Registers and serves until the stop, or until nobody used it for its idle timeout. Takes its
    /// registration back at the end if it is told to, or if it was idle. Connections stand on.
    pub async fn serve(self, stop: CancellationToken) -> Result<(), Error> {
        let Self { settings, elements } = self;
        let ending = stop.child_token();
        let mesh = Mesh::start(&settings.common, ending.clone()).await?;
        let monitor = Arc::new(Monitor::default());
        figures::monitor(&mesh.metrics, &monitor);
        // Before the registration, which passes the socket on.
        let listeners = Mesh::bind(std::slice::from_ref(&settings.listen_on))?;
        let registration = register(&mesh, &settings);
        let on_idle =
            settings.idle_timeout.map(|limit| OnIdle::new(limit, registration.registered(), ending.clone()));
        let service = ConnectionService::new(
            chain(&mesh, &settings, &monitor, on_idle, elements),
            monitor,
            mesh.token_life,
            mesh.stop.clone(),
        )
        .with(mesh.policies.monitor.clone());
        let router = |mut server: Server| -> Router {
            server
                .add_service(
                    NetworkServiceServer::new(service.clone()).max_decoding_message_size(MAX_MESSAGE),
                )
                .add_service(
                    MonitorConnectionServer::new(service.clone()).max_decoding_message_size(MAX_MESSAGE),
                )
                .add_service(mesh.health(SERVICES, registration.registered()))
        };
        let served = mesh.serve(listeners, router).await;
        let idle = ending.is_cancelled() && !stop.is_cancelled();
        if settings.unregister_itself || idle {
            match registration.unregister().await {
                Ok(()) => info!(endpoint = %settings.common.name, "unregistered"),
                Err(error) => {
                    warn!(%error, "could not take the registration back; it expires by itself");
                }
            }
        }
        served
    }
}

fn chain(
    mesh: &Mesh,
    settings: &settings::Endpoint,
    monitor: &Arc<Monitor>,
    on_idle: Option<OnIdle>,
    elements: Vec<Arc<dyn Element>>,
) -> Chain {
    let mut inner: Vec<Arc<dyn Element>> = vec![Arc::new(monitor.clone()), Arc::new(TrimPath)];
    inner.extend(on_idle.map(|on_idle| Arc::new(on_idle) as Arc<dyn Element>));
    inner.extend(elements);
    Chain::new([
        mesh.admit(),
        Arc::new(UpdatePath::new(&settings.common.name, mesh.trust.clone())),
        Arc::new(UpdateToken),
        // Who may use the service was judged by the nsmgr: nobody comes past it.
        Arc::new(
            Authorize::mesh_only(mesh.clock.clone(), mesh.trust.clone()).with(mesh.policies.server.clone()),
        ),
        Arc::new(mesh.session(Chain::new(inner), Policy::Expire)),
    ])
}

/// Services first: an endpoint of a service that nobody knows would not be found.
fn register(mesh: &Mesh, settings: &settings::Endpoint) -> Registration {
    let up =
        registry::Connect::new(mesh.channels.clone(), settings.connect_to.clone().into(), mesh.token_life);
    Registration::start(
        RegistryChain::new(mesh.to_registry(&up)),
        RegistryChain::new(mesh.to_registry(&up)),
        mesh.clock.clone(),
        services(settings),
        entry(settings),
    )
}

fn services(settings: &settings::Endpoint) -> Vec<NetworkService> {
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

fn entry(settings: &settings::Endpoint) -> NetworkServiceEndpoint {
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

//! `nsm forwarder`: makes the kernel of a node carry connections.

use std::{net::IpAddr, sync::Arc};

use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tonic::transport::{Server, server::Router};
use tracing::info;

use super::{
    Error, figures,
    mesh::{Mesh, Vitals},
};
use crate::{
    api::{
        connection::monitor_connection_server::MonitorConnectionServer,
        mechanism::vxlan_overhead,
        networkservice::network_service_server::NetworkServiceServer,
        registry::{NetworkServiceEndpoint, NetworkServiceLabels},
    },
    chain::{Chain, Element, Policy, RegistryChain},
    dataplane::{Dataplane, ForwarderId, Journal, Netlink, Netns},
    elements::{
        Authorize, Connect, ConnectionService, Discover, Index, MechanismTranslation, Mechanisms, Monitor,
        UpdatePath, UpdateToken, Vnis, Vxlan, Xconnect,
        registry::{self, Registration},
    },
    settings::Forwarder,
    transport::MAX_MESSAGE,
};

/// Full names of the gRPC services.
const SERVICES: &[&str] = &["networkservice.NetworkService", "connection.MonitorConnection"];

/// Where tunnels end on this node: address, UDP port, largest inner packet in bytes.
type Tunnel = (IpAddr, u16, u32);

async fn tunnel(settings: &Forwarder, kernel: &Netlink) -> Result<Option<Tunnel>, Error> {
    let Some(ip) = settings.tunnel_ip else { return Ok(None) };
    let failed = |reason: String| Error::Tunnel { ip, reason };
    let mtu = kernel.underlay_mtu(ip).await.map_err(|error| failed(error.to_string()))?;
    let mtu =
        mtu.ok_or_else(|| failed("no interface of this node has it; check NSM_TUNNEL_IP".to_owned()))?;
    Ok(Some((ip, settings.vxlan_port, mtu.saturating_sub(vxlan_overhead(ip)))))
}

fn chain(
    mesh: &Mesh,
    settings: &Forwarder,
    tunnel: Option<Tunnel>,
    vnis: Vnis,
    monitor: &Arc<Monitor>,
    index: Index,
    xconnect: Xconnect<Netlink>,
) -> Chain {
    let mut inner: Vec<Arc<dyn Element>> = vec![
        Arc::new(monitor.clone()),
        Arc::new(Discover::new(index)),
        Arc::new(Mechanisms::forwarder(tunnel.is_some())),
    ];
    // On the way in: the endpoint is to know the tunnel's MTU.
    inner.extend(tunnel.map(|(ip, port, mtu)| Arc::new(Vxlan::new(ip, port, mtu, vnis)) as Arc<dyn Element>));
    inner.extend([
        // On the way back: both sides are known only then.
        Arc::new(xconnect) as Arc<dyn Element>,
        Arc::new(MechanismTranslation::new(tunnel)),
        Arc::new(Connect::new(mesh.channels.clone(), mesh.token_life).to_endpoints()),
    ]);
    Chain::new([
        mesh.admit(),
        Arc::new(UpdatePath::new(&settings.common.name, mesh.trust.clone())),
        Arc::new(UpdateToken),
        // Only the node's nsmgr calls a forwarder.
        Arc::new(
            Authorize::mesh_only(mesh.clock.clone(), mesh.trust.clone()).with(mesh.policies.server.clone()),
        ),
        Arc::new(mesh.session(Chain::new(inner), Policy::Expire)),
    ])
}

/// This forwarder as its nsmgr shall know it.
fn entry(settings: &Forwarder) -> NetworkServiceEndpoint {
    let labels = NetworkServiceLabels { labels: settings.labels.clone() };
    NetworkServiceEndpoint {
        name: settings.common.name.clone(),
        network_service_names: vec![settings.forwarder_service.clone()],
        network_service_labels: [(settings.forwarder_service.clone(), labels)].into(),
        url: settings.listen_on.to_string(),
        ..NetworkServiceEndpoint::default()
    }
}

/// Serves until the stop. Links stand on without it.
pub async fn run(settings: Forwarder, stop: CancellationToken) -> Result<(), Error> {
    run_with(settings, Vitals::new(), stop).await
}

/// The same in a process that looks after it.
pub(super) async fn run_with(
    settings: Forwarder,
    vitals: Vitals,
    stop: CancellationToken,
) -> Result<(), Error> {
    let mesh = Mesh::start_with(&settings.common, vitals, stop).await?;
    let host =
        Netns::current().map_err(|source| Error::Kernel { what: "the network namespace", source })?.key();
    let kernel = Netlink::new().map_err(|source| Error::Kernel { what: "the network namespace", source })?;
    let tunnel = tunnel(&settings, &kernel).await?;
    let (journal, left) = Journal::open(&settings.base_dir)?;
    info!(connections = left.len(), ?tunnel, "left by an earlier process");
    let vnis = Vnis::default();
    for (vni, entry) in left.iter().filter_map(|entry| Some((entry.vni?, entry))) {
        vnis.reserve(vni, entry.footprint.id.as_str());
    }
    let id = ForwarderId::new(&settings.common.name, host, &settings.base_dir);
    let dataplane = Dataplane::new(kernel.clone()).with_forwarder(id);
    let xconnect = Xconnect::new(dataplane, journal, left, host);
    figures::kernel(&mesh.metrics, &kernel, &xconnect, &vnis);
    let _audit = AbortOnDropHandle::new(tokio::spawn(xconnect.clone().audit(mesh.audit_rules())));

    let up =
        registry::Connect::new(mesh.channels.clone(), settings.connect_to.clone().into(), mesh.token_life);
    let services = RegistryChain::new(mesh.to_registry(&up));
    let endpoints = RegistryChain::new(mesh.to_registry(&up));
    let index = Index::new(services.clone(), endpoints.clone(), mesh.clock.clone(), &mesh.domain);
    figures::index(&mesh.metrics, &index);
    let monitor = Arc::new(mesh.monitor(&settings.common.name));
    figures::monitor(&mesh.metrics, &monitor);
    let chain = chain(&mesh, &settings, tunnel, vnis, &monitor, index, xconnect.clone());
    let service = ConnectionService::new(chain, monitor, mesh.token_life, mesh.stop.clone())
        .with(mesh.policies.monitor.clone());
    // Before the registration, which passes the socket on.
    let listeners = Mesh::bind(std::slice::from_ref(&settings.listen_on))?;
    let registration =
        Registration::start(services, endpoints, mesh.clock.clone(), Vec::new(), entry(&settings));
    let router = |mut server: Server| -> Router {
        server
            .add_service(NetworkServiceServer::new(service.clone()).max_decoding_message_size(MAX_MESSAGE))
            .add_service(MonitorConnectionServer::new(service.clone()).max_decoding_message_size(MAX_MESSAGE))
            .add_service(mesh.health(SERVICES, registration.registered()))
    };
    mesh.serve(listeners, router).await?;
    xconnect.quiesce().await;
    Ok(())
}

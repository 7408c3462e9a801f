//! `nsm forwarder`: makes the kernel of a node carry connections.

use std::{sync::Arc, time::Duration};

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
        mechanism,
        networkservice::network_service_server::NetworkServiceServer,
        node::process_status_server::ProcessStatusServer,
        registry::{NetworkServiceEndpoint, NetworkServiceLabels},
    },
    chain::{Chain, Element, Policy, RegistryChain, Session},
    dataplane::{Dataplane, Entry, ForwarderId, Journal, Netlink, Netns, PathMtus},
    elements::{
        Authorize, BrokenLinks, Connect, ConnectionService, Discover, Drain, Draining, Index,
        MechanismTranslation, Mechanisms, Monitor, Mtu, ProcessStatusService, Tunnels, UpdatePath,
        UpdateToken, Vnis, Vxlan, Wireguard, Wireguards, Xconnect,
        registry::{self, Registration},
    },
    settings::Forwarder,
    transport::MAX_MESSAGE,
};

/// Longest wait for links of ended connections to be deleted when the process stops.
const DELETION_LIMIT: Duration = Duration::from_secs(5);

/// Full names of the gRPC services.
const SERVICES: &[&str] = &["networkservice.NetworkService", "connection.MonitorConnection"];

/// Mechanisms that this node lacks, each with its reason.
type Absent = Vec<(&'static str, String)>;

/// Where tunnels end on this node, and which there are.
async fn tunnels(settings: &Forwarder, kernel: &Netlink) -> Result<Option<(Tunnels, Absent)>, Error> {
    let Some(ip) = settings.tunnel_ip else { return Ok(None) };
    let failed = |reason: String| Error::Tunnel { ip, reason };
    let mtu = kernel.underlay_mtu(ip).await.map_err(|error| failed(error.to_string()))?;
    let mtu =
        mtu.ok_or_else(|| failed("no interface of this node has it; check NSM_TUNNEL_IP".to_owned()))?;
    let lacks = kernel.lacks_wireguard().await;
    let tunnels = Tunnels {
        ip,
        mtu,
        paths: PathMtus::new(ip, mtu),
        vxlan_port: settings.vxlan_port,
        vnis: Vnis::default(),
        wireguards: lacks.is_none().then(Wireguards::default),
        priority: settings.mechanism_priority.clone(),
    };
    Ok(Some((tunnels, lacks.map(|reason| (mechanism::WIREGUARD, reason)).into_iter().collect())))
}

fn chain(
    mesh: &Mesh,
    settings: &Forwarder,
    tunnels: Option<(Tunnels, Absent)>,
    monitor: &Arc<Monitor>,
    index: Index,
    xconnect: Xconnect<Netlink>,
    draining: Draining,
) -> (Chain, Arc<Session>) {
    let (tunnels, absent) = tunnels.unzip();
    let absent = absent.unwrap_or_default();
    let types = tunnels.as_ref().map(Tunnels::types).unwrap_or_default();
    let mut inner: Vec<Arc<dyn Element>> = vec![
        Arc::new(monitor.clone()),
        Arc::new(Discover::new(index)),
        Arc::new(Mechanisms::forwarder(&types, &absent)),
    ];
    // On the way in: the endpoint is to know the tunnel's MTU.
    if let Some(tunnels) = &tunnels {
        let (mtu, vnis) = (tunnels.vxlan_mtu(), tunnels.vnis.clone());
        inner.push(Arc::new(Vxlan::new(tunnels.ip, tunnels.vxlan_port, mtu, vnis)));
        inner.extend(Wireguard::new(tunnels).map(|it| Arc::new(it) as Arc<dyn Element>));
    }
    inner.extend([
        // On the way back: both sides are known only then.
        Arc::new(xconnect) as Arc<dyn Element>,
        Arc::new(Mtu::new(tunnels.clone())),
        Arc::new(MechanismTranslation::new(tunnels)),
        Arc::new(Connect::new(mesh.channels.clone(), mesh.token_life).to_endpoints()),
    ]);
    let session = Arc::new(mesh.session(Chain::new(inner), Policy::Expire).passing_on());
    let chain = Chain::new([
        mesh.admit(),
        Arc::new(UpdatePath::new(&settings.common.name, mesh.trust.clone())),
        Arc::new(UpdateToken),
        // Only the node's nsmgr calls a forwarder.
        Arc::new(
            Authorize::mesh_only(mesh.clock.clone(), mesh.trust.clone()).with(mesh.policies.server.clone()),
        ),
        Arc::new(Drain::new(draining, session.clone())),
        session.clone(),
    ]);
    (chain, session)
}

/// Numbers and ports of tunnels, with those that an earlier process left.
fn in_use(tunnels: Option<&Tunnels>, left: &[Entry]) -> (Vnis, Wireguards) {
    let vnis = tunnels.map(|tunnels| tunnels.vnis.clone()).unwrap_or_default();
    let wireguards = tunnels.and_then(|tunnels| tunnels.wireguards.clone()).unwrap_or_default();
    for entry in left {
        let id = entry.footprint.id.as_str();
        entry.vni.map(|vni| vnis.reserve(vni, id));
        entry.port.inspect(|port| wireguards.left(id, *port));
    }
    (vnis, wireguards)
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
    let readiness = vitals.readiness.clone();
    let mesh = Mesh::start_with(&settings.common, vitals, stop).await?;
    let draining = Draining::default();
    draining.show(&mesh.metrics, &readiness);
    let host =
        Netns::current().map_err(|source| Error::Kernel { what: "the network namespace", source })?.key();
    let kernel = Netlink::new().map_err(|source| Error::Kernel { what: "the network namespace", source })?;
    let tunnels = tunnels(&settings, &kernel).await?;
    let (journal, left) = Journal::open(&settings.base_dir)?;
    info!(connections = left.len(), "left by an earlier process");
    let (vnis, wireguards) = in_use(tunnels.as_ref().map(|(tunnels, _)| tunnels), &left);
    let id = ForwarderId::new(&settings.common.name, host, &settings.base_dir);
    let dataplane = Dataplane::new(kernel.clone()).with_forwarder(id.clone()).deleting_later();
    let _deletions = AbortOnDropHandle::new(tokio::spawn(dataplane.clone().delete_retired()));
    let retired = dataplane.clone();
    let xconnect = Xconnect::new(dataplane, journal, left, host).with_wireguards(wireguards.clone());
    figures::kernel(&mesh.metrics, &kernel, &xconnect, &vnis);
    let absent = tunnels.as_ref().map(|(_, absent)| absent.as_slice()).unwrap_or_default();
    for (mechanism, reason) in absent {
        info!(mechanism, reason, "mechanism is not offered");
    }
    figures::tunnels(&mesh.metrics, &wireguards, absent);
    let _audit = AbortOnDropHandle::new(tokio::spawn(xconnect.clone().audit(mesh.audit_rules())));

    let up =
        registry::Connect::new(mesh.channels.clone(), settings.connect_to.clone().into(), mesh.token_life);
    let services = RegistryChain::new(mesh.to_registry(&up));
    let endpoints = RegistryChain::new(mesh.to_registry(&up));
    let index = Index::new(services.clone(), endpoints.clone(), mesh.clock.clone(), &mesh.domain);
    figures::index(&mesh.metrics, &index);
    let monitor = Arc::new(mesh.monitor(&settings.common.name));
    figures::monitor(&mesh.metrics, &monitor);
    let events = BrokenLinks { xconnect: xconnect.clone(), monitor: monitor.clone(), forwarder: id };
    let _events = AbortOnDropHandle::new(tokio::spawn(events.run()));
    let (chain, session) =
        chain(&mesh, &settings, tunnels, &monitor, index, xconnect.clone(), draining.clone());
    let status = ProcessStatusService::new(
        &settings.common.name,
        draining,
        session,
        xconnect.clone(),
        mesh.trust.clone(),
        mesh.stop.clone(),
    );
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
            .add_service(ProcessStatusServer::new(status.clone()).max_decoding_message_size(MAX_MESSAGE))
            .add_service(mesh.health(SERVICES, registration.registered()))
    };
    mesh.serve(listeners, router).await?;
    // What is out of use carries nothing; what is left of it the next process finds.
    let _ = tokio::time::timeout(DELETION_LIMIT, retired.emptied()).await;
    xconnect.quiesce().await;
    Ok(())
}

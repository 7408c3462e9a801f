//! A pod with a valid identity that keeps to no rule. The mesh's own processes are known by their IDs
//! here, as on Kubernetes; the test plays the pod.

use std::{path::Path, sync::Arc, time::Duration};

use nsm_components::{
    api::{
        Connection, Path as ConnectionPath, PathSegment,
        connection::{MonitorScopeSelector, monitor_connection_client::MonitorConnectionClient},
        networkservice::{
            NetworkServiceRequest,
            network_service_client::NetworkServiceClient,
            network_service_server::{NetworkService as Serve, NetworkServiceServer},
        },
        peer::{Address, Files},
        registry::{
            AccessRules, NetworkService, NetworkServiceEndpoint,
            network_service_endpoint_registry_client::NetworkServiceEndpointRegistryClient,
            network_service_registry_client::NetworkServiceRegistryClient,
        },
    },
    chain::{RegistryChain, SystemClock},
    elements::registry::{Connect, Registration},
    settings::Target,
    transport::{Channel, Listener, Token, file_key},
};
use nsm_e2e::{
    figures::figures,
    mesh::{Mesh, START, Who},
    netns::Netns,
    wait::{may_run, until_true},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status, transport::Server};

use crate::{story::IFNAME, stranger::Stranger};

/// No token ends while a test runs: what is refused is refused for its own reason.
const LIFE: Duration = Duration::from_mins(5);

/// The mesh's processes. The test has an ID of the same user, and is none.
pub(crate) const TRUSTED: &str = "spiffe://host.nsm/host/uid/0/nsmgr-1,spiffe://host.nsm/host/uid/0/nsmgr-2,\
                       spiffe://host.nsm/host/uid/0/forwarder-1,spiffe://host.nsm/host/uid/0/forwarder-2";

fn mesh() -> Mesh {
    Mesh::start_with(LIFE, &[("NSM_TRUSTED_IDS", TRUSTED)]).unwrap()
}

fn refused<T: std::fmt::Debug>(result: Result<T, Status>, why: &str) {
    let status = result.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
    assert!(status.message().contains(why), "{why} in {status:?}");
}

/// A message with what makes a registration: a token, and the path that has yet to begin.
fn call<M>(channel: &Channel, message: M) -> Request<M> {
    let mut call = Request::new(message);
    channel.token(LIFE).unwrap().write(call.metadata_mut());
    call.metadata_mut().insert("path", r#"{"Index":0,"PathSegments":null}"#.parse().unwrap());
    call.set_timeout(START);
    call
}

/// Registers an endpoint with a socket of this process, or under a URL.
async fn register(channel: &Channel, name: &str, service: &str, url: Option<&str>) -> Result<(), Status> {
    let (socket, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
    let socket = Arc::new(socket.into());
    let (key, mut files) = (file_key(&*socket).unwrap(), Files::default());
    files.insert(key, socket);
    channel.files.send(&files);
    let entry = NetworkServiceEndpoint {
        name: name.into(),
        network_service_names: vec![service.into()],
        url: url.map_or_else(|| key.to_string(), str::to_owned),
        ..Default::default()
    };
    NetworkServiceEndpointRegistryClient::new(channel.grpc.clone())
        .register(call(channel, entry))
        .await
        .map(drop)
}

async fn unregister(channel: &Channel, name: &str) -> Result<(), Status> {
    let entry = NetworkServiceEndpoint { name: name.into(), ..Default::default() };
    let mut registry = NetworkServiceEndpointRegistryClient::new(channel.grpc.clone());
    registry.unregister(call(channel, entry)).await.map(drop)
}

/// What the registry behind an nsmgr knows of these endpoints.
async fn find(channel: &Channel, name: &str) -> Vec<NetworkServiceEndpoint> {
    let like = NetworkServiceEndpoint { name: name.into(), ..Default::default() };
    let query = nsm_components::api::registry::NetworkServiceEndpointQuery {
        network_service_endpoint: Some(like),
        ..Default::default()
    };
    let mut found = NetworkServiceEndpointRegistryClient::new(channel.grpc.clone())
        .find(call(channel, query))
        .await
        .unwrap()
        .into_inner();
    let mut all = Vec::new();
    while let Some(answer) = found.message().await.unwrap() {
        all.extend(answer.network_service_endpoint);
    }
    all
}

/// Registers a service with a list of who may connect and of who may serve.
async fn restrict(channel: &Channel, name: &str, clients: &[&str], endpoints: &[&str]) {
    let list = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect();
    let access = Some(AccessRules { clients: list(clients), endpoints: list(endpoints) });
    let service = NetworkService { name: name.into(), access, ..Default::default() };
    let mut registry = NetworkServiceRegistryClient::new(channel.grpc.clone());
    registry.register(call(channel, service)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rogue_serves_no_forwarder_takes_no_name_and_registers_no_address() {
    if !may_run() {
        return;
    }
    let mut mesh = mesh();
    let endpoint = mesh.endpoint(2, "finance", &[]).unwrap();
    let client = mesh.client(1, &format!("kernel://finance/{IFNAME}")).unwrap();
    mesh.connected(client, IFNAME).unwrap();
    let rogue = Stranger::of(&mesh);
    let [one, two] = [rogue.channel(&mesh.nsmgr_socket(1)).await, rogue.channel(&mesh.nsmgr_socket(2)).await];
    let before = find(&one, "").await;
    assert_eq!(before.len(), 1);

    refused(register(&one, "forwarder-9", "forwarder", None).await, "may not offer forwarder");
    let victim = endpoint.to_string();
    let owner = format!("belongs to spiffe://host.nsm/host/uid/0/{victim}");
    // By the nsmgr that has it, and from another node by the registry.
    refused(register(&two, &victim, "finance", None).await, &owner);
    refused(register(&one, &victim, "finance", None).await, &owner);
    refused(unregister(&two, &victim).await, &owner);
    refused(unregister(&one, &victim).await, &owner);
    let address = Some("tcp://10.77.0.9:5001");
    refused(register(&one, "nse-9", "finance", address).await, "has to hand in its own socket");
    // Past the nsmgr, straight to the registry.
    let (workload_api, node) = (mesh.workload_api(), mesh.nodes()[0].clone());
    let direct = tokio::task::spawn_blocking(move || {
        node.inside(move || directly(&workload_api, "nse-9", "tcp://10.77.0.9:5001")).unwrap()
    });
    refused(direct.await.unwrap(), "is no nsmgr");

    // A service that names its endpoints is served by no other.
    restrict(&one, "vault", &[], &["host/uid/0/nse-9"]).await;
    let by_rogue = register(&one, "nse-8", "vault", None).await;
    refused(by_rogue, "may not serve network service vault: it allows host/uid/0/nse-9");

    assert_eq!(find(&one, "").await.len(), 1, "nothing was left behind");
    assert_eq!(find(&two, &victim).await.len(), 1);
    let again = mesh.client(1, &format!("kernel://finance/{IFNAME}")).unwrap();
    mesh.connected(again, IFNAME).unwrap();
}

/// A registration at the registry itself, from the node's network.
fn directly(workload_api: &Path, name: &str, url: &str) -> Result<(), Status> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let rogue = Stranger::with(workload_api);
        let registry =
            rogue.channel_to(&Address::from("tcp://10.77.0.1:5002".parse::<Target>().unwrap())).await;
        register(&registry, name, "finance", Some(url)).await
    })
}

/// Serves, and keeps what it is sent.
struct Bait(mpsc::Sender<Connection>);

#[tonic::async_trait]
impl Serve for Bait {
    async fn request(&self, call: Request<NetworkServiceRequest>) -> Result<Response<Connection>, Status> {
        let _ = self.0.try_send(call.into_inner().connection.unwrap());
        Err(Status::unavailable("thank you"))
    }

    async fn close(&self, _: Request<Connection>) -> Result<Response<()>, Status> {
        Ok(Response::new(()))
    }
}

/// A Request of `victim`, as an endpoint that it asked in good faith gets it.
async fn stolen(mesh: &Mesh, rogue: &Stranger, victim: Who) -> Connection {
    let (folder, stop) = (tempfile::tempdir().unwrap(), CancellationToken::new());
    let _stop = stop.clone().drop_guard();
    let socket = Target::Unix(folder.path().join("bait.sock"));
    let (sender, mut requests) = mpsc::channel(16);
    let router = Server::builder().add_service(NetworkServiceServer::new(Bait(sender)));
    let listener = Listener::bind(&socket).unwrap();
    let serving = tokio::spawn(listener.serve(router, rogue.source.clone(), stop));
    let up = Connect::new(rogue.channels.clone(), Address::Unix(mesh.nsmgr_socket(1)), LIFE);
    let entry = NetworkServiceEndpoint {
        name: "bait".into(),
        network_service_names: vec!["bait".into()],
        url: socket.to_string(),
        ..Default::default()
    };
    let registration = Registration::start(
        RegistryChain::new([Arc::new(up.clone()) as _]),
        RegistryChain::new([Arc::new(up) as _]),
        Arc::new(SystemClock),
        vec![NetworkService { name: "bait".into(), ..Default::default() }],
        entry,
    );
    let stolen = tokio::time::timeout(START, requests.recv()).await.expect("the bait is taken").unwrap();
    assert_eq!(stolen.path.as_ref().unwrap().path_segments[0].name, victim.to_string());
    registration.unregister().await.unwrap();
    serving.abort();
    stolen
}

async fn close(channel: &Channel, connection: Connection, token: &Token) -> Result<(), Status> {
    let mut call = Request::new(connection);
    token.write(call.metadata_mut());
    call.set_timeout(START);
    NetworkServiceClient::new(channel.grpc.clone()).close(call).await.map(drop)
}

/// The connections that a monitor shows to who asks for these segments.
async fn shown(channel: &Channel, path_segments: Vec<PathSegment>) -> Vec<String> {
    let mut events = MonitorConnectionClient::new(channel.grpc.clone())
        .monitor_connections(call(channel, MonitorScopeSelector { path_segments, ..Default::default() }))
        .await
        .unwrap()
        .into_inner();
    events.message().await.unwrap().unwrap().connections.into_keys().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rogue_sees_no_connection_of_others_closes_none_and_replays_no_token() {
    if !may_run() {
        return;
    }
    let mut mesh = mesh();
    mesh.endpoint(2, "finance", &[]).unwrap();
    let services = format!("kernel://finance/{IFNAME},kernel://bait/nsm-2");
    let client = mesh.client(1, &services).unwrap();
    let interface = mesh.connected(client, IFNAME).unwrap();
    let pod = mesh.empty_pod(1).unwrap();
    let pod: Netns = mesh.pod_of(pod).unwrap().clone();
    let rogue = Stranger::of(&mesh);
    let nsmgr = rogue.channel(&mesh.nsmgr_socket(1)).await;
    let forwarder = rogue.channel(&mesh.forwarder_socket(1)).await;
    let own = nsmgr.token(LIFE).unwrap();
    let stolen = stolen(&mesh, &rogue, client).await.path.unwrap().path_segments;
    let before = mesh.traces().unwrap();

    // What others have is not shown, whatever is asked for.
    assert_eq!(shown(&nsmgr, Vec::new()).await, [""; 0]);
    for segment in &stolen {
        let segment = PathSegment { name: segment.name.clone(), ..Default::default() };
        assert_eq!(shown(&nsmgr, vec![segment.clone()]).await, [""; 0], "{}", segment.name);
    }

    // The client's own token for this nsmgr, from the path that the endpoint was shown.
    let token = Token { text: stolen[0].token.as_str().into(), expires: own.expires };
    let first = stolen[0].clone();
    let ask = async |segments, token| rogue.ask_for(&nsmgr, &pod, "finance", segments, Some(token)).await;
    refused(ask(vec![first.clone()], &token).await, "not signed by the peer");
    // Behind the client, as if that had asked the rogue to pass it on.
    let behind =
        PathSegment { name: "rogue".into(), id: "x".into(), token: own.text.to_string(), ..first.clone() };
    refused(
        ask(vec![first.clone(), behind], &own).await,
        "is for spiffe://host.nsm/host/uid/0/nsmgr-1, not for",
    );

    // The ids are no secret: those of the first connection are as easily guessed.
    let mut named = first.clone();
    named.id = format!("{client}-0");
    let connection = |segments: Vec<PathSegment>| Connection {
        id: segments[0].id.clone(),
        network_service: "finance".into(),
        path: Some(ConnectionPath { index: 0, path_segments: segments }),
        ..Default::default()
    };
    refused(close(&nsmgr, connection(vec![named.clone()]), &token).await, "not signed by the peer");
    let mine = PathSegment { token: own.text.to_string(), ..named.clone() };
    // By the book, and of no connection that there is.
    close(&nsmgr, connection([vec![mine.clone()], stolen[1..].to_vec()].concat()), &own).await.unwrap();
    // As if this nsmgr had passed it on to itself: the id of its own segment, in so many words.
    for index in [1, 2] {
        let mut forged = vec![mine.clone(); index];
        forged.push(stolen[1].clone());
        let forged = Connection {
            id: stolen[1].id.clone(),
            network_service: "finance".into(),
            path: Some(ConnectionPath { index: u32::try_from(index).unwrap(), path_segments: forged }),
            ..Default::default()
        };
        let _ = close(&nsmgr, forged, &own).await;
        assert_eq!(mesh.traces().unwrap(), before, "a connection was closed by its id");
    }
    let over = ask(vec![mine.clone(), stolen[1].clone()], &own).await;
    assert_ne!(over.map(|over| over.id).unwrap_or_default(), stolen[1].id);
    assert_eq!(mesh.traces().unwrap(), before, "a connection was over over by its id");
    let direct = forwarder.token(LIFE).unwrap();
    let mine = PathSegment { token: direct.text.to_string(), ..named };
    refused(close(&forwarder, connection(vec![mine]), &direct).await, "is no process of the mesh");

    assert_eq!(mesh.traces().unwrap(), before, "nothing was taken away and nothing left");
    assert_eq!(mesh.connected(client, IFNAME).unwrap(), interface);
}

/// What an endpoint has: open files, and connections of which it knows or tells.
fn kept(mesh: &Mesh, endpoint: Who) -> (usize, [u64; 3]) {
    let id = mesh.process(endpoint).unwrap().id().unwrap();
    let seen = figures(&mesh.metrics_socket(endpoint)).unwrap();
    let names = ["nsm_connections", "nsm_connections_shown", "nsm_connections_begun_total"];
    (std::fs::read_dir(format!("/proc/{id}/fd")).unwrap().count(), names.map(|name| seen[name]))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rogue_that_asks_an_endpoint_past_the_nsmgr_is_refused_and_the_endpoint_keeps_nothing_of_it() {
    if !may_run() {
        return;
    }
    let mut mesh = mesh();
    let endpoint = mesh.endpoint(1, "finance", &[]).unwrap();
    let services = format!("kernel://finance/{IFNAME},kernel://bait/nsm-2");
    let client = mesh.client(1, &services).unwrap();
    let interface = mesh.connected(client, IFNAME).unwrap();
    let pod = mesh.empty_pod(1).unwrap();
    let pod: Netns = mesh.pod_of(pod).unwrap().clone();
    let rogue = Stranger::of(&mesh);
    let stolen = stolen(&mesh, &rogue, client).await.path.unwrap().path_segments;
    let (traces, before) = (mesh.traces().unwrap(), kept(&mesh, endpoint));
    let socket = mesh.workload_api().with_file_name(format!("{endpoint}.sock"));
    let direct = rogue.channel(&socket).await;

    let token = direct.token(LIFE).unwrap();
    let own = |name: &str, id: &str| PathSegment {
        name: name.into(),
        id: id.into(),
        token: token.text.to_string(),
        ..Default::default()
    };
    let why = format!("{} is no process of the mesh", rogue.id);
    // For itself, and in the place of the forwarder that passed the client's Request on.
    let mut behind = stolen[..3].to_vec();
    behind[2].token = token.text.to_string();
    for segments in [vec![own("rogue", "x")], vec![own("forwarder-1", "x")], behind.clone()] {
        let asked = rogue.ask_for(&direct, &pod, "finance", segments, Some(&token)).await;
        refused(asked, &why);
    }
    for segments in [vec![own("rogue", "x")], behind] {
        let connection = Connection {
            id: segments.last().unwrap().id.clone(),
            network_service: "finance".into(),
            path: Some(ConnectionPath {
                index: u32::try_from(segments.len() - 1).unwrap(),
                path_segments: segments,
            }),
            ..Default::default()
        };
        refused(close(&direct, connection, &token).await, &why);
    }
    assert_eq!(shown(&direct, Vec::new()).await, [""; 0]);

    drop(direct);
    drop(rogue);
    until_true(&format!("{endpoint} has again what it had: {before:?}"), START, || {
        kept(&mesh, endpoint) == before
    })
    .unwrap();
    assert_eq!(mesh.traces().unwrap(), traces);
    assert_eq!(mesh.connected(client, IFNAME).unwrap(), interface);
    // No address was handed out meanwhile: the next client has the next two.
    let next = mesh.client(1, &format!("kernel://finance/{IFNAME}")).unwrap();
    let next = mesh.connected(next, IFNAME).unwrap();
    let [first, next] = [interface, next].map(|interface| u32::from(interface.address.unwrap().0));
    assert_eq!(next, first + 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_names_its_clients_is_there_for_them_alone() {
    if !may_run() {
        return;
    }
    let mut mesh = mesh();
    let rogue = Stranger::of(&mesh);
    let nsmgr = rogue.channel(&mesh.nsmgr_socket(1)).await;
    let mut tries = 0;
    // The registry may not be up yet.
    while nsmgr_cannot_register(&nsmgr).await && tries < 200 {
        tries += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    restrict(&nsmgr, "vault", &["host/uid/0/nsc-1", "ns/finance"], &[]).await;
    mesh.endpoint(2, "vault", &[]).unwrap();
    let allowed = mesh.client(1, &format!("kernel://vault/{IFNAME}")).unwrap();
    mesh.connected(allowed, IFNAME).unwrap();
    let before = mesh.traces().unwrap();
    for node in [1, 2] {
        let other = mesh.client(node, &format!("kernel://vault/{IFNAME}")).unwrap();
        let why = format!(
            "spiffe://host.nsm/host/uid/0/{other} may not connect to network service vault: it allows \
             host/uid/0/nsc-1, ns/finance"
        );
        mesh.says(other, &why, START).unwrap();
    }
    assert_eq!(mesh.traces().unwrap(), before, "who was refused left nothing");
    // Under the name and the id of the one that may.
    let own = nsmgr.token(LIFE).unwrap();
    let segment = PathSegment {
        name: "nsc-1".into(),
        id: "nsc-1-0".into(),
        token: own.text.to_string(),
        ..Default::default()
    };
    let pod = mesh.pod_of(allowed).unwrap();
    let by_rogue = rogue.ask_for(&nsmgr, pod, "vault", vec![segment], Some(&own)).await;
    refused(by_rogue, "may not connect to network service vault");
}

async fn nsmgr_cannot_register(nsmgr: &Channel) -> bool {
    let service = NetworkService { name: "probe".into(), ..Default::default() };
    NetworkServiceRegistryClient::new(nsmgr.grpc.clone()).register(call(nsmgr, service)).await.is_err()
}

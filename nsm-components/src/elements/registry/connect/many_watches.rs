//! More services in use than one connection carries watches.

use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::Server;

use super::*;
use crate::{
    api::registry::{
        NetworkService, NetworkServiceEndpoint,
        network_service_endpoint_registry_server::NetworkServiceEndpointRegistryServer,
        network_service_registry_server::NetworkServiceRegistryServer,
    },
    chain::{RegistryChain, SystemClock},
    elements::{
        Index,
        registry::{RegistryService, Store},
    },
    settings::Target,
    transport::{Listener, testing::source},
};

const SERVICES: usize = 1_100;

const LIFE: Duration = Duration::from_mins(10);

type Endpoints = RegistryChain<NetworkServiceEndpoint>;

/// A registry that others can call, its store, and who calls it.
struct World {
    _folder: tempfile::TempDir,
    _stop: DropGuard,
    channels: Channels,
    connect: Connect,
    store: Endpoints,
}

fn world() -> World {
    let (folder, source, stop) = (tempfile::tempdir().unwrap(), source(), CancellationToken::new());
    let target = Target::Unix(folder.path().join("registry.sock"));
    let store = RegistryChain::new([Store::in_memory() as _]);
    let service = RegistryService::new(
        RegistryChain::new([Store::in_memory() as _]),
        store.clone(),
        LIFE,
        stop.clone(),
    );
    // As the mesh's processes bound it.
    let router = Server::builder()
        .max_concurrent_streams(1024)
        .add_service(NetworkServiceRegistryServer::new(service.clone()))
        .add_service(NetworkServiceEndpointRegistryServer::new(service));
    tokio::spawn(Listener::bind(&target).unwrap().serve(router, source.clone(), stop.clone()));
    let channels = Channels::new(source, Duration::from_secs(10));
    let connect = Connect::new(channels.clone(), target.into(), LIFE);
    World { _folder: folder, _stop: stop.drop_guard(), channels, connect, store }
}

fn endpoint(number: usize) -> NetworkServiceEndpoint {
    NetworkServiceEndpoint {
        name: format!("nse-{number}"),
        network_service_names: vec![format!("service-{number}")],
        url: "tcp://127.0.0.1:1".into(),
        ..Default::default()
    }
}

fn cx() -> RegistryCx {
    RegistryCx::within(Duration::from_secs(30))
}

fn index(connect: &Connect) -> Index {
    let services =
        RegistryChain::new([Arc::new(connect.clone()) as Arc<dyn RegistryElement<NetworkService>>]);
    Index::new(services, Endpoints::new([Arc::new(connect.clone()) as _]), Arc::new(SystemClock), "d")
}

async fn found(index: &Index, number: usize) -> usize {
    let deadline = Instant::now() + Duration::from_secs(30);
    index.find(&format!("service-{number}"), deadline).await.unwrap().endpoints().count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_than_a_thousand_services_are_in_use_at_once_and_changes_of_each_arrive() {
    let world = world();
    for number in 0..SERVICES {
        world.store.start().register(&cx(), endpoint(number)).await.unwrap();
    }
    let index = index(&world.connect);
    let all = futures::stream::iter((0..SERVICES).map(|number| found(&index, number)));
    let all: Vec<_> = all.buffer_unordered(32).collect().await;
    assert!(all.iter().all(|found| *found == 1), "{all:?}");
    // Two watches for each service, 512 on each channel.
    assert_eq!(world.channels.counts().dials.get(), 5);
    for number in 0..SERVICES {
        world.store.start().unregister(&cx(), endpoint(number)).await.unwrap();
    }
    for number in 0..SERVICES {
        let gone = async {
            while found(&index, number).await > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let arrived = tokio::time::timeout(Duration::from_secs(30), gone).await;
        assert!(arrived.is_ok(), "service-{number} still has its endpoint");
    }
    assert_eq!(world.channels.counts().dials.get(), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_that_end_give_their_places_back() {
    let world = world();
    let all: Vec<_> = futures::future::try_join_all((0..600).map(async |number| {
        let query = Query::changes(endpoint(number));
        world.connect.find(&cx(), query, Endpoints::new([]).start()).await
    }))
    .await
    .unwrap();
    assert_eq!(world.connect.lanes.counts(), [512, 88]);
    drop(all);
    let free = async {
        while world.connect.lanes.counts().iter().sum::<usize>() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), free).await.unwrap();
}

/// One watcher that stops to read, beside others on the same connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_that_stops_reading_is_cut_off_and_those_on_its_connection_never_notice() {
    let world = world();
    let query = || Query { like: endpoint(1), watch: true, without_refreshes: false };
    let chain = Endpoints::new([Arc::new(world.connect.clone()) as _]);
    let stopped = chain.start().find(&cx(), query()).await.unwrap();
    let mut reading = chain.start().find(&cx(), query()).await.unwrap();
    // Some 24 MiB in all: far more than any window.
    let labels = |number: usize| {
        let label = ("number".to_owned(), number.to_string() + &"x".repeat(8 << 10));
        let labels = crate::api::registry::NetworkServiceLabels { labels: [label].into() };
        [("service-1".to_owned(), labels)].into()
    };
    for number in 0..3_000 {
        let entry = NetworkServiceEndpoint { network_service_labels: labels(number), ..endpoint(1) };
        world.store.start().register(&cx(), entry).await.unwrap();
        let event = tokio::time::timeout(Duration::from_secs(10), reading.next()).await;
        let told = event.unwrap().unwrap().unwrap().entry.network_service_labels;
        assert!(told == labels(number), "change {number} is the next one");
    }
    let seen: Vec<_> = stopped.collect().await;
    assert_eq!(seen.last().unwrap().as_ref().unwrap_err().kind, Kind::Exhausted);
    assert_eq!(world.channels.counts().dials.get(), 1);
}

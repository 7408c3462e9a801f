//! What is too large is refused before it is read, and leaves nothing.

use std::collections::BTreeMap;

use nsm_components::{
    api::{
        Connection,
        networkservice::{NetworkServiceRequest, network_service_client::NetworkServiceClient},
        registry::{
            NetworkService, NetworkServiceEndpoint, NetworkServiceLabels,
            network_service_endpoint_registry_client::NetworkServiceEndpointRegistryClient,
            network_service_registry_client::NetworkServiceRegistryClient,
        },
    },
    transport::MAX_MESSAGE,
};
use nsm_e2e::{mesh::Mesh, wait::may_run};
use tonic::{Code, Status};

use crate::{story::LIFE, stranger::Stranger};

/// Labels of so many bytes together.
fn labels(bytes: usize) -> BTreeMap<String, String> {
    (0..bytes / 1000).map(|number| (format!("{number:05}"), "v".repeat(995))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mebibyte_of_labels_is_refused_by_each_process_and_leaves_nothing() {
    if !may_run() {
        return;
    }
    let mut mesh = Mesh::start(LIFE).unwrap();
    mesh.endpoint(2, "finance", &[]).unwrap();
    let stranger = Stranger::of(&mesh);
    let nsmgr = stranger.channel(&mesh.nsmgr_socket(1)).await.grpc.clone();
    let forwarder = stranger.channel(&mesh.forwarder_socket(1)).await.grpc.clone();
    let large = || labels(1 << 20);

    let connection = || Connection { id: "x".into(), labels: large(), ..Connection::default() };
    let request = || NetworkServiceRequest { connection: Some(connection()), ..Default::default() };
    let endpoint = || NetworkServiceEndpoint {
        name: "large".into(),
        network_service_labels: [("finance".to_owned(), NetworkServiceLabels { labels: large() })].into(),
        ..Default::default()
    };
    let service =
        || NetworkService { name: "large".into(), payload: "p".repeat(1 << 20), ..Default::default() };
    let refused = |what: &str, status: Option<Status>| {
        let status = status.unwrap_or_else(|| panic!("{what} was accepted"));
        assert_eq!(status.code(), Code::OutOfRange, "{what}: {status:?}");
        assert!(status.message().contains(&MAX_MESSAGE.to_string()), "{what}: {status:?}");
    };
    for (name, channel) in [("nsmgr", nsmgr.clone()), ("forwarder", forwarder)] {
        let mut client = NetworkServiceClient::new(channel);
        refused(&format!("a Request to the {name}"), client.request(request()).await.err());
        refused(&format!("a Close to the {name}"), client.close(connection()).await.err());
    }
    let mut endpoints = NetworkServiceEndpointRegistryClient::new(nsmgr.clone());
    refused("a registration of an endpoint", endpoints.register(endpoint()).await.err());
    refused("its end", endpoints.unregister(endpoint()).await.err());
    let mut services = NetworkServiceRegistryClient::new(nsmgr.clone());
    refused("a registration of a service", services.register(service()).await.err());

    // A small one is refused for what it lacks, and not for its size.
    let small = Connection { labels: labels(1000), ..connection() };
    let request = NetworkServiceRequest { connection: Some(small), ..Default::default() };
    let status = NetworkServiceClient::new(nsmgr).request(request).await.unwrap_err();
    assert_ne!(status.code(), Code::OutOfRange, "{status:?}");
    assert_eq!(mesh.traces().unwrap(), Vec::<String>::new());
}

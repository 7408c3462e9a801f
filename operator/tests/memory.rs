//! What the operator keeps of what it watches, by a counting allocator: however many objects there are, of
//! each it keeps little, and of registrations nothing: it asks for none.

#![allow(clippy::panic, clippy::unwrap_used, reason = "helpers of tests fail by panicking, too")]

use std::{alloc::System, time::Duration};

use http::{Method, Request, Response};
use kube::{Client, client::Body};
use nsm_operator::{
    collect::{self, Change, Stores},
    metrics::Metrics,
    names,
};
use serde_json::{Value, json};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use tokio::{sync::mpsc::Receiver, time::timeout};
use tower_test::mock;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const DEADLINE: Duration = Duration::from_mins(1);

/// Most bytes of each.
const OF_ENDPOINT: usize = 160;
const OF_NODE: usize = 300;
const OF_POD: usize = 200;

/// How many of each there are.
#[derive(Clone, Copy, Default)]
struct Crowd {
    endpoints: usize,
    nodes: usize,
    pods: usize,
}

fn metadata(name: &str, namespace: &str) -> Value {
    json!({
        "name": name, "namespace": namespace, "uid": format!("{name}-2f1f4d5e-4a86-4d9c-8a55-0123456789ab"),
        "resourceVersion": "7", "creationTimestamp": "2026-01-01T00:00:00Z", "generation": 3,
        "labels": {"kubernetes.io/hostname": name, "a.example.com/zone": "zone-1", "kubernetes.io/os": "linux"},
        "managedFields": [{
            "manager": "registry-k8s", "operation": "Update", "apiVersion": "networkservicemesh.io/v1",
            "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {".": {}, "f:url": {}, "f:expiration_time": {}}},
        }],
    })
}

fn endpoint(number: usize) -> Value {
    json!({
        "apiVersion": "networkservicemesh.io/v1", "kind": "NetworkServiceEndpoint",
        "metadata": metadata(&format!("nse-gateway-7d9f8c6b5-{number:05}"), "nsm-system"),
        "spec": {
            "name": format!("nse-gateway-7d9f8c6b5-{number:05}"), "network_service_names": ["finance"],
            "url": "tcp://10.244.1.17:5001", "expiration_time": {"seconds": 1_800_000_000},
            "network_service_labels": {"finance": {"labels": {"app": "gateway", "nodeName": "worker-17"}}},
        },
    })
}

fn node(number: usize) -> Value {
    json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": metadata(&format!("worker-{number:04}.example.com"), "")})
}

fn pod(number: usize) -> Value {
    let mut metadata = metadata(&format!("forwarder-3963d5e9-{number:05}"), "nsm-system");
    metadata["labels"][names::NAME] = "forwarder".into();
    metadata["labels"][names::DAEMON_REVISION] = "3963d5e9".into();
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": metadata,
        "spec": {"nodeName": format!("worker-{:04}.example.com", number / 3), "containers": [{"name": "forwarder", "image": "i"}]},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
    })
}

/// An API server that lists so many, and has no news.
fn client(crowd: Crowd) -> Client {
    let (service, mut requests) = mock::pair::<Request<Body>, Response<Body>>();
    tokio::spawn(async move {
        let mut watches = Vec::new();
        while let Some((request, answer)) = requests.next_request().await {
            assert_eq!(request.method(), Method::GET);
            if request.uri().query().unwrap_or_default().contains("watch=true") {
                watches.push(answer);
                continue;
            }
            let is_selected =
                request.uri().query().is_some_and(|query| query.contains("fieldSelector=spec.workload"));
            let items: Vec<Value> = match request.uri().path().rsplit('/').next().unwrap_or_default() {
                // None of them is a template, or was one.
                "networkserviceendpoints" if is_selected => Vec::new(),
                "networkserviceendpoints" => (0..crowd.endpoints).map(endpoint).collect(),
                "nodes" => (0..crowd.nodes).map(node).collect(),
                "pods" => (0..crowd.pods).map(pod).collect(),
                _ => Vec::new(),
            };
            let list = json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": "9"}, "items": items});
            answer.send_response(Response::new(Body::from(list.to_string().into_bytes())));
        }
    });
    Client::new(service, "default")
}

/// Bytes that are kept once all is known of so many.
async fn kept(crowd: Crowd) -> usize {
    let before = live();
    let client = client(crowd);
    let (watches, stores, changes) = collect::start(&client, &Metrics::default(), collect::TIMEOUT);
    let (stores, changes) = synced(stores, changes).await;
    assert_eq!((stores.marks.len(), stores.pods.len()), (crowd.nodes, crowd.pods));
    assert!(stores.templates.is_empty() && stores.former_templates.is_empty());
    let kept = live().saturating_sub(before);
    drop((watches, stores, changes));
    kept
}

/// Waits until every watch has said that its list is whole.
async fn synced(stores: Stores, mut changes: Receiver<Change>) -> (Stores, Receiver<Change>) {
    timeout(DEADLINE, stores.ready()).await.expect("lists in time").expect("watches live");
    // Four kinds of ours, one of them twice, seven that the operator makes, nodes and pods.
    for _ in 0..14 {
        timeout(DEADLINE, changes.recv()).await.expect("news in time").expect("watches live");
    }
    (stores, changes)
}

fn live() -> usize {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated.saturating_sub(stats.bytes_deallocated)
}

#[tokio::test]
async fn of_many_objects_little_is_kept_and_of_registrations_nothing() {
    // What is made once for all.
    kept(Crowd { endpoints: 10, nodes: 10, pods: 10 }).await;
    let empty = kept(Crowd::default()).await;
    for (what, crowd, count, most) in [
        ("endpoint", Crowd { endpoints: 10_000, ..Crowd::default() }, 10_000, OF_ENDPOINT),
        ("node", Crowd { nodes: 1_000, ..Crowd::default() }, 1_000, OF_NODE),
        ("pod", Crowd { pods: 3_000, ..Crowd::default() }, 3_000, OF_POD),
    ] {
        let each = kept(crowd).await.saturating_sub(empty) / count;
        println!("{each} bytes of each {what}");
        assert!(each <= most, "{each} bytes are kept of each {what}, more than {most}");
    }
}

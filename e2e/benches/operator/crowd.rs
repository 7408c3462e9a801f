//! A large cluster, as far as an operator sees it: endpoints, nodes, and pods of node daemons.

use anyhow::Result;
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{Api, Client, Resource, api::PostParams};
use nsm_crds::NetworkServiceEndpoint;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

const ENDPOINTS: usize = 10_000;
const NODES: usize = 1_000;
const PODS: usize = 3_000;

/// Requests at a time.
const AT_ONCE: usize = 32;

pub(crate) async fn make(client: &Client) -> Result<()> {
    let mesh = "nsm-system";
    all(&Api::<Node>::all(client.clone()), NODES, node).await?;
    all(&Api::<Pod>::namespaced(client.clone(), mesh), PODS, pod).await?;
    all(&Api::<NetworkServiceEndpoint>::namespaced(client.clone(), mesh), ENDPOINTS, endpoint).await
}

async fn all<K>(api: &Api<K>, count: usize, object: fn(usize) -> Value) -> Result<()>
where
    K: Resource + Clone + std::fmt::Debug + Serialize + DeserializeOwned,
{
    let made = stream::iter(0..count).map(|number| async move {
        api.create(&PostParams::default(), &serde_json::from_value(object(number))?).await?;
        anyhow::Ok(())
    });
    made.buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await.map(drop)
}

fn node(number: usize) -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": format!("worker-{number:04}.example.com")}})
}

fn pod(number: usize) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": format!("forwarder-3963d5e9-{number:05}"),
            "labels": {
                "app.kubernetes.io/name": "forwarder",
                "operator.networkservicemesh.io/daemon-revision": "3963d5e9",
            },
        },
        "spec": {
            "nodeName": format!("worker-{:04}.example.com", number / 3), "serviceAccountName": "forwarder",
            "containers": [{"name": "forwarder", "image": "e2e.test/a:1"}],
        },
    })
}

fn endpoint(number: usize) -> Value {
    let name = format!("nse-gateway-7d9f8c6b5-{number:05}");
    json!({
        "apiVersion": "networkservicemesh.io/v1", "kind": "NetworkServiceEndpoint", "metadata": {"name": name},
        "spec": {
            "name": name, "network_service_names": ["finance"], "url": "tcp://10.244.1.17:5001",
            "expiration_time": {"seconds": 1_900_000_000},
            "network_service_labels": {"finance": {"labels": {"app": "gateway", "nodeName": "worker-17"}}},
        },
    })
}

//! An API server for tests: what agent and authority ask for, and a panic for all else.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use http::{Method, Request, Response};
use kube::{Client, client::Body};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};

/// A cluster with two nodes, an agent on each and some pods.
#[derive(Clone)]
pub(super) struct FakeApi(Arc<Inner>);

struct Inner {
    secrets: Mutex<BTreeMap<String, Value>>,
    bundle: watch::Sender<Option<Value>>,
    pods: Mutex<Vec<Value>>,
    /// Pods that the watch has not shown yet.
    new_pods: Mutex<VecDeque<Value>>,
    pod_came: Notify,
    reviews: Mutex<BTreeMap<String, Value>>,
}

pub(super) fn pod(uid: &str, namespace: &str, account: &str, node: &str, owner: &str) -> Value {
    json!({
        "metadata": {
            "uid": uid, "name": format!("pod-{uid}"), "namespace": namespace,
            "ownerReferences": [
                { "apiVersion": "apps/v1", "kind": owner, "name": "x", "uid": "x", "controller": true }
            ],
        },
        "spec": { "containers": [], "serviceAccountName": account, "nodeName": node },
        "status": { "phase": "Running" },
    })
}

fn failure(code: u16, reason: &str) -> (u16, Value) {
    (
        code,
        json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code }),
    )
}

impl FakeApi {
    pub(super) fn new() -> Self {
        let api = Self(Arc::new(Inner {
            secrets: Mutex::default(),
            bundle: watch::Sender::new(None),
            pods: Mutex::default(),
            new_pods: Mutex::default(),
            pod_came: Notify::new(),
            reviews: Mutex::default(),
        }));
        api.0.pods.lock().extend([
            pod("agent1", "nsm-system", "nsm-identity-agent", "node1", "DaemonSet"),
            pod("agent2", "nsm-system", "nsm-identity-agent", "node2", "DaemonSet"),
            pod("nsmgr1", "nsm-system", "nsmgr", "node1", "DaemonSet"),
            pod("web1", "default", "web", "node1", "ReplicaSet"),
            pod("web2", "default", "web", "node2", "ReplicaSet"),
        ]);
        api.knows_token("token1", "nsm-identity-agent", "agent1", "node1");
        api.knows_token("token2", "nsm-identity-agent", "agent2", "node2");
        api
    }

    /// A token for this audience, bound to a pod.
    pub(super) fn knows_token(&self, token: &str, account: &str, pod_uid: &str, node: &str) {
        let status = json!({
            "authenticated": true,
            "audiences": ["nsm-identity"],
            "user": {
                "username": format!("system:serviceaccount:nsm-system:{account}"),
                "extra": {
                    "authentication.kubernetes.io/node-name": [node],
                    "authentication.kubernetes.io/pod-uid": [pod_uid],
                },
            },
        });
        self.0.reviews.lock().insert(token.to_owned(), status);
    }

    /// A pod that only the watch shows.
    pub(super) fn add_pod(&self, pod: Value) {
        self.0.new_pods.lock().push_back(pod);
        self.0.pod_came.notify_one();
    }

    /// The bundle as it is published, in PEM; awaited.
    pub(super) async fn published(&self) -> String {
        let mut bundle = self.0.bundle.subscribe();
        let map = bundle.wait_for(Option::is_some).await.unwrap().clone().unwrap();
        map["data"]["bundle.pem"].as_str().unwrap().to_owned()
    }

    /// Puts a bundle where the authority would.
    pub(super) fn publish(&self, pem: &str) {
        let map = json!({ "metadata": { "name": "bundle" }, "data": { "bundle.pem": pem } });
        self.0.bundle.send_replace(Some(map));
    }

    pub(super) fn client(&self) -> Client {
        let inner = self.0.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let inner = inner.clone();
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect_bytes().await.unwrap();
                let body = serde_json::from_slice(&body).unwrap_or_default();
                let query = parts.uri.query().unwrap_or_default();
                let (code, answer) = inner.answer(&parts.method, parts.uri.path(), query, body).await;
                let mut text = serde_json::to_vec(&answer).unwrap();
                text.push(b'\n');
                Response::builder().status(code).body(Body::from(text))
            }
        });
        Client::new(service, "nsm-system")
    }
}

impl Inner {
    async fn answer(&self, method: &Method, path: &str, query: &str, body: Value) -> (u16, Value) {
        let watching = query.contains("watch=true");
        match (method, path) {
            (&Method::GET, "/api/v1/namespaces/nsm-operator/secrets/root") => self
                .secrets
                .lock()
                .get("root")
                .map_or(failure(404, "NotFound"), |secret| (200, secret.clone())),
            (&Method::POST, "/api/v1/namespaces/nsm-operator/secrets") => {
                let mut secrets = self.secrets.lock();
                if secrets.contains_key("root") {
                    return failure(409, "AlreadyExists");
                }
                secrets.insert("root".to_owned(), body.clone());
                (201, body)
            }
            (&Method::PATCH, "/api/v1/namespaces/nsm-system/configmaps/bundle") => {
                assert!(query.contains("fieldManager=nsm-identity-authority"), "{query}");
                self.bundle.send_replace(Some(body.clone()));
                (200, body)
            }
            (&Method::GET, "/api/v1/namespaces/nsm-system/configmaps") => {
                assert!(query.contains("metadata.name"), "{query}");
                let mut bundle = self.bundle.subscribe();
                if watching {
                    bundle.changed().await.unwrap();
                    let map = versioned(bundle.borrow().clone().unwrap());
                    return (200, json!({ "type": "MODIFIED", "object": map }));
                }
                let items: Vec<_> = bundle.borrow().clone().map(versioned).into_iter().collect();
                (200, json!({ "metadata": { "resourceVersion": "1" }, "items": items }))
            }
            (&Method::GET, "/api/v1/pods") if watching => loop {
                if let Some(pod) = self.new_pods.lock().pop_front() {
                    return (200, json!({ "type": "ADDED", "object": versioned(pod) }));
                }
                self.pod_came.notified().await;
            },
            (&Method::GET, "/api/v1/pods") => {
                let items = self.pods.lock().clone();
                (200, json!({ "metadata": { "resourceVersion": "1" }, "items": items }))
            }
            (&Method::POST, "/apis/authentication.k8s.io/v1/tokenreviews") => {
                assert_eq!(body["spec"]["audiences"], json!(["nsm-identity"]));
                let status = self.reviews.lock().get(body["spec"]["token"].as_str().unwrap()).cloned();
                let status = status.unwrap_or(json!({ "error": "invalid bearer token" }));
                (201, json!({ "spec": body["spec"], "status": status }))
            }
            _ => panic!("unexpected {method} {path}?{query}"),
        }
    }
}

/// Watch events need a version to go on from.
fn versioned(mut object: Value) -> Value {
    object["metadata"]["resourceVersion"] = json!("2");
    object["metadata"]["namespace"] = object["metadata"]["namespace"].as_str().unwrap_or("nsm-system").into();
    object
}

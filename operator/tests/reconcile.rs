//! The controllers against an API server that lists what it is given, remembers what is written,
//! and has no news.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::format_push_string,
    reason = "helpers of tests fail by panicking, too"
)]

use std::{sync::Arc, time::Duration};

use http::{Method, Request, Response};
use kube::{Client, client::Body};
use nsm_crds::{NSMConfig, NSMConfigSpec};
use nsm_operator::{
    apply::Writer,
    collect,
    controllers::{self, Context},
    dereference::Known,
    lease::Fence,
    metrics::Metrics,
    names,
    object::{Desired, Kind},
    render,
    server::Server,
    validate::{self, Installation},
};
use serde_json::{Value, json};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, timeout},
};
use tower_test::mock::{self, SendResponse};

mod stored;

const DEADLINE: Duration = Duration::from_secs(10);

/// One write, as the API server saw it.
#[derive(Clone, Debug)]
struct Write {
    path: String,
    query: String,
    body: Value,
}

fn installation() -> Installation {
    Installation {
        mesh_image: "nsm.local/nsm:dev".into(),
        namespace: "nsm-operator".into(),
        service_account: "nsm-operator".into(),
    }
}

fn config() -> NSMConfig {
    let mut config = NSMConfig::new("default", NSMConfigSpec::default());
    config.metadata.uid = Some("u".into());
    config.metadata.resource_version = Some("5".into());
    config.metadata.generation = Some(1);
    let parent = render::parent();
    config.metadata.finalizers = Some(vec![names::FINALIZER.into()]);
    config.metadata.labels = Some(parent.labels);
    config.metadata.annotations = Some(parent.annotations);
    config
}

fn desired() -> Vec<Desired> {
    let mesh = validate::mesh(&config(), &installation()).expect("defaults are valid");
    render::mesh(&mesh).expect("a mesh").into_iter().flat_map(|tier| tier.objects).collect()
}

/// The object as an API server has it after our apply, with `ready` of its two pods ready.
fn stored(desired: &Desired, ready: i64) -> Value {
    let mut object = stored::applied(desired);
    object["metadata"]["uid"] = desired.key.to_string().into();
    object["metadata"]["resourceVersion"] = "7".into();
    object["metadata"]["generation"] = 1.into();
    match desired.key.kind {
        Kind::DaemonSet => {
            object["status"] = json!({
                "observedGeneration": 1, "desiredNumberScheduled": 2, "currentNumberScheduled": 2,
                "updatedNumberScheduled": 2, "numberReady": ready
            });
        }
        Kind::Deployment => {
            let pods = object["spec"]["replicas"].as_i64().unwrap_or(1);
            object["status"] = json!({
                "observedGeneration": 1, "replicas": pods, "updatedReplicas": pods, "readyReplicas": ready.min(pods)
            });
        }
        _ => {}
    }
    object
}

/// Runs the operator until it has written the status of the config: what it wrote, in order.
async fn writes(objects: Vec<Value>) -> Vec<Write> {
    let (service, mut requests) = mock::pair::<Request<Body>, Response<Body>>();
    let (ledger, mut seen) = mpsc::unbounded_channel();
    let server = tokio::spawn(async move {
        let mut watches = Vec::new();
        while let Some((request, answer)) = requests.next_request().await {
            match *request.method() {
                Method::GET if request.uri().query().unwrap_or_default().contains("watch=true") => {
                    watches.push(answer);
                }
                Method::GET => answer.send_response(list(request.uri().path(), &objects)),
                Method::PATCH => patch(request, answer, &ledger).await,
                ref other => panic!("unexpected {other} {}", request.uri()),
            }
        }
    });
    let client = Client::new(service, "default");
    let (watches, stores, mut changes) = collect::start(&client, &Metrics::default(), collect::TIMEOUT);
    timeout(DEADLINE, stores.ready()).await.expect("lists in time").expect("stores live");
    let fence = Fence::until(Instant::now() + DEADLINE * 2);
    let context = Context::new(
        Known::new(stores),
        Writer::new(client, fence, Metrics::default()),
        installation(),
        Server::default(),
        Metrics::default(),
    );
    let (stop, stopped) = watch::channel(false);
    let running =
        tokio::spawn(async move { controllers::run(Arc::new(context), &mut changes, stopped).await });
    let mut writes: Vec<Write> = Vec::new();
    while !writes.last().is_some_and(|write| write.path.ends_with("nsmconfigs/default/status")) {
        writes
            .push(timeout(DEADLINE, seen.recv()).await.expect("a write in time").expect("a running server"));
    }
    stop.send_replace(true);
    timeout(DEADLINE, running).await.expect("an end in time").expect("no panic");
    drop(watches);
    server.abort();
    writes
}

fn list(path: &str, objects: &[Value]) -> Response<Body> {
    let plural = path.rsplit('/').next().unwrap_or_default();
    let of_kind = |object: &&Value| {
        let kind = object["kind"].as_str().unwrap_or_default();
        format!("{}s", kind.to_lowercase()) == plural
    };
    let items: Vec<&Value> = objects.iter().filter(of_kind).collect();
    reply(&json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": "9"}, "items": items}))
}

async fn patch(
    request: Request<Body>,
    answer: SendResponse<Response<Body>>,
    ledger: &mpsc::UnboundedSender<Write>,
) {
    let (parts, body) = request.into_parts();
    let bytes = body.collect_bytes().await.expect("a body");
    let body: Value = serde_json::from_slice(&bytes).expect("JSON");
    let mut object = body.clone();
    object["metadata"]["resourceVersion"] = "100".into();
    object["metadata"]["uid"] = "new".into();
    if object["kind"] == "NSMConfig" {
        object["spec"] = json!({});
    }
    answer.send_response(reply(&object));
    let query = parts.uri.query().unwrap_or_default().to_owned();
    // The test has seen enough when nobody listens any more.
    let _ = ledger.send(Write { path: parts.uri.path().into(), query, body });
}

fn reply(body: &Value) -> Response<Body> {
    Response::new(Body::from(body.to_string().into_bytes()))
}

fn config_object() -> Value {
    serde_json::to_value(config()).expect("a config is JSON")
}

fn reason(status: &Write) -> (String, String) {
    let ready = &status.body["status"]["conditions"][0];
    (
        ready["reason"].as_str().unwrap_or_default().into(),
        ready["message"].as_str().unwrap_or_default().into(),
    )
}

#[tokio::test]
async fn an_install_writes_each_object_once_up_to_the_first_tier_that_is_not_ready() {
    let writes = writes(vec![config_object()]).await;
    let (status, objects) = writes.split_last().unwrap();
    let wanted: Vec<String> = desired()
        .iter()
        .take_while(|object| {
            object.key.component() != "nsm-identity-agent" || object.key.kind != Kind::DaemonSet
        })
        .map(|object| object.key.to_string())
        .collect();
    let written: Vec<String> = objects.iter().map(key).collect();
    assert_eq!(written, wanted);
    for write in objects {
        for part in ["fieldManager=nsm-operator", "force=true", "fieldValidation=Strict"] {
            assert!(write.query.contains(part), "{part} in {}", write.query);
        }
        // A version that no object has: an object of someone else is not taken over.
        assert_eq!(write.body["metadata"]["resourceVersion"], "1");
    }
    assert_eq!(reason(status).0, "Progressing");
    assert_eq!(status.body["status"]["components"].as_array().unwrap().len(), 5);
}

#[tokio::test]
async fn what_is_in_sync_is_not_written() {
    let objects = desired().iter().map(|object| stored(object, 2)).chain([config_object()]).collect();
    let writes = writes(objects).await;
    assert_eq!(writes.len(), 1, "{writes:?}");
    assert_eq!(reason(&writes[0]).0, "AllReady");
}

#[tokio::test]
async fn an_edit_is_put_back_while_other_components_are_broken() {
    let mut objects: Vec<Value> = desired().iter().map(|object| stored(object, 0)).collect();
    let forwarder = objects.last_mut().unwrap();
    forwarder["spec"]["template"]["spec"]["hostNetwork"] = json!(false);
    objects.push(config_object());
    let writes = writes(objects).await;
    let first = key(&writes[0]);
    assert!(first.starts_with("DaemonSet nsm-system/forwarder-"), "{first}");
    assert_eq!(writes.len(), 2, "{writes:?}");
    assert_eq!(writes[0].body["metadata"].get("resourceVersion"), None);
    assert_eq!(
        reason(&writes[1]),
        ("Progressing".into(), "nsm-identity-authority: 0 of 1 pods ready".into())
    );
}

#[tokio::test]
async fn what_the_mesh_no_longer_consists_of_is_not_confused_with_what_others_made() {
    let mut foreign = stored(&desired()[0], 0);
    foreign["metadata"]["name"] = "someone-elses".into();
    foreign["metadata"]["ownerReferences"] = json!([]);
    let mut objects: Vec<Value> = desired().iter().map(|object| stored(object, 2)).collect();
    objects.extend([foreign, config_object()]);
    // A delete would be an unexpected request.
    assert_eq!(writes(objects).await.len(), 1);
}

fn key(write: &Write) -> String {
    let text =
        |pointer: &str| write.body.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (kind, namespace, name) = (text("/kind"), text("/metadata/namespace"), text("/metadata/name"));
    if namespace.is_empty() { format!("{kind} {name}") } else { format!("{kind} {namespace}/{name}") }
}

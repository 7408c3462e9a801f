//! The only writer. Every write is a server-side apply under one field manager, or a delete of
//! exactly one object by its uid, and ends within [`TIMEOUT`].

mod error;

use std::{fmt, future::Future, time::Duration};

use k8s_openapi::{api::core::v1::Node, apimachinery::pkg::apis::meta::v1::OwnerReference};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions},
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use nsm_crds::{DesiredNode, NSMConfig, NSMNodeState};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::time::timeout;
use tracing::warn;

pub use self::error::Error;
use self::error::{is_conflict, is_gone};
use crate::{
    lease::Fence,
    metrics::{self, Metrics},
    names,
    object::{Desired, Key},
};

/// How long one request may take, retries of the client included.
pub const TIMEOUT: Duration = Duration::from_secs(10);

/// A version that no object has: an apply with it makes an object or fails, but takes over none.
const NO_VERSION: &str = "1";

/// Most characters of an Event's note.
const MAX_NOTE: usize = 1000;

/// What an Event tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Whether someone should look at it.
    pub warning: bool,
    /// Why, as in a condition.
    pub reason: String,
    /// The same for people.
    pub note: String,
}

/// When the pods of a workload that is deleted end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pods {
    /// Before it is gone.
    First,
    /// After it.
    Later,
}

/// Writes to the API server, while this operator leads.
#[derive(Clone)]
pub struct Writer {
    client: Client,
    fence: Fence,
    metrics: Metrics,
    recorder: Option<Recorder>,
}

impl Writer {
    /// A writer with the rights of this client.
    pub fn new(client: Client, fence: Fence, metrics: Metrics) -> Self {
        Self { client, fence, metrics, recorder: None }
    }

    /// The same, telling of what it does in Events as the operator of this pod.
    #[must_use]
    pub fn telling_as(mut self, identity: &str) -> Self {
        let reporter = Reporter { controller: names::MANAGER.into(), instance: Some(identity.into()) };
        self.recorder = Some(Recorder::new(self.client.clone(), reporter));
        self
    }

    /// Tells of a mesh in an Event, in the operator's own namespace. That it cannot be told changes nothing.
    pub async fn tell(&self, config: &NSMConfig, namespace: &str, told: &Told) {
        let Some(recorder) = &self.recorder else { return };
        let mut about = config.object_ref(&());
        about.namespace = Some(namespace.into());
        // Else every version of it would be told of anew, instead of counted.
        about.resource_version = None;
        let event = Event {
            type_: if told.warning { EventType::Warning } else { EventType::Normal },
            reason: told.reason.clone(),
            note: Some(told.note.chars().take(MAX_NOTE).collect()),
            action: "Reconcile".into(),
            secondary: None,
        };
        if let Err(error) = self.in_time("Event", recorder.publish(&event, &about)).await {
            warn!(error = &error as &dyn std::error::Error, "an Event could not be written");
        }
    }

    /// Makes an object that is missing. One that exists after all is left alone: [`Error::Taken`].
    pub async fn create(&self, desired: &Desired) -> Result<DynamicObject, Error> {
        let mut body = desired.body.clone();
        body["metadata"]["resourceVersion"] = NO_VERSION.into();
        self.patch(&desired.key, &body).await.map_err(|error| match error {
            Error::Request { what, source } if is_conflict(&source) => Error::Taken { what },
            error => error,
        })
    }

    /// Makes an object of the operator's as wanted.
    pub async fn update(&self, desired: &Desired) -> Result<DynamicObject, Error> {
        self.patch(&desired.key, &desired.body).await
    }

    /// What the API server would make of an object: it is asked, and nothing is written.
    pub async fn rehearse(&self, desired: &Desired) -> Result<DynamicObject, Error> {
        let Desired { key, body } = desired;
        let params = PatchParams::apply(names::MANAGER).force().validation_strict().dry_run();
        self.in_time(key, self.api(key).patch(&key.name, &params, &Patch::Apply(body))).await
    }

    async fn patch(&self, key: &Key, body: &serde_json::Value) -> Result<DynamicObject, Error> {
        let params = PatchParams::apply(names::MANAGER).force().validation_strict();
        self.in_time(key, self.api(key).patch(&key.name, &params, &Patch::Apply(body))).await
    }

    /// Deletes this very object; one that is gone is as good.
    pub async fn delete(&self, key: &Key, uid: &str, pods: Pods) -> Result<(), Error> {
        let preconditions = Some(Preconditions { uid: Some(uid.into()), ..Preconditions::default() });
        let params = match pods {
            Pods::First if key.kind.is_workload() => DeleteParams::foreground(),
            _ => DeleteParams::background(),
        };
        let params = DeleteParams { preconditions, ..params };
        match self.in_time(key, self.api(key).delete(&key.name, &params)).await {
            Ok(_) => Ok(()),
            Err(Error::Request { source, .. }) if is_gone(&source) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Says where a DaemonSet that is not rendered any more runs; all else of it stays as it is.
    pub async fn place(&self, key: &Key, uid: &str, affinity: Value) -> Result<DynamicObject, Error> {
        let params = PatchParams { field_manager: Some(names::MANAGER.into()), ..PatchParams::default() };
        let spec = json!({"template": {"spec": {"affinity": affinity}}});
        let body = Patch::Merge(json!({"metadata": {"uid": uid}, "spec": spec}));
        self.in_time(key, self.api(key).patch(&key.name, &params, &body)).await
    }

    /// Gives a node the label that says which revision runs there, or takes it off.
    pub async fn mark_node(&self, name: &str, label: Option<&str>) -> Result<(), Error> {
        let params = PatchParams { field_manager: Some(names::MANAGER.into()), ..PatchParams::default() };
        let body = Patch::Merge(json!({"metadata": {"labels": {names::NODE_REVISION: label}}}));
        let api: Api<Node> = Api::all(self.client.clone());
        match self.in_time(&format!("label of Node {name}"), api.patch_metadata(name, &params, &body)).await {
            // A node that is gone has none.
            Err(Error::Request { source, .. }) if is_gone(&source) => Ok(()),
            result => result.map(|_| ()),
        }
    }

    /// Writes the status of a resource.
    pub async fn status<K>(&self, object: &K, status: &impl Serialize) -> Result<K, Error>
    where
        K: Resource<DynamicType = ()> + Clone + fmt::Debug + DeserializeOwned,
    {
        let name = object.name_any();
        let what = format!("status of {} {name}", K::kind(&()));
        let body = json!({
            "apiVersion": K::api_version(&()),
            "kind": K::kind(&()),
            "metadata": {"name": name, "namespace": object.namespace()},
            "status": status,
        });
        let url = K::url_path(&(), object.namespace().as_deref());
        let api = StatusApi { client: self.client.clone(), url };
        let written = self.in_time(&what, api.apply(&name, &body)).await?;
        self.metrics.count(metrics::WRITES, &[("kind", &K::kind(&())), ("reason", "status")]);
        Ok(written)
    }

    /// Makes the owner own a node's report, so that it goes with the mesh; or nobody, so that it stays.
    pub async fn adopt(
        &self,
        node: &NSMNodeState,
        owner: Option<&OwnerReference>,
    ) -> Result<NSMNodeState, Error> {
        let name = node.name_any();
        // The uid keeps it from touching a successor.
        let metadata = json!({"uid": node.uid(), "ownerReferences": owner.map(|owner| [owner])});
        let api: Api<NSMNodeState> = Api::all(self.client.clone());
        self.merge(&format!("owner of NSMNodeState {name}"), &api, &name, metadata).await
    }

    /// Says what is wanted of a node, in its report. One that is gone is as good.
    pub async fn want(&self, node: &NSMNodeState, desired: DesiredNode) -> Result<(), Error> {
        let name = node.name_any();
        let params = PatchParams { field_manager: Some(names::MANAGER.into()), ..PatchParams::default() };
        let body = Patch::Merge(json!({"metadata": {"uid": node.uid()}, "spec": {"desired": desired}}));
        let api: Api<NSMNodeState> = Api::all(self.client.clone());
        match self.in_time(&format!("spec of NSMNodeState {name}"), api.patch(&name, &params, &body)).await {
            Err(Error::Request { source, .. }) if is_gone(&source) => Ok(()),
            result => result.map(|_| ()),
        }
    }

    /// Changes the metadata of a mesh: of exactly this version of it, so that nothing of others is lost.
    pub async fn mark(&self, config: &NSMConfig, mut metadata: Value) -> Result<NSMConfig, Error> {
        let name = config.name_any();
        metadata["resourceVersion"] = json!(config.resource_version());
        metadata["uid"] = json!(config.uid());
        let api: Api<NSMConfig> = Api::all(self.client.clone());
        self.merge(&format!("metadata of NSMConfig {name}"), &api, &name, metadata).await
    }

    /// Takes an object off its owner, so that it stays when the owner goes. One that is gone is as good.
    pub async fn release(&self, key: &Key, uid: &str) -> Result<(), Error> {
        let metadata = json!({"uid": uid, "ownerReferences": null});
        match self.merge(&format!("owner of {key}"), &self.api(key), &key.name, metadata).await {
            Err(Error::Request { source, .. }) if is_gone(&source) => Ok(()),
            result => result.map(|_| ()),
        }
    }

    /// A merge never makes an object.
    async fn merge<K: Clone + fmt::Debug + DeserializeOwned>(
        &self,
        what: &str,
        api: &Api<K>,
        name: &str,
        metadata: Value,
    ) -> Result<K, Error> {
        let params = PatchParams { field_manager: Some(names::MANAGER.into()), ..PatchParams::default() };
        let body = Patch::Merge(json!({"metadata": metadata}));
        self.in_time(&what, api.patch(name, &params, &body)).await
    }

    /// Awaits the answer, as long as this operator leads and the request may take.
    async fn in_time<T>(
        &self,
        what: &(impl ToString + ?Sized),
        request: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, Error> {
        let not_leading = || Error::NotLeading { what: what.to_string() };
        if !self.fence.is_open() {
            return Err(not_leading());
        }
        tokio::select! {
            () = self.fence.closed() => Err(not_leading()),
            answer = timeout(TIMEOUT, request) => match answer {
                Ok(answer) => answer.map_err(|error| Error::from_kube(what.to_string(), error)),
                Err(_) => Err(Error::Timeout { what: what.to_string() }),
            },
        }
    }

    fn api(&self, key: &Key) -> Api<DynamicObject> {
        let resource = key.kind.resource();
        if key.namespace.is_empty() {
            Api::all_with(self.client.clone(), &resource)
        } else {
            Api::namespaced_with(self.client.clone(), &key.namespace, &resource)
        }
    }
}

/// What the API server would make of an `NSMConfig` with this spec, with its defaults and nothing else: it is
/// asked, and nothing is written.
pub async fn rehearse_config(client: &Client, name: &str, spec: &Value) -> Result<NSMConfig, Error> {
    let what = format!("NSMConfig {name}");
    let ask = async {
        let api: Api<NSMConfig> = Api::all(client.clone());
        let params = PostParams { dry_run: true, ..PostParams::default() };
        let there = api.get_opt(name).await?;
        let metadata = there.as_ref().map_or_else(|| json!({"name": name}), |there| json!(there.metadata));
        let body = json!({
            "apiVersion": NSMConfig::api_version(&()), "kind": NSMConfig::kind(&()), "metadata": metadata, "spec": spec,
        });
        let bytes = serde_json::to_vec(&body).map_err(kube::Error::SerdeError)?;
        let request = kube::core::Request::new(NSMConfig::url_path(&(), None));
        let request = match there {
            Some(_) => request.replace(name, &params, bytes),
            None => request.create(&params, bytes),
        };
        client.request(strict(request.map_err(kube::Error::BuildRequest)?)).await
    };
    match timeout(TIMEOUT, ask).await {
        Ok(answer) => answer.map_err(|error| Error::from_kube(what, error)),
        Err(_) => Err(Error::Timeout { what }),
    }
}

/// The same request, which refuses fields that nobody knows.
fn strict(mut request: http::Request<Vec<u8>>) -> http::Request<Vec<u8>> {
    if let Ok(uri) = format!("{}&fieldValidation=Strict", request.uri()).parse() {
        *request.uri_mut() = uri;
    }
    request
}

/// Status of a resource of either scope: [`Api`] wants to know the scope as a type.
struct StatusApi {
    client: Client,
    url: String,
}

impl StatusApi {
    async fn apply<K: DeserializeOwned>(
        &self,
        name: &str,
        body: &serde_json::Value,
    ) -> Result<K, kube::Error> {
        let params = PatchParams::apply(names::MANAGER).force();
        let request = kube::core::Request::new(&self.url)
            .patch_subresource("status", name, &params, &Patch::Apply(body))
            .map_err(kube::Error::BuildRequest)?;
        self.client.request(request).await
    }
}

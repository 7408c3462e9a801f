//! The custom resources of what is registered, as requests to the API server.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use kube::{
    Api, Client,
    api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions},
    core::Status,
};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::elements::registry::{Apply, Object, ObjectServer, Refusal};

/// Limit of one request. The caller of a registration waits at least as long.
const LIMIT: Duration = Duration::from_secs(10);

/// What the message says by which the API server refuses to make a template a registration.
const TEMPLATE: &str = "spec.workload";

/// Objects of one kind.
#[derive(Clone)]
pub(super) struct Kind {
    client: Client,
    resource: ApiResource,
}

impl Kind {
    pub(super) fn services(client: &Client) -> Self {
        let resource = ApiResource::erase::<nsm_crds::NetworkService>(&());
        Self { client: client.clone(), resource }
    }

    pub(super) fn endpoints(client: &Client) -> Self {
        let resource = ApiResource::erase::<nsm_crds::NetworkServiceEndpoint>(&());
        Self { client: client.clone(), resource }
    }

    /// All namespaces: names are mesh-wide.
    pub(super) fn everywhere(&self) -> Api<DynamicObject> {
        Api::all_with(self.client.clone(), &self.resource)
    }

    fn of(&self, namespace: &str) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), namespace, &self.resource)
    }

    fn body(&self, apply: Apply) -> Value {
        let Apply { key: (namespace, name), uid, spec, .. } = apply;
        let mut metadata = json!({"namespace": &*namespace, "name": &*name});
        if let Some(uid) = uid {
            metadata["uid"] = uid.into();
        }
        let (version, kind) = (&self.resource.api_version, &self.resource.kind);
        json!({"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec})
    }
}

/// An object as watches and answers bring it.
pub(super) fn object(object: DynamicObject) -> Object {
    let version = object.metadata.resource_version.as_deref().and_then(|version| version.parse().ok());
    let created = object.metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second());
    let mut data = object.data;
    Object {
        key: (
            object.metadata.namespace.unwrap_or_default().into(),
            object.metadata.name.unwrap_or_default().into(),
        ),
        uid: object.metadata.uid.unwrap_or_default(),
        // Resource versions are ordered numbers (KEP-5504).
        version: version.unwrap_or(0),
        created,
        spec: data.get_mut("spec").map(Value::take).unwrap_or_default(),
    }
}

/// One request, within its limit.
pub(super) async fn within<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, Refusal> {
    match timeout(LIMIT, request).await {
        Ok(done) => done.map_err(|error| refusal(&error)),
        Err(_) => Err(Refusal::Unavailable("the API server does not answer".to_owned())),
    }
}

/// What an error of the API server means.
pub(super) fn refusal(error: &kube::Error) -> Refusal {
    match error {
        kube::Error::Api(status) => refused(status),
        error => Refusal::Unavailable(format!(
            "the API server cannot be asked: {}",
            crate::api::with_causes(error)
        )),
    }
}

fn refused(status: &Status) -> Refusal {
    let message = status.message.clone();
    match status.code {
        409 => held(status).unwrap_or(Refusal::Changed(message)),
        // The own UID, of an object that has another one by now.
        422 if message.contains("metadata.uid") => Refusal::Changed(message),
        422 if message.contains(TEMPLATE) => {
            Refusal::Held { manager: "a user".to_owned(), fields: TEMPLATE.to_owned() }
        }
        404 if status.reason == "NotFound"
            && status.details.as_ref().is_some_and(|details| !details.name.is_empty()) =>
        {
            Refusal::Missing(message)
        }
        400 | 413 | 422 => Refusal::Invalid(message),
        500 if message.contains("field not declared in schema") => Refusal::Invalid(message),
        401 | 403 => Refusal::Unavailable(format!(
            "the API server does not allow it: {message}; bind the ClusterRole nsm-registry to the \
             registry's service account"
        )),
        _ => Refusal::Unavailable(message),
    }
}

/// Who has the fields that were not taken over.
fn held(status: &Status) -> Option<Refusal> {
    let causes = &status.details.as_ref()?.causes;
    let conflicts: Vec<_> = causes.iter().filter(|cause| cause.reason == "FieldManagerConflict").collect();
    let manager = conflicts.first()?.message.split('"').nth(1).unwrap_or("somebody else").to_owned();
    let fields: Vec<_> = conflicts.iter().map(|cause| cause.field.trim_start_matches('.')).collect();
    Some(Refusal::Held { manager, fields: fields.join(", ") })
}

#[async_trait]
impl ObjectServer for Kind {
    async fn apply(&self, apply: Apply) -> Result<Object, Refusal> {
        let (namespace, name) = apply.key.clone();
        let mut params = PatchParams::apply(&apply.manager);
        params.force = apply.uid.is_some();
        let body = Patch::Apply(self.body(apply));
        within(self.of(&namespace).patch(&name, &params, &body)).await.map(object)
    }

    async fn get(&self, (namespace, name): &(Arc<str>, Arc<str>)) -> Result<Option<Object>, Refusal> {
        Ok(within(self.of(namespace).get_opt(name)).await?.map(object))
    }

    async fn delete(
        &self,
        (namespace, name): &(Arc<str>, Arc<str>),
        uid: &str,
        version: Option<u64>,
    ) -> Result<(), Refusal> {
        let preconditions = Preconditions {
            uid: Some(uid.to_owned()),
            resource_version: version.map(|version| version.to_string()),
        };
        let params = DeleteParams::default().preconditions(preconditions);
        gone(within(self.of(namespace).delete(name, &params)).await.map(drop))
    }
}

/// What is not there is deleted.
pub(super) fn gone(deleted: Result<(), Refusal>) -> Result<(), Refusal> {
    match deleted {
        Err(Refusal::Missing(_)) => Ok(()),
        other => other,
    }
}

//! Pods, as far as they are read: of thousands that a list brings at once, most of the text is passed over.

use std::borrow::Cow;

use k8s_openapi::{
    api::core::v1::Pod,
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use kube::{Resource, core::NamespaceResourceScope};
use serde::{Deserialize, Deserializer};

/// A pod without most of it.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct PodSketch {
    #[serde(default, deserialize_with = "sketch")]
    metadata: ObjectMeta,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    node_name: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct Status {
    #[serde(default)]
    conditions: Vec<Condition>,
}

#[derive(Clone, Debug, Deserialize)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
}

/// What is read of a pod's metadata. Who wrote which of its fields is the most of them.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: Option<String>,
    namespace: Option<String>,
    resource_version: Option<String>,
    labels: Option<std::collections::BTreeMap<String, String>>,
    deletion_timestamp: Option<Time>,
}

fn sketch<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    let Metadata { name, namespace, resource_version, labels, deletion_timestamp } =
        Metadata::deserialize(deserializer)?;
    Ok(ObjectMeta { name, namespace, resource_version, labels, deletion_timestamp, ..ObjectMeta::default() })
}

impl PodSketch {
    /// Where it runs, once that is decided.
    pub(super) fn node(&self) -> Option<&str> {
        self.spec.node_name.as_deref()
    }

    /// Whether it says that it is ready.
    pub(super) fn is_ready(&self) -> bool {
        self.status.conditions.iter().any(|one| one.kind == "Ready" && one.status == "True")
    }
}

impl Resource for PodSketch {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        Pod::kind(&())
    }

    fn group((): &()) -> Cow<'_, str> {
        Pod::group(&())
    }

    fn version((): &()) -> Cow<'_, str> {
        Pod::version(&())
    }

    fn plural((): &()) -> Cow<'_, str> {
        Pod::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_matters_of_a_pod_is_read_and_the_rest_passed_over() {
        let pod: PodSketch = serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": "forwarder-x", "namespace": "nsm-system", "resourceVersion": "7", "uid": "u",
                "labels": {"a": "b"}, "deletionTimestamp": "2026-01-01T00:00:00Z",
                "managedFields": [{"fieldsV1": {"f:spec": {}}}],
            },
            "spec": {"nodeName": "one", "containers": [{"name": "forwarder"}]},
            "status": {"phase": "Running", "conditions": [
                {"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": "True", "reason": "r"},
            ]},
        }))
        .unwrap();
        assert_eq!((pod.node(), pod.is_ready()), (Some("one"), true));
        let meta = pod.meta();
        assert_eq!(
            (meta.name.as_deref(), meta.resource_version.as_deref()),
            (Some("forwarder-x"), Some("7"))
        );
        assert!(meta.deletion_timestamp.is_some() && meta.managed_fields.is_none());
        assert_eq!(PodSketch::url_path(&(), Some("n")), Pod::url_path(&(), Some("n")));
    }

    #[test]
    fn a_pod_that_was_just_made_and_a_bookmark_have_neither_node_nor_conditions() {
        let pod: PodSketch = serde_json::from_value(json!({
            "kind": "Pod", "apiVersion": "v1", "metadata": {"resourceVersion": "9"},
            "spec": {"containers": null}, "status": {},
        }))
        .unwrap();
        assert_eq!((pod.node(), pod.is_ready()), (None, false));
    }
}

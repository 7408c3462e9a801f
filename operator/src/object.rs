//! Kinds the operator makes, and objects as it wants them.

use std::fmt;

use kube::core::ApiResource;
use serde::Serialize;
use serde_json::{Value, json};

use crate::names;

/// Kinds of objects that the operator makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Of the mesh.
    Namespace,
    /// Of a component.
    ServiceAccount,
    /// Rights in one namespace.
    RoleBinding,
    /// Rights on the whole cluster.
    ClusterRoleBinding,
    /// How many pods may be away at once.
    PodDisruptionBudget,
    /// A stable address.
    Service,
    /// Some pods.
    Deployment,
    /// One pod a node.
    DaemonSet,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 8] = [
        Self::Namespace,
        Self::ServiceAccount,
        Self::RoleBinding,
        Self::ClusterRoleBinding,
        Self::PodDisruptionBudget,
        Self::Service,
        Self::Deployment,
        Self::DaemonSet,
    ];

    /// Group, kind and plural.
    fn words(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Namespace => ("", "Namespace", "namespaces"),
            Self::ServiceAccount => ("", "ServiceAccount", "serviceaccounts"),
            Self::RoleBinding => ("rbac.authorization.k8s.io", "RoleBinding", "rolebindings"),
            Self::ClusterRoleBinding => {
                ("rbac.authorization.k8s.io", "ClusterRoleBinding", "clusterrolebindings")
            }
            Self::PodDisruptionBudget => ("policy", "PodDisruptionBudget", "poddisruptionbudgets"),
            Self::Service => ("", "Service", "services"),
            Self::Deployment => ("apps", "Deployment", "deployments"),
            Self::DaemonSet => ("apps", "DaemonSet", "daemonsets"),
        }
    }

    /// The kind's name, as in manifests.
    pub fn name(self) -> &'static str {
        self.words().1
    }

    /// The kind with this name, if it is one of ours.
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Whether it has pods.
    pub fn is_workload(self) -> bool {
        matches!(self, Self::Deployment | Self::DaemonSet)
    }

    /// Kind and group as apply sets list them.
    pub fn group_kind(self) -> String {
        let (group, kind, _) = self.words();
        if group.is_empty() { kind.into() } else { format!("{kind}.{group}") }
    }

    /// Where the API server has it; all of them are `v1`.
    pub fn resource(self) -> ApiResource {
        let (group, kind, plural) = self.words();
        ApiResource {
            group: group.into(),
            version: "v1".into(),
            api_version: if group.is_empty() { "v1".into() } else { format!("{group}/v1") },
            kind: kind.into(),
            plural: plural.into(),
        }
    }
}

/// One object on the API server.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace; empty for cluster-scoped kinds.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl Key {
    /// The component that a workload is of: the name of a DaemonSet ends with its revision.
    pub fn component(&self) -> &str {
        let revision = |text: &str| text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        match self.name.rsplit_once('-') {
            Some((component, end)) if self.kind == Kind::DaemonSet && revision(end) => component,
            _ => &self.name,
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, namespace, name } = self;
        if namespace.is_empty() {
            write!(f, "{} {name}", kind.name())
        } else {
            write!(f, "{} {namespace}/{name}", kind.name())
        }
    }
}

/// An object cannot be brought into the form in which it is sent.
#[derive(Debug, thiserror::Error)]
#[error("{kind} {name} cannot be rendered", kind = kind.name())]
pub struct ObjectError {
    kind: Kind,
    name: String,
    #[source]
    source: serde_json::Error,
}

/// An object as it is wanted: exactly the fields that the operator sets.
#[derive(Clone, Debug, PartialEq)]
pub struct Desired {
    /// Which object.
    pub key: Key,
    /// Its body, without anything the API server would drop or rewrite.
    pub body: Value,
}

impl Desired {
    /// The wanted object with the hash of its body noted in [`names::REVISION`].
    pub fn new(kind: Kind, object: &impl Serialize) -> Result<Self, ObjectError> {
        Self::changed(kind, object, |_| ())
    }

    /// The same with a change to its body first.
    pub fn changed(
        kind: Kind,
        object: &impl Serialize,
        change: impl FnOnce(&mut Value),
    ) -> Result<Self, ObjectError> {
        let mut body = serde_json::to_value(object).map_err(|source| ObjectError {
            kind,
            name: String::new(),
            source,
        })?;
        change(&mut body);
        prune(&mut body);
        let text = |pointer: &str| body.pointer(pointer).and_then(Value::as_str).unwrap_or("").to_owned();
        let key = Key { kind, namespace: text("/metadata/namespace"), name: text("/metadata/name") };
        note_revision(&mut body);
        Ok(Self { key, body })
    }

    /// The same object with another body.
    #[must_use]
    pub fn with(&self, change: impl FnOnce(&mut Value)) -> Self {
        let Self { key, mut body } = self.clone();
        if let Some(metadata) = body["metadata"].as_object_mut() {
            let annotations = metadata.get_mut("annotations").and_then(Value::as_object_mut);
            let left = annotations.is_some_and(|annotations| {
                annotations.remove(names::REVISION);
                !annotations.is_empty()
            });
            if !left {
                metadata.remove("annotations");
            }
        }
        change(&mut body);
        note_revision(&mut body);
        Self { key, body }
    }

    /// The hash of what was rendered.
    pub fn revision(&self) -> Option<&str> {
        revision(&self.body)
    }
}

fn note_revision(body: &mut Value) {
    let revision = format!("{:016x}", fnv(body.to_string().as_bytes()));
    let metadata = &mut body["metadata"];
    if !metadata["annotations"].is_object() {
        metadata["annotations"] = json!({});
    }
    metadata["annotations"][names::REVISION] = revision.into();
}

/// A short hash of a value, fit for names.
pub fn digest(value: &Value) -> String {
    let hash = fnv(value.to_string().as_bytes());
    format!("{:08x}", (hash >> 32) ^ (hash & 0xffff_ffff))
}

/// The hash noted in an object.
pub fn revision(object: &Value) -> Option<&str> {
    object.get("metadata")?.get("annotations")?.get(names::REVISION)?.as_str()
}

/// Removes nulls and empty texts and lists: the API server drops them, and what it dropped would
/// never compare equal again.
fn prune(value: &mut Value) {
    let empty = |value: &Value| match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    };
    match value {
        Value::Object(map) => {
            map.values_mut().for_each(prune);
            map.retain(|_, value| !empty(value));
        }
        Value::Array(items) => items.iter_mut().for_each(prune),
        _ => {}
    }
}

/// FNV-1a, 64 bits: a hash that stays the same over versions of the compiler.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empties_are_not_sent_and_the_revision_follows_the_content() {
        let object = |image: &str| json!({"metadata": {"name": "a", "namespace": "n"}, "spec": {"image": image, "args": [], "x": "", "dir": {}}});
        let one = Desired::new(Kind::Deployment, &object("i")).unwrap();
        assert_eq!(one.body["spec"], json!({"image": "i", "dir": {}}));
        assert_eq!(one.key.to_string(), "Deployment n/a");
        assert_eq!(one, Desired::new(Kind::Deployment, &object("i")).unwrap());
        assert_eq!(one.with(|_| ()), one, "what is not changed is the same");
        assert_ne!(one.revision(), Desired::new(Kind::Deployment, &object("j")).unwrap().revision());
    }

    #[test]
    fn fnv_is_the_published_function() {
        assert_eq!(fnv(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv(b"a"), 0xaf63_dc4c_8601_ec8c);
    }
}

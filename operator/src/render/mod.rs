//! The objects that a mesh and its endpoints consist of. No effects; golden files in `tests/`.
//!
//! The objects come in tiers. What one tier needs stands in an earlier one: a pod learns the
//! address of a Service from its environment, so Services come before pods, and without the agent
//! of its node a process has no identity, so identity comes before the rest.

mod access;
mod endpoint;
mod forwarder;
mod identity;
mod nsmgr;
mod overrides;
mod placement;
mod pod;
mod quantity;
mod registry;

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::Namespace,
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use nsm_crds::{Forwarder, LogLevel, PullPolicy, Registry, Workload};
use serde::Serialize;
use serde_json::Value;

pub use self::{
    endpoint::endpoint,
    placement::{Placement, affinity, merge_patch, placed, placement},
};
use crate::{
    names::{self, apply_set},
    object::{Desired, Kind, ObjectError, digest},
};

/// A mesh whose settings have been checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Mesh {
    /// Namespace of all components.
    pub namespace: String,
    /// Namespace of the operator; the root key is there.
    pub operator_namespace: String,
    /// Service account of the operator.
    pub operator_account: String,
    /// Image of all components.
    pub image: String,
    /// When it is fetched.
    pub pull_policy: PullPolicy,
    /// Lowest level that is logged.
    pub log_level: LogLevel,
    /// SPIFFE trust domain.
    pub trust_domain: String,
    /// Life of an identity.
    pub svid_lifetime: String,
    /// Longest life of a token.
    pub max_token_lifetime: String,
    /// How the registry runs.
    pub registry: Registry,
    /// The forwarders, by their nodes.
    pub forwarders: Vec<Forwarder>,
    /// What is laid over pod templates, by the name of the workload.
    pub overrides: BTreeMap<String, Value>,
    /// Addresses that Services have had, by their names.
    pub addresses: BTreeMap<String, String>,
    /// Service accounts that were made anew since pods got their tokens, by name, with their uids.
    pub accounts: BTreeMap<String, String>,
    /// Owner of all objects.
    pub owner: OwnerReference,
}

/// A template whose settings have been checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Template {
    /// Its namespace, and that of its pods.
    pub namespace: String,
    /// Its name, and that of its Deployment.
    pub name: String,
    /// What it runs.
    pub workload: Workload,
    /// Owner of its Deployment.
    pub owner: OwnerReference,
}

/// Objects that may be written at the same time.
#[derive(Clone, Debug, PartialEq)]
pub struct Tier {
    /// What it is for, in messages.
    pub name: &'static str,
    /// The objects, in the order in which they are written.
    pub objects: Vec<Desired>,
}

/// All objects of a mesh, in tiers.
pub fn mesh(mesh: &Mesh) -> Result<Vec<Tier>, ObjectError> {
    let tier = |name, objects| Tier { name, objects };
    Ok(vec![
        tier("namespace", vec![namespace(mesh)?]),
        tier("access", access::objects(mesh)?),
        tier("services", vec![registry::service(mesh)?, identity::authority_service(mesh)?]),
        tier("identity authority", vec![identity::authority(mesh)?]),
        tier("identity agents", vec![identity::agent(mesh)?]),
        tier("registry", registry::objects(mesh)?),
        tier("managers", vec![nsmgr::daemon_set(mesh)?]),
        tier("forwarders", forwarders(mesh)?),
    ])
}

/// The forwarders: the last of the mesh.
pub fn forwarders(mesh: &Mesh) -> Result<Vec<Desired>, ObjectError> {
    mesh.forwarders.iter().map(|forwarder| forwarder::daemon_set(mesh, forwarder)).collect()
}

/// What marks the `NSMConfig` as the parent of the apply set that its mesh is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parent {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
}

/// The marks of the parent.
pub fn parent() -> Parent {
    let mut kinds = Kind::ALL.map(Kind::group_kind);
    kinds.sort_unstable();
    let tooling = format!("{}/v{}", names::MANAGER, env!("CARGO_PKG_VERSION"));
    Parent {
        labels: [(apply_set::PARENT.to_owned(), apply_set::ID.to_owned())].into(),
        annotations: [
            (apply_set::TOOLING.to_owned(), tooling),
            (apply_set::KINDS.to_owned(), kinds.join(",")),
        ]
        .into(),
    }
}

/// The namespace: privileged, because its pods use the host's network and folders.
fn namespace(mesh: &Mesh) -> Result<Desired, ObjectError> {
    let mut metadata = mesh.metadata(&mesh.namespace, &mesh.namespace);
    metadata.namespace = None;
    let labels = metadata.labels.get_or_insert_default();
    for mode in ["enforce", "audit", "warn"] {
        labels.insert(format!("pod-security.kubernetes.io/{mode}"), "privileged".into());
    }
    Desired::new(Kind::Namespace, &Namespace { metadata, ..Default::default() })
}

impl Mesh {
    /// Metadata of an object in the mesh's namespace, for a component.
    fn metadata(&self, name: &str, component: &str) -> ObjectMeta {
        let mut labels = pod::labels(component);
        labels.insert(apply_set::MEMBER.into(), apply_set::ID.into());
        ObjectMeta {
            name: Some(name.into()),
            namespace: Some(self.namespace.clone()),
            labels: Some(labels),
            owner_references: Some(vec![self.owner.clone()]),
            ..Default::default()
        }
    }

    /// A workload with what is laid over its pod template. A DaemonSet is of one revision of it, in its name.
    fn workload(&self, kind: Kind, name: &str, object: &impl Serialize) -> Result<Desired, ObjectError> {
        Desired::changed(kind, object, |body| {
            let Some(template) = body.pointer_mut("/spec/template") else { return };
            if let Some(part) = self.overrides.get(name) {
                overrides::lay_over(template, part);
            }
            self.restart(template);
            if kind == Kind::DaemonSet {
                let revision = digest(template);
                body["metadata"]["name"] = format!("{name}-{revision}").into();
                let places =
                    ["/metadata/labels", "/spec/selector/matchLabels", "/spec/template/metadata/labels"];
                for place in places {
                    if let Some(labels) = body.pointer_mut(place).and_then(Value::as_object_mut) {
                        labels.insert(names::DAEMON_REVISION.into(), revision.clone().into());
                    }
                }
            }
        })
    }

    /// Makes a template another one if its pods' tokens count no more.
    fn restart(&self, template: &mut Value) {
        let Some(spec) = template.get("spec") else { return };
        let account =
            spec["serviceAccountName"].as_str().filter(|_| spec["automountServiceAccountToken"] == true);
        if let Some(uid) = account.and_then(|account| self.accounts.get(account)) {
            template["metadata"]["annotations"][names::ACCOUNT] = uid.as_str().into();
        }
    }

    /// Name of the trust bundle's ConfigMap as processes read it.
    fn bundle(&self) -> String {
        format!("{}/{}", self.namespace, names::BUNDLE_CONFIG_MAP)
    }
}

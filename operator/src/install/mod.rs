//! The operator's own installation, from the same source for `kubectl apply` and for Helm. No
//! effects; `cargo run -p nsm-operator --example generate` writes the files, a test compares them.

mod files;
mod hook;
mod policies;
mod rbac;
mod workload;

use nsm_crds::{PullPolicy, SerializeError};
use serde::Serialize;
use serde_json::{Value, json};

pub use self::files::{File, files};
use crate::names::{self, OPERATOR_NAMESPACE};

/// What can be chosen about an installation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Namespace of the operator.
    pub namespace: String,
    /// The namespace it may make for the mesh: `spec.namespace` of the `NSMConfig`.
    pub mesh_namespace: String,
    /// Image of the operator.
    pub operator_image: String,
    /// Image of the mesh.
    pub mesh_image: String,
    /// When nodes fetch the operator's image.
    pub pull_policy: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            namespace: OPERATOR_NAMESPACE.into(),
            mesh_namespace: nsm_crds::NSMConfigSpec::default().namespace,
            operator_image: "nsm.local/nsm-operator:dev".into(),
            mesh_image: "nsm.local/nsm:dev".into(),
            pull_policy: PullPolicy::IfNotPresent.as_str().into(),
        }
    }
}

/// An object of the installation cannot be written as YAML.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A resource definition.
    #[error(transparent)]
    Crd(#[from] SerializeError),
    /// Anything else.
    #[error("an object of the installation cannot be written as YAML")]
    Yaml(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// The resource definitions, as YAML documents.
pub fn crds() -> Result<String, Error> {
    let manifests = nsm_crds::manifests()?;
    Ok(manifests.iter().flat_map(|manifest| ["---\n", &manifest.yaml]).collect())
}

/// The whole installation, as YAML documents in the order in which they are applied.
pub fn manifests(options: &Options) -> Result<String, Error> {
    let namespace = documents(&[namespace(options)])?;
    let rest = documents(&objects(options)?)?;
    Ok(format!("{namespace}{}{rest}", crds()?))
}

/// Accounts, rights, policies and the Deployment.
fn objects(options: &Options) -> Result<Vec<Value>, Error> {
    let mut objects = rbac::objects(options)?;
    objects.extend(policies::objects(options)?);
    objects.push(workload::deployment(options)?);
    Ok(objects)
}

/// The operator needs no right on its node, so its namespace gives none.
fn namespace(options: &Options) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": options.namespace,
            "labels": {"pod-security.kubernetes.io/enforce": "restricted", names::PART_OF: names::PRODUCT},
        },
    })
}

fn documents(objects: &[Value]) -> Result<String, Error> {
    let document = |object| serde_saphyr::to_string(object).map(|yaml| format!("---\n{yaml}"));
    objects.iter().map(document).collect::<Result<_, _>>().map_err(|error| Error::Yaml(error.into()))
}

fn value(object: &impl Serialize) -> Result<Value, Error> {
    serde_json::to_value(object).map_err(|error| Error::Yaml(error.into()))
}

//! All kinds as the YAML that a cluster takes.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

use crate::{NSMConfig, NSMNodeState, NetworkService, NetworkServiceEndpoint};

/// The definitions cannot be written as YAML.
#[derive(Debug, thiserror::Error)]
#[error("the definition of {name} cannot be written as YAML")]
pub struct SerializeError {
    /// Name of the definition.
    pub name: String,
    /// What the writer said.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// A generated file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Its name in `generated/`.
    pub file: String,
    /// What stands in it.
    pub yaml: String,
}

/// All kinds, ours first.
pub fn all() -> Vec<CustomResourceDefinition> {
    vec![NSMConfig::crd(), NSMNodeState::crd(), NetworkService::crd(), NetworkServiceEndpoint::crd()]
}

/// One file a kind.
pub fn manifests() -> Result<Vec<Manifest>, SerializeError> {
    all().iter().map(manifest).collect()
}

fn manifest(crd: &CustomResourceDefinition) -> Result<Manifest, SerializeError> {
    let name = crd.metadata.name.clone().unwrap_or_default();
    // By way of JSON: its maps are sorted, so the file does not depend on the order of fields.
    let yaml = serde_json::to_value(crd)
        .map_err(Box::<dyn std::error::Error + Send + Sync>::from)
        .and_then(|value| serde_saphyr::to_string(&value).map_err(Into::into))
        .map_err(|source| SerializeError { name: name.clone(), source })?;
    Ok(Manifest { file: format!("{}_{}.yaml", crd.spec.group, crd.spec.names.plural), yaml })
}

//! Manifests as users apply them.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use kube::{
    Api, Client, ResourceExt,
    api::{DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams},
    discovery::{self, Scope},
};

/// Field manager of what tests apply.
pub const MANAGER: &str = "e2e";

/// The objects of a text with one or more YAML documents.
pub fn documents(text: &str) -> Result<Vec<DynamicObject>> {
    let mut objects = Vec::new();
    for document in text.split("\n---\n") {
        let value: serde_json::Value = serde_saphyr::from_str(document.trim_start_matches("---\n"))?;
        if !value.is_null() {
            objects.push(serde_json::from_value(value)?);
        }
    }
    Ok(objects)
}

/// The objects of a file.
pub fn file(path: &Path) -> Result<Vec<DynamicObject>> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    documents(&text).with_context(|| path.display().to_string())
}

/// Applies all objects of a file, as `kubectl apply --server-side` does.
pub async fn apply_file(client: &Client, path: &Path) -> Result<Vec<DynamicObject>> {
    let mut applied = Vec::new();
    for object in file(path)? {
        applied.push(apply(client, &object).await?);
    }
    Ok(applied)
}

/// Applies one object.
pub async fn apply(client: &Client, object: &DynamicObject) -> Result<DynamicObject> {
    let params = PatchParams::apply(MANAGER).force().validation_strict();
    let name = object.name_any();
    let api = api(client, object).await?;
    api.patch(&name, &params, &Patch::Apply(object)).await.with_context(|| words(object))
}

/// Creates one object, refusing fields that its kind does not have; a trial run changes nothing.
pub async fn create(client: &Client, object: &DynamicObject, trial: bool) -> Result<DynamicObject> {
    let params = PostParams { dry_run: trial, ..Default::default() };
    let url = api(client, object).await?.resource_url().to_owned();
    let mut request = kube::core::Request::new(url).create(&params, serde_json::to_vec(object)?)?;
    let uri = request.uri().to_string();
    let separator = if uri.ends_with('?') || uri.ends_with('&') { "" } else { "&" };
    *request.uri_mut() = format!("{uri}{separator}fieldValidation=Strict").parse()?;
    client.request(request).await.with_context(|| words(object))
}

/// Where objects of its kind and namespace are.
pub async fn api(client: &Client, object: &DynamicObject) -> Result<Api<DynamicObject>> {
    let types = object.types.as_ref().context("an object without a kind")?;
    let kind = GroupVersionKind::try_from(types)?;
    let (resource, capabilities) =
        discovery::pinned_kind(client, &kind).await.with_context(|| words(object))?;
    Ok(match (capabilities.scope, object.namespace()) {
        (Scope::Cluster, _) => Api::all_with(client.clone(), &resource),
        (Scope::Namespaced, Some(namespace)) => Api::namespaced_with(client.clone(), &namespace, &resource),
        (Scope::Namespaced, None) => Api::default_namespaced_with(client.clone(), &resource),
    })
}

fn words(object: &DynamicObject) -> String {
    let kind = object.types.as_ref().map(|types| types.kind.as_str()).unwrap_or_default();
    let namespace = object.namespace().map(|namespace| format!("{namespace}/")).unwrap_or_default();
    format!("{kind} {namespace}{}", object.name_any())
}

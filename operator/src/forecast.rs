//! What would change on a cluster if an `NSMConfig` were applied: it is asked, and nothing is written.

use std::{collections::BTreeMap, fmt::Write};

use k8s_openapi::api::apps::v1::Deployment;
use kube::{
    Api, Client, ResourceExt,
    api::{DynamicObject, ListParams},
};
use serde::Serialize;
use serde_json::Value;

use crate::{
    apply,
    kept::{Kept, addressed},
    names::{self, apply_set},
    object::{Desired, Key, Kind, ObjectError},
    plan::{self, Step, step},
    render::{self, Mesh, Tier},
    validate::{self, Installation},
};

/// Uid of a mesh that is not there yet.
const UNBORN: &str = "00000000-0000-0000-0000-000000000000";

/// Nothing can be foretold.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The text is none.
    #[error("{file} is no NSMConfig: {message}")]
    File {
        /// The file.
        file: String,
        /// Why.
        message: String,
    },
    /// The settings are refused, by the API server or by the operator.
    #[error("the settings cannot be used: {0}")]
    Settings(String),
    /// The resource definitions are not there.
    #[error(
        "the cluster does not know NSMConfig: install the operator first, with: nsm-operator manifests | kubectl apply --server-side -f -"
    )]
    NotInstalled,
    /// Nobody says which image the mesh would have.
    #[error(
        "no Deployment {} in the namespace {namespace} says which image the mesh has: name it with --mesh-image, or the namespace with --namespace",
        names::MANAGER
    )]
    NoImage {
        /// Where it was looked for.
        namespace: String,
    },
    /// The API server did not answer as it should.
    #[error("{what} cannot be read")]
    Read {
        /// What was asked for.
        what: String,
        /// Why.
        #[source]
        source: Box<kube::Error>,
    },
    /// The dry run failed.
    #[error(transparent)]
    Ask(apply::Error),
    /// An object could not be made from the settings.
    #[error(transparent)]
    Render(#[from] ObjectError),
}

/// What would be done about one object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    /// create, change, put back, replace or delete.
    pub action: &'static str,
    /// Kind of the object.
    pub kind: &'static str,
    /// Its namespace; empty for cluster-scoped kinds.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Why: the first field that differs, or what gives way.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub because: String,
}

/// All that would be done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Forecast {
    /// In the order in which it would be done.
    pub changes: Vec<Change>,
}

impl Forecast {
    /// The same for people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for Change { action, kind, namespace, name, because } in &self.changes {
            let place = if namespace.is_empty() { String::new() } else { format!("{namespace}/") };
            let because = if because.is_empty() { String::new() } else { format!(": {because}") };
            // Writing to a text does not fail.
            let _ = writeln!(text, "{action} {kind} {place}{name}{because}");
        }
        let count =
            |actions: &[&str]| self.changes.iter().filter(|change| actions.contains(&change.action)).count();
        let _ = writeln!(
            text,
            "{} to create, {} to change, {} to replace on every node, {} to delete",
            count(&["create"]),
            count(&["change", "put back"]),
            count(&["replace"]),
            count(&["delete"]),
        );
        text
    }
}

/// Reads an `NSMConfig` from a text of YAML or JSON: its name and its spec.
pub fn config(file: &str, text: &str) -> Result<(String, Value), Error> {
    let wrong = |message: String| Error::File { file: file.into(), message };
    let value: Value = serde_saphyr::from_str(text).map_err(|error| wrong(error.to_string()))?;
    let kind = value["kind"].as_str().unwrap_or_default();
    if kind != "NSMConfig" {
        return Err(wrong(format!("its kind is {kind:?}; one document of the kind NSMConfig is allowed")));
    }
    let name = value["metadata"]["name"].as_str().unwrap_or(nsm_crds::CONFIG_NAME).to_owned();
    Ok((name, value.get("spec").cloned().unwrap_or_else(|| serde_json::json!({}))))
}

/// What the operator in this namespace was installed with.
pub async fn installation(
    client: &Client,
    namespace: &str,
    image: Option<String>,
) -> Result<Installation, Error> {
    let mesh_image = match image {
        Some(image) => image,
        None => image_of(client, namespace)
            .await?
            .ok_or_else(|| Error::NoImage { namespace: namespace.into() })?,
    };
    Ok(Installation { mesh_image, namespace: namespace.into(), service_account: names::MANAGER.into() })
}

async fn image_of(client: &Client, namespace: &str) -> Result<Option<String>, Error> {
    let api: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    let what = format!("Deployment {namespace}/{}", names::MANAGER);
    let found =
        api.get_opt(names::MANAGER).await.map_err(|source| Error::Read { what, source: source.into() })?;
    let pod = found.and_then(|deployment| deployment.spec?.template.spec);
    let mut variables =
        pod.into_iter().flat_map(|pod| pod.containers).flat_map(|one| one.env.unwrap_or_default());
    Ok(variables.find(|variable| variable.name == "NSM_MESH_IMAGE").and_then(|variable| variable.value))
}

/// Looks at the cluster, and at what the API server would make of the settings.
pub async fn forecast(
    client: &Client,
    name: &str,
    spec: &Value,
    installation: &Installation,
) -> Result<Forecast, Error> {
    let mut config = match apply::rehearse_config(client, name, spec).await {
        Ok(config) => config,
        Err(apply::Error::Refused { message, .. }) => return Err(Error::Settings(message)),
        Err(error) if error.is_missing() => return Err(Error::NotInstalled),
        Err(error) => return Err(Error::Ask(error)),
    };
    if config.resource_version().is_none() {
        // A dry run makes a uid up for what is not there.
        config.metadata.uid = Some(UNBORN.into());
    }
    let mut mesh =
        validate::mesh(&config, installation).map_err(|error| Error::Settings(error.to_string()))?;
    Kept::told(config.status.as_ref()).tell(&mut mesh);
    let mut objects = BTreeMap::new();
    for kind in Kind::ALL {
        objects.extend(list(client, kind).await?);
    }
    Ok(Forecast { changes: changes(&mesh, &render::mesh(&mesh)?, &objects) })
}

async fn list(client: &Client, kind: Kind) -> Result<Vec<(Key, Value)>, Error> {
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &kind.resource());
    let ours = ListParams::default().labels(&format!("{}={}", names::MANAGED_BY, names::MANAGER));
    let what = format!("the list of {}", kind.resource().plural);
    let found = api.list(&ours).await.map_err(|source| Error::Read { what, source: source.into() })?;
    let keyed = |object: DynamicObject| {
        let key = Key { kind, namespace: object.namespace().unwrap_or_default(), name: object.name_any() };
        Some((key, serde_json::to_value(object).ok()?))
    };
    Ok(found.items.into_iter().filter_map(keyed).collect())
}

/// The differences between what is wanted and what is there.
fn changes(mesh: &Mesh, tiers: &[Tier], objects: &BTreeMap<Key, Value>) -> Vec<Change> {
    let wanted: Vec<&Desired> = tiers.iter().flat_map(|tier| &tier.objects).collect();
    let mut changes: Vec<Change> =
        wanted.iter().filter_map(|desired| change(mesh, desired, objects)).collect();
    let gives_way = |key: &Key| {
        key.kind == Kind::DaemonSet
            && wanted.iter().any(|one| one.key.kind == key.kind && one.key.component() == key.component())
    };
    let mut superfluous: Vec<&Key> = objects
        .iter()
        .filter(|(key, live)| {
            is_member(live, mesh) && wanted.iter().all(|one| one.key != **key) && !gives_way(key)
        })
        .map(|(key, _)| key)
        .collect();
    superfluous.sort_by_key(|key| plan::teardown_order(key));
    changes.extend(superfluous.into_iter().map(|key| of(key, "delete", String::new())));
    changes
}

fn change(mesh: &Mesh, desired: &Desired, objects: &BTreeMap<Key, Value>) -> Option<Change> {
    let Key { kind, namespace, .. } = &desired.key;
    let live = objects.get(&desired.key);
    if live.is_none() && *kind == Kind::DaemonSet {
        let same = |key: &&Key| {
            key.kind == *kind && key.namespace == *namespace && key.component() == desired.key.component()
        };
        if let Some(old) = objects.keys().find(same) {
            return Some(of(&desired.key, "replace", format!("instead of {}, node by node", old.name)));
        }
    }
    let step = step(&addressed(desired, mesh, live), live);
    let because = match &step {
        Step::Nothing => return None,
        Step::PutBack(difference) => difference.to_string(),
        Step::Create | Step::Change => String::new(),
    };
    Some(of(&desired.key, step.word(), because))
}

fn of(key: &Key, action: &'static str, because: String) -> Change {
    let Key { kind, namespace, name } = key;
    Change { action, kind: kind.name(), namespace: namespace.clone(), name: name.clone(), because }
}

fn is_member(live: &Value, mesh: &Mesh) -> bool {
    let owned = live["metadata"]["ownerReferences"].as_array();
    live["metadata"]["labels"][apply_set::MEMBER] == apply_set::ID
        && owned.into_iter().flatten().any(|owner| owner["uid"] == mesh.owner.uid.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_document_of_the_right_kind_is_read() {
        let fine = "{apiVersion: operator.networkservicemesh.io/v1alpha1, kind: NSMConfig, metadata: {name: default}, spec: {}}";
        assert_eq!(config("f", fine).unwrap(), ("default".into(), serde_json::json!({})));
        for (text, part) in [("{kind: Pod}", "\"Pod\""), ("[", "f is no NSMConfig")] {
            let error = config("f", text).unwrap_err().to_string();
            assert!(error.contains(part), "{part} in {error}");
        }
    }

    #[test]
    fn a_mesh_that_is_not_there_is_to_be_created_and_the_text_counts_it() {
        let mut new = nsm_crds::NSMConfig::new("default", nsm_crds::NSMConfigSpec::default());
        new.metadata.uid = Some(UNBORN.into());
        let installation = Installation {
            mesh_image: "i".into(),
            namespace: "nsm-operator".into(),
            service_account: "nsm-operator".into(),
        };
        let mesh = validate::mesh(&new, &installation).unwrap();
        let tiers = render::mesh(&mesh).unwrap();
        let forecast = Forecast { changes: changes(&mesh, &tiers, &BTreeMap::new()) };
        assert!(forecast.changes.iter().all(|change| change.action == "create"));
        let last = forecast.text().lines().last().unwrap().to_owned();
        assert_eq!(
            last,
            format!(
                "{} to create, 0 to change, 0 to replace on every node, 0 to delete",
                forecast.changes.len()
            )
        );
        // Another revision of a daemon takes the place of the one that is there.
        let daemons = tiers
            .iter()
            .flat_map(|tier| &tier.objects)
            .find(|one| one.key.component() == "nsmgr" && one.key.kind == Kind::DaemonSet)
            .unwrap();
        let old = Key { name: "nsmgr-01234567".into(), ..daemons.key.clone() };
        let found = changes(&mesh, &tiers, &BTreeMap::from([(old, daemons.body.clone())]));
        let replaced: Vec<_> = found.iter().filter(|change| change.action != "create").collect();
        assert_eq!(
            (replaced.len(), replaced[0].action, replaced[0].name.as_str()),
            (1, "replace", daemons.key.name.as_str())
        );
    }
}

//! What the API server takes and refuses by itself, by the definitions of our kinds. One control
//! plane serves all these tests; no operator runs there.

use std::sync::OnceLock;

use anyhow::{Context, Result};
use k8s_openapi::{
    api::core::v1::{Namespace, ServiceAccount},
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams},
};
use nsm_crds::NetworkService;
use nsm_e2e::kubernetes::{
    ControlPlane, MANAGER, api, apply, apply_file, create, documents, eventually, file, repository,
};
use serde_json::json;

use crate::stage::condition_true;

/// The shared control plane with the installation applied, and a client for this test's runtime.
pub(crate) async fn definitions() -> (&'static ControlPlane, Client) {
    static PLANE: OnceLock<ControlPlane> = OnceLock::new();
    let plane = PLANE.get_or_init(|| ControlPlane::start().unwrap());
    let client = plane.client().await.unwrap();
    // Applying the same again changes nothing, so who comes first does not matter.
    apply_file(&client, &repository().join("charts/install.yaml")).await.unwrap();
    let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
    eventually("all definitions to be established", async || {
        for crd in ours(&crds).await? {
            let conditions = crd.status.and_then(|status| status.conditions).unwrap_or_default();
            let established = conditions.iter().find(|condition| condition.type_ == "Established");
            condition_true(established.map(|condition| condition.status.as_str()))
                .context(crd.spec.names.kind)?;
        }
        Ok(())
    })
    .await
    .unwrap();
    (plane, client)
}

/// Our definitions.
async fn ours(crds: &Api<CustomResourceDefinition>) -> Result<Vec<CustomResourceDefinition>> {
    let all = crds.list(&ListParams::default()).await?;
    Ok(all.items.into_iter().filter(|crd| crd.spec.group.ends_with("networkservicemesh.io")).collect())
}

/// What the server says to an object it refuses.
pub(crate) async fn refusal(client: &Client, manifest: &str) -> String {
    let object = documents(manifest).unwrap().remove(0);
    let error = create(client, &object, true).await.expect_err(manifest);
    error.root_cause().to_string()
}

#[tokio::test]
async fn all_definitions_are_established_under_their_short_names() {
    let (plane, client) = definitions().await;
    let crds = ours(&Api::all(client)).await.unwrap();
    let mut kinds: Vec<_> = crds.iter().map(|crd| crd.spec.names.kind.as_str()).collect();
    kinds.sort_unstable();
    assert_eq!(kinds, ["NSMConfig", "NSMNodeState", "NetworkService", "NetworkServiceEndpoint"]);
    for name in ["nsm", "nsmnode", "netsvc", "nse"] {
        plane.kubectl(&["get", name, "--all-namespaces"]).unwrap();
    }
}

#[tokio::test]
async fn a_second_mesh_is_refused_with_the_name_that_is_right() {
    let (_, client) = definitions().await;
    let manifest = "
apiVersion: operator.networkservicemesh.io/v1alpha1
kind: NSMConfig
metadata: {name: other}
spec: {}";
    let message = refusal(&client, manifest).await;
    assert!(message.contains("there is one mesh a cluster: the name must be 'default'"), "{message}");
}

#[tokio::test]
async fn a_template_is_never_taken_for_a_registration() {
    let (_, client) = definitions().await;
    let manifest = |registration: &str| {
        format!(
            "{{apiVersion: networkservicemesh.io/v1, kind: NetworkServiceEndpoint, metadata: {{name: nse, namespace: default}},
            spec: {{workload: {{networkServices: [finance]}}{registration}}}}}"
        )
    };
    for field in [
        "network_service_names: [finance]",
        "url: tcp://10.0.0.1:5001",
        "url: ''",
        "expiration_time: {seconds: 1}",
    ] {
        let message = refusal(&client, &manifest(&format!(", {field}"))).await;
        assert!(message.contains("name its services in spec.workload.networkServices"), "{field}: {message}");
    }
    create(&client, &documents(&manifest("")).unwrap()[0], true).await.unwrap();
}

#[tokio::test]
async fn objects_that_upstream_publishes_come_back_as_they_were() {
    let (_, client) = definitions().await;
    let mut objects = file(&repository().join("crds/tests/data/upstream-objects.yaml")).unwrap();
    assert!(objects.len() > 50, "only {} objects", objects.len());
    objects.extend(documents(REGISTRATION).unwrap());
    for mut object in objects {
        object.metadata.namespace = Some(object.namespace().unwrap_or_else(|| "upstream".into()));
        namespace(&client, &object.namespace().unwrap()).await.unwrap();
        create(&client, &object, false).await.unwrap();
        let objects = api(&client, &object).await.unwrap();
        let back = objects.get(&object.name_any()).await.unwrap();
        assert_eq!(back.data, object.data, "{}", object.name_any());
        // The same name comes again in other examples.
        objects.delete(&object.name_any(), &DeleteParams::default()).await.unwrap();
    }
}

/// As upstream's registry stores it, with fields that are not named in our types.
const REGISTRATION: &str = "
apiVersion: networkservicemesh.io/v1
kind: NetworkServiceEndpoint
metadata: {name: nse-1}
spec:
  name: nse-1
  network_service_names: [finance]
  network_service_labels: {finance: {labels: {app: gateway}}, empty: {}}
  url: tcp://10.0.0.1:5001
  expiration_time: {seconds: 1700000000, nanos: 5}
  initial_registration_time: {seconds: 1699999000}
  path_ids: ['spiffe://example.org/ns/a/pod/b']
  unknown: {nested: [1, null, {x: true}]}";

#[tokio::test]
async fn who_replaces_a_whole_service_does_not_wipe_its_status() {
    let (_, client) = definitions().await;
    let services: Api<NetworkService> = Api::namespaced(client, "default");
    let object = |payload: &str| {
        serde_json::from_value::<NetworkService>(
            json!({"metadata": {"name": "kept"}, "spec": {"payload": payload}}),
        )
        .unwrap()
    };
    services.create(&PostParams::default(), &object("IP")).await.unwrap();
    let status = json!({"status": {"endpoints": 3, "connections": {"total": 2, "up": 1, "down": 1}}});
    let written =
        services.patch_status("kept", &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    let mut foreign = object("ETHERNET");
    foreign.metadata.resource_version = written.resource_version();
    services.replace("kept", &PostParams::default(), &foreign).await.unwrap();
    let kept = services.get("kept").await.unwrap();
    assert_eq!(kept.spec.payload.as_deref(), Some("ETHERNET"));
    assert_eq!(kept.status, written.status);
    assert_eq!(kept.status.unwrap().endpoints, 3);
}

#[tokio::test]
async fn every_sample_is_accepted_by_strict_validation() {
    let (_, client) = definitions().await;
    let mut files: Vec<_> = std::fs::read_dir(repository().join("config/samples"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(!files.is_empty());
    let objects: Vec<_> = files.iter().flat_map(|path| file(path).unwrap()).collect();
    let is_namespace =
        |object: &&DynamicObject| object.types.as_ref().is_some_and(|types| types.kind == "Namespace");
    for made in objects.iter().filter(is_namespace) {
        create(&client, made, true).await.unwrap();
        apply(&client, made).await.unwrap();
        // Pods need the account that a controller would make.
        default_account(&client, &made.name_any()).await.unwrap();
    }
    for object in objects.iter().filter(|object| !is_namespace(object)) {
        create(&client, object, true).await.unwrap();
    }
}

async fn namespace(client: &Client, name: &str) -> Result<()> {
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    Api::<Namespace>::all(client.clone())
        .patch(name, &PatchParams::apply(MANAGER), &Patch::Apply(namespace))
        .await?;
    Ok(())
}

async fn default_account(client: &Client, namespace: &str) -> Result<()> {
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    accounts.patch("default", &PatchParams::apply(MANAGER), &Patch::Apply(account)).await?;
    Ok(())
}

//! Settings that cannot be used: said with what would be right, and forgotten once they are fixed.

use anyhow::ensure;
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use nsm_crds::NSMConfig;
use nsm_e2e::kubernetes::{Kubelet, eventually};
use serde_json::{Value, json};

use crate::stage::{MESH, NODES, Stage};

#[tokio::test]
async fn settings_that_cannot_be_used_leave_the_mesh_as_it_is_until_they_are_fixed() {
    let stage = Stage::with_mesh().await.unwrap();
    let before = stage.daemon_set("nsmgr").await.unwrap();
    let mark = stage.audit.mark().await.unwrap();
    // A duration to the API server, and none to the mesh.
    set(&stage, &json!({"maxTokenLifetime": "+10m", "logLevel": "DEBUG"})).await;
    unusable(
        &stage,
        "InvalidConfig",
        "spec.maxTokenLifetime is \"+10m\": write a duration such as 10m or 1h",
    )
    .await;
    let written = stage.audit.of(stage.account.user(), mark).await.unwrap().writes();
    assert_eq!(written.words(), ["patch nsmconfigs/status default"]);
    assert_eq!(stage.daemon_set("nsmgr").await.unwrap().resource_version(), before.resource_version());

    set(&stage, &json!({"maxTokenLifetime": "90m"})).await;
    stage.ready().await.unwrap();
    let text = serde_json::to_string(&stage.daemon_set("nsmgr").await.unwrap().spec).unwrap();
    assert!(text.contains("90m") && text.contains("DEBUG"), "{text}");
}

#[tokio::test]
async fn a_namespace_that_the_operator_cannot_use_is_named_with_what_to_do() {
    let mut stage = Stage::installed().await.unwrap();
    stage.kubelet = Some(Kubelet::for_workloads(stage.client.clone(), NODES));
    stage.start_operator().unwrap();
    make(&stage, "nsm-operator").await;
    unusable(&stage, "InvalidConfig", "is the operator's own namespace: choose another, such as nsm-system")
        .await;

    remove(&stage).await;
    make(&stage, "elsewhere").await;
    unusable(&stage, "ApplyFailed", "Namespace elsewhere: not allowed").await;
    unusable(&stage, "ApplyFailed", "for another spec.namespace with meshNamespace set to it").await;
    // Someone else's namespace is not taken over either.
    let namespace = json!({"metadata": {"name": MESH}});
    let namespaces: Api<Namespace> = Api::all(stage.client.clone());
    namespaces.create(&PostParams::default(), &serde_json::from_value(namespace).unwrap()).await.unwrap();
    remove(&stage).await;
    make(&stage, MESH).await;
    unusable(&stage, "ApplyFailed", "Namespace nsm-system exists and is not the operator's").await;

    let mark =
        Patch::Merge(json!({"metadata": {"labels": {"app.kubernetes.io/managed-by": "nsm-operator"}}}));
    namespaces.patch(MESH, &PatchParams::default(), &mark).await.unwrap();
    stage.ready().await.unwrap();
}

async fn make(stage: &Stage, namespace: &str) {
    let manifest = format!(
        "{{apiVersion: operator.networkservicemesh.io/v1alpha1, kind: NSMConfig, metadata: {{name: default}}, spec: {{namespace: {namespace}}}}}"
    );
    stage.apply(&manifest).await.unwrap();
}

async fn set(stage: &Stage, spec: &Value) {
    let configs: Api<NSMConfig> = Api::all(stage.client.clone());
    let change = Patch::Merge(json!({"spec": spec}));
    configs.patch("default", &PatchParams::default(), &change).await.unwrap();
}

async fn remove(stage: &Stage) {
    let configs: Api<NSMConfig> = Api::all(stage.client.clone());
    configs.delete("default", &DeleteParams::default()).await.unwrap();
    eventually("the config to be gone", async || {
        ensure!(configs.get_opt("default").await?.is_none(), "it is there");
        Ok(())
    })
    .await
    .unwrap();
}

/// Waits until the status says so.
async fn unusable(stage: &Stage, reason: &str, advice: &str) {
    stage
        .config("the settings to be refused", |config, ready| {
            ensure!(ready.status == "False" && ready.reason == reason, "{}: {}", ready.reason, ready.message);
            ensure!(ready.message.contains(advice), "{}", ready.message);
            ensure!(ready.observed_generation == config.metadata.generation, "of an older generation");
            Ok(())
        })
        .await
        .unwrap();
}

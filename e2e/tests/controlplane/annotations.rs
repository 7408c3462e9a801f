//! What one may ask of the operator by annotations of the `NSMConfig`.

use anyhow::ensure;
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
};
use nsm_crds::NSMConfig;
use nsm_e2e::kubernetes::eventually;
use serde_json::{Value, json};

use crate::stage::{MESH, Stage, condition};

const PAUSED: &str = "operator.networkservicemesh.io/paused";
const PLAN_ONLY: &str = "operator.networkservicemesh.io/plan-only";
const LABEL: &str = "app.kubernetes.io/part-of";

#[tokio::test]
async fn a_paused_mesh_is_left_as_it_is_until_it_is_not() {
    let stage = Stage::with_mesh().await.unwrap();
    stage.ready().await.unwrap();
    annotate(&stage, PAUSED, json!("true"), json!({})).await;
    told(&stage, "Paused", "while the annotation").await;
    let mark = stage.audit.mark().await.unwrap();
    edit(&stage).await;
    // The operator has looked when it has seen the new settings.
    annotate(&stage, PAUSED, json!("true"), json!({"logLevel": "DEBUG"})).await;
    told(&stage, "Paused", "while the annotation").await;
    let written = stage.audit.of(stage.account.user(), mark).await.unwrap().writes();
    written.filter(|request| !request.is_status()).ensure_none("a paused operator wrote").unwrap();

    annotate(&stage, PAUSED, Value::Null, json!({"logLevel": "INFO"})).await;
    put_back(&stage).await;
    stage.ready().await.unwrap();
}

#[tokio::test]
async fn a_plan_tells_what_would_be_written_and_writes_nothing() {
    let stage = Stage::with_mesh().await.unwrap();
    stage.ready().await.unwrap();
    let mark = stage.audit.mark().await.unwrap();
    annotate(&stage, PLAN_ONLY, json!("true"), json!({"identity": {"svidLifetime": "3h"}})).await;
    edit(&stage).await;
    told(&stage, "PlanOnly", "change Deployment nsm-system/nsm-identity-authority").await;
    told(&stage, "PlanOnly", "put back ServiceAccount nsm-system/registry").await;
    let written = stage.audit.of(stage.account.user(), mark).await.unwrap().writes();
    written.filter(|request| !request.is_status()).ensure_none("a planning operator wrote").unwrap();

    annotate(&stage, PLAN_ONLY, Value::Null, json!({})).await;
    put_back(&stage).await;
    stage.ready().await.unwrap();
    annotate(&stage, PLAN_ONLY, json!("true"), json!({})).await;
    told(&stage, "PlanOnly", "nothing would be written").await;
    annotate(&stage, PLAN_ONLY, Value::Null, json!({})).await;
}

/// Sets an annotation, and settings with it.
async fn annotate(stage: &Stage, name: &str, value: Value, spec: Value) {
    let configs: Api<NSMConfig> = Api::all(stage.client.clone());
    let change = json!({"metadata": {"annotations": {name: value}}, "spec": spec});
    configs.patch("default", &PatchParams::default(), &Patch::Merge(change)).await.unwrap();
}

/// Waits until the status tells this of the newest settings.
async fn told(stage: &Stage, reason: &str, part: &str) {
    stage
        .config("the condition Reconciling", |config, _| {
            let status = config.status.clone().unwrap_or_default();
            let told = condition(&status.conditions, "Reconciling")?;
            ensure!(told.reason == reason && told.message.contains(part), "{told:?}");
            ensure!(told.observed_generation == config.metadata.generation, "of an older generation");
            Ok(())
        })
        .await
        .unwrap();
}

async fn edit(stage: &Stage) {
    let unlabelled = Patch::Merge(json!({"metadata": {"labels": {LABEL: Value::Null}}}));
    accounts(stage).patch("registry", &PatchParams::default(), &unlabelled).await.unwrap();
}

async fn put_back(stage: &Stage) {
    eventually("the label to be put back", async || {
        ensure!(accounts(stage).get("registry").await?.labels().contains_key(LABEL), "it is not there");
        Ok(())
    })
    .await
    .unwrap();
}

fn accounts(stage: &Stage) -> Api<ServiceAccount> {
    Api::namespaced(stage.client.clone(), MESH)
}

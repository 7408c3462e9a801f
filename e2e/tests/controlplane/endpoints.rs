//! Endpoints that the operator runs for the owners of namespaces, if these let it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::{
    apps::v1::{Deployment, DeploymentSpec},
    core::v1::{Container, Pod},
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use nsm_crds::NetworkServiceEndpoint;
use nsm_e2e::kubernetes::eventually;
use serde_json::{Value, json};

use crate::stage::{Stage, condition};

#[tokio::test]
async fn an_endpoint_runs_once_its_namespace_allows_it_and_goes_with_its_template() {
    let stage = Stage::with_mesh_and_controllers().await.unwrap();
    stage.apply(TEMPLATE).await.unwrap();
    let deployments: Api<Deployment> = Api::namespaced(stage.client.clone(), "bank");
    let pods: Api<Pod> = Api::namespaced(stage.client.clone(), "bank");

    let message = verdict(&stage, "Accepted", "NotPermitted").await.unwrap();
    assert!(deployments.list(&ListParams::default()).await.unwrap().items.is_empty());
    let (_, command) = message.split_once("kubectl ").unwrap();
    stage.plane.kubectl(&command.split_whitespace().collect::<Vec<_>>()).unwrap();

    let made = eventually("the Deployment", async || Ok(deployments.get("gateway").await?)).await.unwrap();
    let labels = made.spec.as_ref().unwrap().template.metadata.as_ref().unwrap().labels.clone().unwrap();
    assert_eq!(labels["operator.networkservicemesh.io/template"], "gateway");
    assert_eq!(made.labels()["app.kubernetes.io/managed-by"], "nsm-operator");
    let container = container(&made);
    assert_eq!(env(&container, "NSM_SERVICE_NAMES").as_deref(), Some("finance,audit"));
    assert_eq!(env(&container, "NSM_LABELS").as_deref(), Some("app:gateway"));
    assert_eq!(env(&container, "NSM_CIDR_PREFIX").as_deref(), Some("172.16.1.0/24"));
    assert_eq!(env(&container, "NSM_PAYLOAD").as_deref(), Some("IP"));
    assert_eq!(env(&container, "MORE").as_deref(), Some("x"));
    assert_eq!(container.image.as_deref(), Some("nsm.local/nsm:dev"));

    // Pods run, and no node reports them as endpoints.
    verdict(&stage, "Accepted", "WorkloadApplied").await.unwrap();
    let message = verdict(&stage, "Ready", "NotRegistered").await.unwrap();
    assert!(message.starts_with("0 of 2 endpoints are registered"), "{message}");

    let mark = stage.audit.mark().await.unwrap();
    edit(&stage, &json!({"replicas": 3})).await.unwrap();
    changed(&deployments, |spec| spec.replicas == Some(3)).await.unwrap();
    let service = json!({"networkServices": ["finance"], "env": [{"name": "MORE", "value": "y"}]});
    edit(&stage, &service).await.unwrap();
    changed(&deployments, |spec| {
        let container = &spec.template.spec.as_ref().unwrap().containers[0];
        env(container, "MORE").as_deref() == Some("y")
            && env(container, "NSM_SERVICE_NAMES").as_deref() == Some("finance")
    })
    .await
    .unwrap();
    verdict(&stage, "Ready", "NotRegistered").await.unwrap();
    let written = stage.audit.of(stage.account.user(), mark).await.unwrap().writes();
    let workload = written.filter(|request| !request.is_status());
    assert_eq!(workload.words(), ["patch deployments bank/gateway"; 2]);

    let templates: Api<NetworkServiceEndpoint> = Api::namespaced(stage.client.clone(), "bank");
    templates.delete("gateway", &DeleteParams::default()).await.unwrap();
    eventually("everything of the template to be gone", async || {
        let all = ListParams::default();
        let left = (deployments.list(&all).await?.items.len(), pods.list(&all).await?.items.len());
        ensure!(left == (0, 0), "Deployments and pods: {left:?}");
        Ok(())
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_template_that_becomes_a_registration_runs_nothing_any_more_also_after_a_restart() {
    let mut stage = Stage::with_mesh_and_controllers().await.unwrap();
    stage.apply(TEMPLATE).await.unwrap();
    permit(&stage);
    let deployments: Api<Deployment> = Api::namespaced(stage.client.clone(), "bank");
    verdict(&stage, "Accepted", "WorkloadApplied").await.unwrap();
    deployments.get("gateway").await.unwrap();

    // Nobody watches meanwhile: only what is there tells the next one.
    stage.stop_operator().await.unwrap();
    let templates: Api<NetworkServiceEndpoint> = Api::namespaced(stage.client.clone(), "bank");
    let registration = json!({"spec": {"workload": null, "url": "tcp://10.0.0.1:5001"}});
    templates.patch("gateway", &PatchParams::default(), &Patch::Merge(registration)).await.unwrap();
    stage.start_operator().unwrap();
    eventually("the Deployment to be gone", async || {
        let left = deployments.list(&ListParams::default()).await?.items.len();
        ensure!(left == 0, "{left} Deployments");
        Ok(())
    })
    .await
    .unwrap();

    let selected = async |selector: &str| {
        let params = ListParams::default().fields(selector);
        templates.list(&params).await.unwrap().items.iter().map(ResourceExt::name_any).collect::<Vec<_>>()
    };
    assert!(selected("spec.workload.payload!=").await.is_empty());
    assert_eq!(selected("spec.workload.payload=,status.registered!=").await, ["gateway"]);
    // Other stories find it as it was.
    stage.plane.kubectl(&["delete", "rolebinding", "nsm-endpoint-workloads", "--namespace", "bank"]).unwrap();
}

#[tokio::test]
async fn a_template_that_cannot_be_run_says_why_and_recovers() {
    let stage = Stage::with_mesh().await.unwrap();
    stage.apply(TEMPLATE).await.unwrap();
    permit(&stage);
    verdict(&stage, "Accepted", "WorkloadApplied").await.unwrap();

    edit(&stage, &json!({"labels": {"a:b": "c"}})).await.unwrap();
    let message = verdict(&stage, "Accepted", "InvalidWorkload").await.unwrap();
    assert!(message.contains("\"a:b: c\"") && message.contains("cannot stand in one"), "{message}");
    edit(&stage, &json!({"labels": {"a:b": null}})).await.unwrap();
    verdict(&stage, "Accepted", "WorkloadApplied").await.unwrap();

    // Even by the label that says whose it is, what was made for it is not lost.
    let deployments: Api<Deployment> = Api::namespaced(stage.client.clone(), "bank");
    let label = "operator.networkservicemesh.io/template";
    let unlabelled = Patch::Merge(json!({"metadata": {"labels": {label: null}}}));
    // Work that earlier events are still good for would hide that this one is lost; it is done within
    // a tenth of that.
    tokio::time::sleep(Duration::from_secs(1)).await;
    deployments.patch("gateway", &PatchParams::default(), &unlabelled).await.unwrap();
    eventually("the label to be put back", async || {
        ensure!(deployments.get("gateway").await?.labels().contains_key(label), "it is not there");
        Ok(())
    })
    .await
    .unwrap();

    // Without a workload it is no template any more, and runs nothing.
    edit(&stage, &Value::Null).await.unwrap();
    eventually("the Deployment to be gone", async || {
        ensure!(deployments.get_opt("gateway").await?.is_none(), "it is there");
        Ok(())
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_deployment_of_others_is_not_taken_over_by_a_template_of_its_name() {
    let stage = Stage::with_mesh().await.unwrap();
    stage.apply(FOREIGN).await.unwrap();
    let deployments: Api<Deployment> = Api::namespaced(stage.client.clone(), "bank");
    let before = deployments.get("gateway").await.unwrap();
    stage.apply(TEMPLATE).await.unwrap();
    permit(&stage);
    let message = verdict(&stage, "Accepted", "ApplyFailed").await.unwrap();
    assert!(message.starts_with("Deployment bank/gateway exists and is not the operator's"), "{message}");
    let after = deployments.get("gateway").await.unwrap();
    assert_eq!((after.uid(), after.spec), (before.uid(), before.spec));
    deployments.delete("gateway", &DeleteParams::default()).await.unwrap();
    verdict(&stage, "Accepted", "WorkloadApplied").await.unwrap();
}

/// The owner of the namespace lets the operator run endpoints in it.
fn permit(stage: &Stage) {
    let binding = "create rolebinding nsm-endpoint-workloads --namespace bank --clusterrole nsm-endpoint-workloads --serviceaccount nsm-operator:nsm-operator";
    // Where an earlier story has allowed it that stays so.
    if stage.plane.kubectl(&["get", "rolebinding", "nsm-endpoint-workloads", "--namespace", "bank"]).is_err()
    {
        stage.plane.kubectl(&binding.split(' ').collect::<Vec<_>>()).unwrap();
    }
}

/// Waits until a condition has this reason: its message.
async fn verdict(stage: &Stage, kind: &str, reason: &str) -> Result<String> {
    let templates: Api<NetworkServiceEndpoint> = Api::namespaced(stage.client.clone(), "bank");
    eventually(&format!("{kind} with the reason {reason}"), async || {
        let template = templates.get("gateway").await?;
        let status = template.status.context("no status")?;
        let condition = condition(&status.conditions, kind)?;
        ensure!(condition.reason == reason, "{}: {}", condition.reason, condition.message);
        ensure!(condition.observed_generation == template.metadata.generation, "of an older generation");
        Ok(condition.message.clone())
    })
    .await
}

/// Changes the workload of the template as a user.
async fn edit(stage: &Stage, workload: &Value) -> Result<()> {
    let templates: Api<NetworkServiceEndpoint> = Api::namespaced(stage.client.clone(), "bank");
    let change = Patch::Merge(json!({"spec": {"workload": workload}}));
    templates.patch("gateway", &PatchParams::default(), &change).await?;
    Ok(())
}

async fn changed(deployments: &Api<Deployment>, holds: impl Fn(&DeploymentSpec) -> bool) -> Result<()> {
    eventually("the Deployment to follow its template", async || {
        let spec = deployments.get("gateway").await?.spec.context("no spec")?;
        ensure!(holds(&spec), "{spec:?}");
        Ok(())
    })
    .await
}

fn container(deployment: &Deployment) -> Container {
    deployment.spec.as_ref().unwrap().template.spec.as_ref().unwrap().containers[0].clone()
}

fn env(container: &Container, name: &str) -> Option<String> {
    container.env.iter().flatten().find(|variable| variable.name == name)?.value.clone()
}

const TEMPLATE: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: bank}
---
apiVersion: networkservicemesh.io/v1
kind: NetworkServiceEndpoint
metadata: {name: gateway, namespace: bank}
spec:
  workload:
    networkServices: [finance, audit]
    cidrPrefixes: [172.16.1.0/24]
    payload: IP
    labels: {app: gateway}
    replicas: 2
    env: [{name: MORE, value: x}]";

/// A Deployment of the namespace's owner.
const FOREIGN: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: bank}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: gateway, namespace: bank}
spec:
  selector: {matchLabels: {app: gateway}}
  template:
    metadata: {labels: {app: gateway}}
    spec: {containers: [{name: a, image: e2e.test/a:1}]}";

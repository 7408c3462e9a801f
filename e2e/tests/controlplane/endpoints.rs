//! Endpoints that the operator runs for the owners of namespaces, if these let it.

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
async fn a_template_that_cannot_be_run_says_why_and_recovers() {
    let stage = Stage::with_mesh().await.unwrap();
    stage.apply(TEMPLATE).await.unwrap();
    let permit = "create rolebinding nsm-endpoint-workloads --namespace bank --clusterrole nsm-endpoint-workloads --serviceaccount nsm-operator:nsm-operator";
    stage.plane.kubectl(&permit.split(' ').collect::<Vec<_>>()).unwrap();
    verdict(&stage, "Accepted", "WorkloadApplied").await.unwrap();

    edit(&stage, &json!({"labels": {"a:b": "c"}})).await.unwrap();
    let message = verdict(&stage, "Accepted", "InvalidWorkload").await.unwrap();
    assert!(message.contains("\"a:b: c\"") && message.contains("cannot stand in one"), "{message}");
    edit(&stage, &json!({"labels": {"a:b": null}})).await.unwrap();
    verdict(&stage, "Accepted", "WorkloadApplied").await.unwrap();

    // Without a workload it is no template any more, and runs nothing.
    let deployments: Api<Deployment> = Api::namespaced(stage.client.clone(), "bank");
    deployments.get("gateway").await.unwrap();
    edit(&stage, &Value::Null).await.unwrap();
    eventually("the Deployment to be gone", async || {
        ensure!(deployments.get_opt("gateway").await?.is_none(), "it is there");
        Ok(())
    })
    .await
    .unwrap();
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

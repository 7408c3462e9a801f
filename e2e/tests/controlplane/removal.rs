//! Deleting the mesh removes what it made, and nothing else.

use std::fmt::Debug;

use anyhow::{Result, ensure};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Namespace, Pod, Service, ServiceAccount},
    rbac::v1::{ClusterRoleBinding, RoleBinding},
};
use kube::{Api, Resource, ResourceExt, api::ListParams};
use nsm_crds::{NSMNodeState, NetworkServiceEndpoint};
use nsm_e2e::kubernetes::{Account, eventually};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::{
    reports::report,
    stage::{CONFIG, MESH, OPERATOR, Stage, condition},
};

#[tokio::test]
async fn deleting_the_mesh_removes_all_of_it_and_nothing_of_others() {
    let stage = Stage::with_mesh_and_controllers().await.unwrap();
    stage.apply(OTHERS).await.unwrap();
    let nsmgr = Account::new(&stage.plane, MESH, "nsmgr").await.unwrap().client().await.unwrap();
    for node in ["node1", "node2"] {
        report(&nsmgr, node, &json!({"connections": {"total": 1, "up": 1, "down": 0}})).await.unwrap();
    }
    let nodes: Api<NSMNodeState> = Api::all(stage.client.clone());
    eventually("the mesh to own the reports", async || {
        let owned = nodes
            .list(&ListParams::default())
            .await?
            .iter()
            .filter(|node| !node.owner_references().is_empty())
            .count();
        ensure!(owned == 2, "{owned} of 2");
        Ok(())
    })
    .await
    .unwrap();
    let bank: Api<Deployment> = Api::namespaced(stage.client.clone(), "bank");
    eventually("the endpoint's Deployment", async || Ok(bank.get("gateway").await?)).await.unwrap();
    let foreign = foreign(&stage).await.unwrap();

    stage.plane.kubectl(&["delete", "nsm", "default", "--timeout=60s"]).unwrap();
    gone::<Namespace>(&Api::all(stage.client.clone()), &[MESH]).await.unwrap();
    gone::<NSMNodeState>(&nodes, &["node1", "node2"]).await.unwrap();
    gone::<ClusterRoleBinding>(&Api::all(stage.client.clone()), &["nsm-nsmgr", "nsm-identity-authority"])
        .await
        .unwrap();
    gone::<RoleBinding>(&Api::namespaced(stage.client.clone(), OPERATOR), &["nsm-identity-root"])
        .await
        .unwrap();
    // An endpoint of no mesh runs nothing; its template stays and says so.
    gone::<Deployment>(&bank, &["gateway"]).await.unwrap();
    let templates: Api<NetworkServiceEndpoint> = Api::namespaced(stage.client.clone(), "bank");
    eventually("the template to say that there is no mesh", async || {
        let status = templates.get("gateway").await?.status.unwrap_or_default();
        let accepted = condition(&status.conditions, "Accepted")?;
        ensure!(accepted.reason == "NoMesh", "{accepted:?}");
        Ok(())
    })
    .await
    .unwrap();
    for left in [
        names::<Service>(&Api::namespaced(stage.client.clone(), MESH)).await.unwrap(),
        names::<ServiceAccount>(&Api::namespaced(stage.client.clone(), MESH)).await.unwrap(),
        names::<Pod>(&Api::namespaced(stage.client.clone(), MESH)).await.unwrap(),
    ] {
        assert!(left.is_empty(), "{left:?}");
    }
    assert_eq!(self::foreign(&stage).await.unwrap(), foreign);

    // And it can be made again.
    stage.apply(CONFIG).await.unwrap();
    stage.ready().await.unwrap();
}

/// Objects of others, each with its version: who touches one changes that.
async fn foreign(stage: &Stage) -> Result<Vec<String>> {
    let client = || stage.client.clone();
    let map = Api::<ConfigMap>::namespaced(client(), "others").get("bystander").await?.resource_version();
    let account =
        Api::<ServiceAccount>::namespaced(client(), OPERATOR).get(OPERATOR).await?.resource_version();
    let binding = Api::<ClusterRoleBinding>::all(client()).get(OPERATOR).await?.resource_version();
    let permit = Api::<RoleBinding>::namespaced(client(), "bank")
        .get("nsm-endpoint-workloads")
        .await?
        .resource_version();
    let workload = Api::<Deployment>::namespaced(client(), "others").get("bystander").await?;
    // Its controller writes its status, so its uid and generation stand for it.
    let workload = [workload.uid(), workload.metadata.generation.map(|generation| generation.to_string())];
    Ok([map, account, binding, permit].into_iter().chain(workload).flatten().collect())
}

async fn gone<K>(api: &Api<K>, names: &[&str]) -> Result<()>
where
    K: Resource + Clone + Debug + DeserializeOwned,
{
    for name in names {
        eventually(&format!("{name} to be gone"), async || {
            ensure!(api.get_opt(name).await?.is_none(), "it is there");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

async fn names<K>(api: &Api<K>) -> Result<Vec<String>>
where
    K: Resource + Clone + Debug + DeserializeOwned,
{
    Ok(api.list(&ListParams::default()).await?.iter().map(ResourceExt::name_any).collect())
}

/// What others have on the cluster, and an endpoint.
const OTHERS: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: others}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: bystander, namespace: others}
data: {a: b}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: bystander, namespace: others, labels: {app.kubernetes.io/part-of: network-service-mesh}}
spec:
  replicas: 1
  selector: {matchLabels: {app: bystander}}
  template:
    metadata: {labels: {app: bystander}}
    spec: {containers: [{name: a, image: e2e.test/a:1}]}
---
apiVersion: v1
kind: Namespace
metadata: {name: bank}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: nsm-endpoint-workloads, namespace: bank}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: nsm-endpoint-workloads}
subjects: [{kind: ServiceAccount, name: nsm-operator, namespace: nsm-operator}]
---
apiVersion: networkservicemesh.io/v1
kind: NetworkServiceEndpoint
metadata: {name: gateway, namespace: bank}
spec: {workload: {networkServices: [finance]}}";

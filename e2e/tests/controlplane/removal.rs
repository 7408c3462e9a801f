//! Deleting the mesh removes what it made, and nothing else.

use std::{collections::BTreeSet, fmt::Debug};

use anyhow::{Result, ensure};
use k8s_openapi::api::{
    apps::v1::{DaemonSet, Deployment},
    core::v1::{ConfigMap, Namespace, Pod, Service, ServiceAccount},
    rbac::v1::{ClusterRoleBinding, RoleBinding},
};
use kube::{Api, Resource, ResourceExt, api::ListParams};
use nsm_crds::{NSMConfig, NSMNodeState, NetworkServiceEndpoint};
use nsm_e2e::kubernetes::{Operator, eventually};
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
    for node in ["node1", "node2"] {
        report(&stage, node, &json!({"connections": {"total": 1, "up": 1, "down": 0}})).await.unwrap();
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

    let mark = stage.audit.mark().await.unwrap();
    stage.plane.kubectl(&["delete", "nsm", "default", "--timeout=60s"]).unwrap();
    gone::<Namespace>(&Api::all(stage.client.clone()), &[MESH]).await.unwrap();
    gone::<NSMNodeState>(&nodes, &["node1", "node2"]).await.unwrap();
    gone::<ClusterRoleBinding>(
        &Api::all(stage.client.clone()),
        &["nsm-nsmgr", "nsm-registry", "nsm-identity-authority"],
    )
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
    let asked = stage.audit.of(stage.account.user(), mark).await.unwrap().granted();
    assert_eq!(asked.filter(|request| request.verb == "delete").words(), ORDER);

    // And it can be made again, and removed again, and then the cluster is as it was.
    let before = everything(&stage).unwrap();
    stage.apply(CONFIG).await.unwrap();
    stage.ready().await.unwrap();
    assert_ne!(everything(&stage).unwrap(), before);
    Operator::remove(&stage.plane).unwrap();
    assert!(Api::<NSMConfig>::all(stage.client.clone()).get_opt("default").await.unwrap().is_none());
    // With no mesh there is nothing to do.
    Operator::remove(&stage.plane).unwrap();
    eventually("the cluster to be as it was", async || {
        let after = everything(&stage)?;
        let more: Vec<_> = after.symmetric_difference(&before).collect();
        ensure!(more.is_empty(), "{more:#?}");
        Ok(())
    })
    .await
    .unwrap();
}

/// What serves others goes after these, the right to remove last but for the namespace.
pub(crate) const ORDER: [&str; 23] = [
    "delete deployments bank/gateway",
    "delete daemonsets nsm-system/forwarder",
    "delete daemonsets nsm-system/nsmgr",
    "delete deployments nsm-system/registry",
    "delete daemonsets nsm-system/nsm-identity-agent",
    "delete deployments nsm-system/nsm-identity-authority",
    "delete serviceaccounts nsm-system/forwarder",
    "delete serviceaccounts nsm-system/nsm-identity-agent",
    "delete serviceaccounts nsm-system/nsm-identity-authority",
    "delete serviceaccounts nsm-system/nsmgr",
    "delete serviceaccounts nsm-system/registry",
    "delete rolebindings nsm-operator/nsm-identity-root",
    "delete rolebindings nsm-system/nsm-identity-bundle-reader",
    "delete rolebindings nsm-system/nsm-identity-bundle-writer",
    "delete rolebindings nsm-system/nsm-registry-writer",
    "delete clusterrolebindings nsm-identity-authority",
    "delete clusterrolebindings nsm-nsmgr",
    "delete clusterrolebindings nsm-registry",
    "delete poddisruptionbudgets nsm-system/registry",
    "delete services nsm-system/nsm-identity-authority",
    "delete services nsm-system/registry",
    "delete rolebindings nsm-system/nsm-operator-operands",
    "delete namespaces nsm-system/nsm-system",
];

#[tokio::test]
async fn a_mesh_that_is_in_use_is_removed_when_it_is_idle_if_so_asked() {
    let stage = Stage::with_mesh_and_controllers().await.unwrap();
    report(&stage, "node1", &json!({"connections": {"total": 2, "up": 2, "down": 0}})).await.unwrap();
    stage.apply(&CONFIG.replace("{}", "{deletionPolicy: DeleteWhenIdle}")).await.unwrap();
    stage
        .config("the connections to be counted", |config, _| {
            let counted = config.status.as_ref().map(|status| status.connections.counts.total);
            ensure!(counted == Some(2), "{counted:?}");
            Ok(())
        })
        .await
        .unwrap();
    stage.ready().await.unwrap();
    let mark = stage.audit.mark().await.unwrap();
    stage.plane.kubectl(&["delete", "nsm", "default", "--wait=false"]).unwrap();
    stage
        .config("the status to say what is waited for", |_, ready| {
            let told = ready.message.starts_with("2 connections are open");
            ensure!(ready.reason == "WaitingForIdle" && told, "{ready:?}");
            Ok(())
        })
        .await
        .unwrap();
    report(&stage, "node1", &json!({"connections": {"total": 1, "up": 1, "down": 0}})).await.unwrap();
    stage
        .config("the status to follow", |_, ready| {
            ensure!(ready.message.starts_with("1 connections are open"), "{ready:?}");
            Ok(())
        })
        .await
        .unwrap();
    let written = stage.audit.of(stage.account.user(), mark).await.unwrap().writes();
    written.filter(|request| request.verb == "delete").ensure_none("deleted with connections open").unwrap();
    report(&stage, "node1", &json!({"connections": {"total": 0, "up": 0, "down": 0}})).await.unwrap();
    gone::<NSMConfig>(&Api::all(stage.client.clone()), &["default"]).await.unwrap();
    gone::<Namespace>(&Api::all(stage.client.clone()), &[MESH]).await.unwrap();
}

#[tokio::test]
async fn a_mesh_that_is_orphaned_runs_on_and_is_taken_over_by_the_next_config() {
    let stage = Stage::with_mesh_and_controllers().await.unwrap();
    stage.apply(OTHERS).await.unwrap();
    let bank: Api<Deployment> = Api::namespaced(stage.client.clone(), "bank");
    let endpoint =
        eventually("the endpoint's Deployment", async || Ok(bank.get("gateway").await?)).await.unwrap();
    report(&stage, "node1", &json!({"connections": {"total": 1, "up": 1, "down": 0}})).await.unwrap();
    stage.apply(&CONFIG.replace("{}", "{deletionPolicy: Orphan}")).await.unwrap();
    stage.ready().await.unwrap();
    let workloads = workloads(&stage).await.unwrap();
    assert_eq!(workloads.len(), 5);

    stage.plane.kubectl(&["delete", "nsm", "default", "--timeout=60s"]).unwrap();
    let templates: Api<NetworkServiceEndpoint> = Api::namespaced(stage.client.clone(), "bank");
    eventually("the template to tell of it", async || {
        let status = templates.get("gateway").await?.status.unwrap_or_default();
        let accepted = condition(&status.conditions, "Accepted")?;
        ensure!(accepted.message.contains("runs without its NSMConfig"), "{accepted:?}");
        Ok(())
    })
    .await
    .unwrap();
    // What the garbage collector has deleted by then is this, which nobody left on purpose.
    let canary = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "canary", "namespace": "bank",
        "ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "gone", "uid": "gone"}]}});
    stage.apply(&canary.to_string()).await.unwrap();
    gone::<ConfigMap>(&Api::namespaced(stage.client.clone(), "bank"), &["canary"]).await.unwrap();
    assert_eq!(self::workloads(&stage).await.unwrap(), workloads);
    assert_eq!(bank.get("gateway").await.unwrap().uid(), endpoint.uid());
    Api::<NSMNodeState>::all(stage.client.clone()).get("node1").await.unwrap();

    stage.apply(CONFIG).await.unwrap();
    stage.ready().await.unwrap();
    assert_eq!(self::workloads(&stage).await.unwrap(), workloads);
}

/// Names and uids of the mesh's workloads.
async fn workloads(stage: &Stage) -> Result<BTreeSet<(String, Option<String>)>> {
    let deployments = Api::<Deployment>::namespaced(stage.client.clone(), MESH);
    let daemons = Api::<DaemonSet>::namespaced(stage.client.clone(), MESH);
    let all = ListParams::default();
    let deployments = deployments.list(&all).await?;
    let daemons = daemons.list(&all).await?;
    let deployments = deployments.iter().map(|object| (object.name_any(), object.uid()));
    Ok(deployments.chain(daemons.iter().map(|object| (object.name_any(), object.uid()))).collect())
}

/// Every object there is, by kind, namespace, name and uid, but for what comes and goes by itself.
fn everything(stage: &Stage) -> Result<BTreeSet<String>> {
    let kinds = stage.plane.kubectl(&["api-resources", "--verbs=list", "--output=name"])?;
    let kinds: Vec<_> =
        kinds.lines().filter(|kind| !kind.starts_with("events") && !kind.starts_with("leases")).collect();
    let columns = "jsonpath={range .items[*]}{.kind} {.metadata.namespace}/{.metadata.name} {.metadata.uid}{'\\n'}{end}";
    let text = stage.plane.kubectl(&["get", &kinds.join(","), "--all-namespaces", "--output", columns])?;
    Ok(text.lines().map(str::to_owned).collect())
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

pub(crate) async fn gone<K>(api: &Api<K>, names: &[&str]) -> Result<()>
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

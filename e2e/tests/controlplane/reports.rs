//! What the nodes report, summed up where users look; and who may report.

use anyhow::{Result, ensure};
use k8s_openapi::{
    api::{
        apps::v1::DaemonSet,
        core::v1::{ConfigMap, Namespace, Pod, Secret},
    },
    apimachinery::pkg::apis::meta::v1::Condition,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use nsm_crds::{NSMConfig, NSMNodeState, NetworkService, NetworkServiceEndpoint};
use nsm_e2e::kubernetes::{Account, eventually};
use serde_json::{Value, json};

use crate::stage::{MESH, OPERATOR, Stage, condition};

/// A node's report as its nsmgr writes it: the object first, its status then.
pub(crate) async fn report(stage: &Stage, node: &str, status: &Value) -> Result<()> {
    let nsmgr = Account::on_node(&stage.plane, MESH, "nsmgr", node).await?;
    Ok(write(&nsmgr.client().await?, node, status).await?)
}

async fn write(client: &Client, node: &str, status: &Value) -> Result<(), kube::Error> {
    let nodes: Api<NSMNodeState> = Api::all(client.clone());
    let params = PatchParams::apply("nsm-nsmgr").force();
    let object = json!({
        "apiVersion": NSMNodeState::api_version(&()), "kind": NSMNodeState::kind(&()), "metadata": {"name": node},
    });
    nodes.patch(node, &params, &Patch::Apply(&object)).await?;
    let mut reported = object;
    reported["status"] = status.clone();
    nodes.patch_status(node, &params, &Patch::Apply(&reported)).await?;
    Ok(())
}

fn node_status(up: i64, down: i64, endpoint: &str) -> Value {
    json!({
        "observedInstance": "e2e",
        "connections": {"total": up + down, "up": up, "down": down},
        "services": [{"name": "finance", "total": up + down, "down": down}],
        "endpoints": [{
            "name": endpoint, "networkServices": ["finance"], "podNamespace": "branch", "podName": endpoint, "connections": up,
        }],
    })
}

#[tokio::test]
async fn reports_of_the_nodes_are_summed_up_in_every_status() {
    let stage = Stage::with_mesh().await.unwrap();
    stage.apply(BRANCH).await.unwrap();
    let services: Api<NetworkService> = Api::namespaced(stage.client.clone(), "branch");
    let endpoints: Api<NetworkServiceEndpoint> = Api::namespaced(stage.client.clone(), "branch");

    report(&stage, "node1", &node_status(2, 1, "gateway-5d9c7b7f4d-abcde")).await.unwrap();
    report(&stage, "node2", &node_status(4, 0, "gateway-5d9c7b7f4d-fghij")).await.unwrap();
    connections(&stage, [7, 6, 1, 2]).await.unwrap();
    eventually("the sum of the service", async || {
        let status = services.get("finance").await?.status.unwrap_or_default();
        let sum =
            [status.endpoints, status.connections.total, status.connections.up, status.connections.down];
        ensure!(sum == [2, 7, 6, 1], "{sum:?}");
        verdict(&status.conditions, "False", "ConnectionsDown")
    })
    .await
    .unwrap();
    eventually("the sum of the template", async || {
        let status = endpoints.get("gateway").await?.status.unwrap_or_default();
        ensure!((status.registered, status.connections) == (2, 6), "{status:?}");
        verdict(&status.conditions, "True", "Registered")
    })
    .await
    .unwrap();
    let row = stage.plane.kubectl(&["get", "nsm", "--no-headers"]).unwrap();
    assert_eq!(row.split_whitespace().collect::<Vec<_>>()[..5], ["default", "True", "2", "7", "1"]);

    report(&stage, "node1", &node_status(3, 0, "gateway-5d9c7b7f4d-abcde")).await.unwrap();
    connections(&stage, [7, 7, 0, 2]).await.unwrap();
    eventually("the service without a connection that is down", async || {
        let status = services.get("finance").await?.status.unwrap_or_default();
        verdict(&status.conditions, "True", "EndpointsAvailable")
    })
    .await
    .unwrap();

    // A node that left takes its connections along.
    let nodes: Api<NSMNodeState> = Api::all(stage.client.clone());
    nodes.delete("node2", &DeleteParams::default()).await.unwrap();
    connections(&stage, [3, 3, 0, 1]).await.unwrap();
    eventually("one endpoint less", async || {
        let status = endpoints.get("gateway").await?.status.unwrap_or_default();
        ensure!(status.registered == 1, "{} are registered", status.registered);
        verdict(&status.conditions, "False", "NotRegistered")
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn nobody_but_the_nsmgr_reports_and_the_nsmgr_does_nothing_else() {
    let stage = Stage::with_mesh().await.unwrap();
    let account = Account::on_node(&stage.plane, MESH, "nsmgr", "node1").await.unwrap();
    let nsmgr = account.client().await.unwrap();
    report(&stage, "node1", &node_status(1, 0, "nse")).await.unwrap();
    for other in ["forwarder", "registry", "nsm-identity-agent", "nsm-identity-authority"] {
        let client = Account::new(&stage.plane, MESH, other).await.unwrap().client().await.unwrap();
        let node: Api<NSMNodeState> = Api::all(client.clone());
        forbidden(other, write(&client, "node1", &node_status(9, 9, "nse")).await);
        let (params, status) =
            (PatchParams::default(), Patch::Merge(json!({"status": {"observedInstance": "x"}})));
        forbidden(other, node.patch_status("node1", &params, &status).await);
    }

    let (patch, post, delete) = (PatchParams::default(), PostParams::default(), DeleteParams::default());
    let nothing = Patch::Merge(json!({"metadata": {"labels": {"a": "b"}}}));
    let here = |name: &str| json!({"metadata": {"name": name}});
    let nodes: Api<NSMNodeState> = Api::all(nsmgr.clone());
    forbidden("delete of a report", nodes.delete("node1", &delete).await);
    let configs: Api<NSMConfig> = Api::all(nsmgr.clone());
    forbidden("settings", configs.patch("default", &patch, &nothing).await);
    forbidden("status of the mesh", configs.patch_status("default", &patch, &nothing).await);
    let services: Api<NetworkService> = Api::namespaced(nsmgr.clone(), MESH);
    forbidden("services", services.list(&ListParams::default()).await);
    let name = stage.daemon_set("nsmgr").await.unwrap().name_any();
    let daemons: Api<DaemonSet> = Api::namespaced(nsmgr.clone(), MESH);
    forbidden("workloads", daemons.patch(&name, &patch, &nothing).await);
    let maps: Api<ConfigMap> = Api::namespaced(nsmgr.clone(), MESH);
    forbidden("config maps", maps.create(&post, &serde_json::from_value(here("a")).unwrap()).await);
    let pods: Api<Pod> = Api::all(nsmgr.clone());
    forbidden("pods", pods.list(&ListParams::default()).await);
    let secrets: Api<Secret> = Api::namespaced(nsmgr.clone(), OPERATOR);
    forbidden("the root key", secrets.get("nsm-identity-root").await);
    let namespaces: Api<Namespace> = Api::all(nsmgr);
    forbidden("namespaces", namespaces.create(&post, &serde_json::from_value(here("a")).unwrap()).await);
}

#[tokio::test]
async fn an_nsmgr_reports_of_its_own_node_and_of_no_other() {
    let stage = Stage::with_mesh().await.unwrap();
    let status = stage.ready().await.unwrap();
    let protected = condition(&status.conditions, "Protected").unwrap();
    assert_eq!((protected.status.as_str(), protected.reason.as_str()), ("True", "PoliciesInForce"));
    let client = async |account: Account| account.client().await.unwrap();
    let own = client(Account::on_node(&stage.plane, MESH, "nsmgr", "node1").await.unwrap()).await;
    let unbound = client(Account::new(&stage.plane, MESH, "nsmgr").await.unwrap()).await;
    let nothing = json!({});
    write(&own, "node1", &nothing).await.unwrap();
    report(&stage, "node2", &nothing).await.unwrap();
    // Neither the object nor, where it exists, its status.
    let nodes: Api<NSMNodeState> = Api::all(own.clone());
    let status = Patch::Merge(json!({"status": {"observedInstance": "x"}}));
    for refused in [
        write(&own, "node2", &nothing).await.unwrap_err(),
        write(&own, "node3", &nothing).await.unwrap_err(),
        nodes.patch_status("node2", &PatchParams::default(), &status).await.unwrap_err(),
    ] {
        let told = refused.to_string();
        assert!(told.contains("nsmgr of node node1 may not write NSMNodeState node"), "{told}");
    }
    let told = write(&unbound, "node1", &nothing).await.unwrap_err().to_string();
    assert!(told.contains("bound to no node"), "{told}");
}

#[tokio::test]
async fn a_missing_policy_is_named() {
    let mut stage = Stage::with_own_mesh().await.unwrap();
    stage.stop_operator().await.unwrap();
    let binding = ["delete", "validatingadmissionpolicybinding", "nsm-nodestate-by-its-node"];
    stage.plane.kubectl(&binding).unwrap();
    stage.start_operator().unwrap();
    let named = "ValidatingAdmissionPolicyBinding nsm-nodestate-by-its-node with the action Deny; apply";
    stage
        .config("the policy to be named", |config, ready| {
            let status = config.status.clone().unwrap_or_default();
            let protected = condition(&status.conditions, "Protected")?;
            ensure!(
                protected.reason == "PoliciesMissing" && protected.message.contains(named),
                "{protected:?}"
            );
            ensure!(ready.status == "True", "{ready:?}");
            Ok(())
        })
        .await
        .unwrap();
}

#[track_caller]
fn forbidden<T>(what: &str, answer: Result<T, kube::Error>) {
    match answer {
        Err(kube::Error::Api(status)) if status.is_forbidden() => {}
        Err(error) => panic!("{what}: {error}"),
        Ok(_) => panic!("{what}: allowed"),
    }
}

/// Waits for total, up, down and the number of nodes.
async fn connections(stage: &Stage, expected: [i64; 4]) -> Result<()> {
    let configs: Api<NSMConfig> = Api::all(stage.client.clone());
    eventually("the sum of the mesh", async || {
        let sum = configs.get("default").await?.status.unwrap_or_default().connections;
        let sum = [sum.counts.total, sum.counts.up, sum.counts.down, sum.nodes_reporting];
        ensure!(sum == expected, "{sum:?}");
        Ok(())
    })
    .await
}

fn verdict(conditions: &[Condition], status: &str, reason: &str) -> Result<()> {
    let ready = condition(conditions, "Ready")?;
    ensure!(ready.status == status && ready.reason == reason, "{ready:?}");
    Ok(())
}

/// A service, and two endpoints whose namespace's owner lets the operator run them.
const BRANCH: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: branch}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: nsm-endpoint-workloads, namespace: branch}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: nsm-endpoint-workloads}
subjects: [{kind: ServiceAccount, name: nsm-operator, namespace: nsm-operator}]
---
apiVersion: networkservicemesh.io/v1
kind: NetworkService
metadata: {name: finance, namespace: branch}
spec: {payload: ETHERNET}
---
apiVersion: networkservicemesh.io/v1
kind: NetworkServiceEndpoint
metadata: {name: gateway, namespace: branch}
spec: {workload: {networkServices: [finance], replicas: 2}}";

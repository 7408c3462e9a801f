//! The operator's rights are what it uses, no more and no less, by the API server's own record.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use kube::{Api, api::DynamicObject};
use nsm_crds::{NSMConfig, NetworkServiceEndpoint};
use nsm_e2e::kubernetes::{Mark, Request, Requests, eventually, file, repository};
use serde_json::{Value, json};

use crate::{
    reports::report,
    stage::{CONFIG, Stage, condition},
};

/// A right: what may be done to which kind of which group.
type Right = (String, String, String);

/// Where rules stand that are the operator's.
const ROLES: [&str; 3] = ["nsm-operator", "nsm-operator-operands", "nsm-endpoint-workloads"];

#[tokio::test]
async fn every_right_of_the_operator_is_used_and_none_is_missing() {
    let mut stage = Stage::with_mesh_and_controllers().await.unwrap();
    let mark = stage.audit.mark().await.unwrap();
    stage.add_node("w1").await.unwrap();
    removed(&stage).await.unwrap();
    // Everything an operator does, from the first Lease on.
    stage.stop_operator().await.unwrap();
    stage.plane.kubectl(&["--namespace=nsm-operator", "delete", "lease", "nsm-operator"]).unwrap();
    stage.start_operator().unwrap();
    let two = "{forwarders: [{name: forwarder, nodeSelector: {pool: a}}, {name: forwarder-b, nodeSelector: {pool: b}}]}";
    stage.apply(&CONFIG.replace("{}", two)).await.unwrap();
    stage.ready().await.unwrap();
    stage.apply(CONFIG).await.unwrap();
    eventually("the second forwarder to be gone", async || {
        ensure!(stage.daemon_set("forwarder-b").await.is_err(), "it is there");
        Ok(())
    })
    .await
    .unwrap();
    // And its nodes are moved.
    stage.ready().await.unwrap();
    stage.apply(SHOP).await.unwrap();
    report(&stage, "node1", &json!({"connections": {"total": 1, "up": 1, "down": 0}})).await.unwrap();
    let deployments: Api<Deployment> = Api::namespaced(stage.client.clone(), "shop");
    eventually("the endpoint's Deployment", async || Ok(deployments.get("till").await?)).await.unwrap();
    removed(&stage).await.unwrap();
    let templates: Api<NetworkServiceEndpoint> = Api::namespaced(stage.client.clone(), "shop");
    eventually("the template to know", async || {
        let status = templates.get("till").await?.status.unwrap_or_default();
        ensure!(condition(&status.conditions, "Accepted")?.reason == "NoMesh", "it does not");
        Ok(())
    })
    .await
    .unwrap();

    let asked = all(&stage, mark).await.unwrap();
    // A right that was just granted may count a moment later.
    let refused: Vec<_> = asked
        .iter()
        .filter(|request| request.code() == 403 && !request.words().contains("nsm-system/"))
        .map(Request::words)
        .collect();
    assert!(refused.is_empty(), "{refused:#?}");
    let granted = granted().unwrap();
    assert!(granted.len() > 30, "{granted:#?}");
    let unused: Vec<_> = granted.difference(&used(&asked)).cloned().collect();
    assert!(unused.is_empty(), "granted and never used: {unused:#?}");
}

/// Removes the mesh. Whoever waited in kubectl would hold up the pods, which have to end meanwhile.
async fn removed(stage: &Stage) -> Result<()> {
    stage.plane.kubectl(&["delete", "nsm", "default", "--wait=false"])?;
    let configs: Api<NSMConfig> = Api::all(stage.client.clone());
    eventually("the mesh to be gone", async || {
        ensure!(configs.get_opt("default").await?.is_none(), "it is there");
        Ok(())
    })
    .await
}

async fn all(stage: &Stage, mark: Mark) -> Result<Vec<Request>> {
    let user = stage.account.user();
    let words = |requests: Requests| requests.iter().cloned().collect::<Vec<_>>();
    let mut all = words(stage.audit.of(user, mark).await?);
    all.extend(words(stage.audit.of_leases(user, mark).await?));
    Ok(all)
}

fn used(asked: &[Request]) -> BTreeSet<Right> {
    let mut used = BTreeSet::new();
    for request in asked.iter().filter(|request| request.code() < 300) {
        let (group, kind) = request.about();
        used.insert((request.verb.clone(), group.clone(), kind.clone()));
        // An apply that makes an object needs both rights.
        if request.verb == "patch" && request.code() == 201 {
            used.insert(("create".into(), group.clone(), kind.clone()));
        }
        // A binding is made by the right to bind its role.
        if kind == "rolebindings" || kind == "clusterrolebindings" {
            used.insert(("bind".into(), group.clone(), "clusterroles".into()));
            if request.words().contains("nsm-operator/") {
                used.insert(("bind".into(), group, "roles".into()));
            }
        }
    }
    used
}

/// What the installation grants to the operator.
fn granted() -> Result<BTreeSet<Right>> {
    let mut granted = BTreeSet::new();
    for object in file(&repository().join("charts/install.yaml"))? {
        let DynamicObject { types, metadata, data } = object;
        let kind = types.context("no kind")?.kind;
        let name = metadata.name.unwrap_or_default();
        if !kind.ends_with("Role") || !ROLES.contains(&name.as_str()) {
            continue;
        }
        for rule in data["rules"].as_array().into_iter().flatten() {
            let words = |name: &str| -> Vec<String> {
                let words = rule[name].as_array().into_iter().flatten();
                words.filter_map(Value::as_str).map(str::to_owned).collect()
            };
            for group in words("apiGroups") {
                for resource in words("resources") {
                    granted.extend(
                        words("verbs").into_iter().map(|verb| (verb, group.clone(), resource.clone())),
                    );
                }
            }
        }
    }
    Ok(granted)
}

/// A service, and an endpoint that the operator may run.
const SHOP: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: nsm-endpoint-workloads, namespace: shop}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: nsm-endpoint-workloads}
subjects: [{kind: ServiceAccount, name: nsm-operator, namespace: nsm-operator}]
---
apiVersion: networkservicemesh.io/v1
kind: NetworkService
metadata: {name: sales, namespace: shop}
spec: {payload: ETHERNET}
---
apiVersion: networkservicemesh.io/v1
kind: NetworkServiceEndpoint
metadata: {name: till, namespace: shop}
spec: {workload: {networkServices: [sales]}}";

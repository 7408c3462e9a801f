//! Objects that are made anew go on where the old ones were: a Service under its address, pods with tokens
//! of the account there is.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::{Pod, Service, ServiceAccount};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams},
};
use nsm_e2e::kubernetes::eventually;

use crate::stage::{MESH, Stage};

#[tokio::test]
async fn a_service_that_is_made_anew_keeps_its_address_and_one_that_is_taken_gets_another() {
    let mut stage = Stage::with_mesh().await.unwrap();
    stage.ready().await.unwrap();
    let services: Api<Service> = Api::namespaced(stage.client.clone(), MESH);
    let address = async |name: &str| {
        let service = services.get(name).await?;
        anyhow::Ok((service.uid(), service.spec.unwrap_or_default().cluster_ip.unwrap_or_default()))
    };
    let (mut uid, before) = address("registry").await.unwrap();
    for _ in 0..2 {
        services.delete("registry", &DeleteParams::default()).await.unwrap();
        let (anew, after) = eventually("the Service to be made again", async || {
            let now = address("registry").await?;
            ensure!(now.0 != uid, "the old one");
            Ok(now)
        })
        .await
        .unwrap();
        assert_eq!(after, before);
        uid = anew;
    }
    let status = stage.ready().await.unwrap();
    assert!(status.services.iter().any(|service| service.name == "registry" && service.cluster_ip == before));

    // Someone else has it by now.
    stage.stop_operator().await.unwrap();
    services.delete("registry", &DeleteParams::default()).await.unwrap();
    let thief = format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: thief, namespace: default}}, spec: {{clusterIP: {before}, ports: [{{port: 1}}]}}}}"
    );
    stage.apply(&thief).await.unwrap();
    stage.start_operator().unwrap();
    let (_, after) =
        eventually("the Service to be made again", async || address("registry").await).await.unwrap();
    assert_ne!(after, before);
    Api::<Service>::namespaced(stage.client.clone(), "default")
        .delete("thief", &DeleteParams::default())
        .await
        .unwrap();
    stage
        .config("the other address in the status", |config, _| {
            let known = config.status.iter().flat_map(|status| &status.services);
            let told = known.clone().any(|service| service.name == "registry" && service.cluster_ip == after);
            ensure!(told, "{:?}", known.collect::<Vec<_>>());
            Ok(())
        })
        .await
        .unwrap();
    stage.ready().await.unwrap();
}

/// Uids of pods, by name of their daemon and node.
async fn pods(stage: &Stage) -> Result<BTreeMap<String, Option<String>>> {
    let pods: Api<Pod> = Api::namespaced(stage.client.clone(), MESH);
    let mut found = BTreeMap::new();
    for pod in pods.list(&ListParams::default()).await? {
        let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
        let ready = conditions.into_iter().flatten().any(|one| one.type_ == "Ready" && one.status == "True");
        ensure!(ready && pod.metadata.deletion_timestamp.is_none(), "{} is not ready", pod.name_any());
        let name = pod.labels().get("app.kubernetes.io/name").cloned().unwrap_or_default();
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
        let key = format!("{name} {node}");
        // Of registries there are two, in the order of their names, and no scheduler gives them nodes.
        let key = if name == "registry" && found.contains_key(&key) { format!("{key}2") } else { key };
        let twice = found.insert(key, pod.uid());
        ensure!(twice.is_none(), "two of {name} on {node}");
    }
    // Two Deployments, one of them of two pods, and three daemons on two nodes.
    ensure!(found.len() == 9, "{found:#?}");
    Ok(found)
}

#[tokio::test]
async fn pods_with_a_token_of_an_account_that_was_made_anew_are_restarted_one_node_after_the_other() {
    let stage = Stage::with_mesh_and_controllers().await.unwrap();
    stage.add_node("w1").await.unwrap();
    stage.add_node("w2").await.unwrap();
    let before = eventually("all pods", async || pods(&stage).await).await.unwrap();
    stage.ready().await.unwrap();
    let mark = stage.audit.mark().await.unwrap();
    let accounts: Api<ServiceAccount> = Api::namespaced(stage.client.clone(), MESH);
    // Of the forwarder's account nobody has a token.
    for account in ["forwarder", "nsm-identity-authority", "nsmgr"] {
        accounts.delete(account, &DeleteParams::default()).await.unwrap();
    }
    let restarted = ["nsm-identity-authority ", "nsmgr w1", "nsmgr w2"];
    eventually("the restart", async || {
        let after = pods(&stage).await?;
        for (name, uid) in &after {
            let expected = restarted.contains(&name.as_str());
            ensure!((before.get(name) != Some(uid)) == expected, "{name}: {before:#?} {after:#?}");
        }
        Ok(())
    })
    .await
    .unwrap();
    stage.ready().await.unwrap();
    let moves =
        stage.audit.of(stage.account.user(), mark).await.unwrap().filter(|request| request.is_about("nodes"));
    let expected = ["w1", "w1", "w2", "w2", "w1", "w2"].map(|node| format!("patch nodes {node}"));
    assert_eq!(moves.words(), expected);
}

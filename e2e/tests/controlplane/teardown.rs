//! Removing a mesh while its nodes have connections: those are closed first, by the nodes.

use anyhow::{Result, ensure};
use k8s_openapi::api::{core::v1::Namespace, events::v1::Event};
use kube::{Api, api::ListParams};
use nsm_crds::{DesiredNode, NSMConfig, NSMNodeState};
use nsm_e2e::kubernetes::{Kubelet, Mark, eventually};
use serde_json::{Value, json};

use crate::{
    removal::{ORDER, gone},
    reports::report,
    stage::{CONFIG, MESH, OPERATOR, Stage},
};

/// A node's report, with its condition `Drained`, if it has one.
fn told(drained: Option<(&str, &str)>) -> Value {
    let conditions = drained.map(|(status, message)| {
        json!({
            "type": "Drained", "status": status, "reason": "Closing", "message": message,
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        })
    });
    json!({"connections": {"total": 1, "up": 1, "down": 0}, "conditions": conditions.into_iter().collect::<Vec<_>>()})
}

#[tokio::test]
async fn nodes_close_their_connections_before_anything_goes_and_one_that_does_not_answer_is_named_and_left() {
    let mut stage = Stage::with_mesh_and_controllers().await.unwrap();
    for node in ["node1", "node2"] {
        stage.add_node(node).await.unwrap();
        report(&stage, node, &told(None)).await.unwrap();
    }
    // Of a node that is gone: nobody is waited for.
    report(&stage, "node3", &told(None)).await.unwrap();
    stage.apply(&CONFIG.replace("{}", "{teardownTimeout: 1h}")).await.unwrap();
    stage.ready().await.unwrap();

    let mark = stage.audit.mark().await.unwrap();
    stage.plane.kubectl(&["delete", "nsm", "default", "--wait=false"]).unwrap();
    let nodes: Api<NSMNodeState> = Api::all(stage.client.clone());
    eventually("both nodes to be asked", async || {
        for node in ["node1", "node2"] {
            let desired = nodes.get(node).await?.spec.spec.desired;
            ensure!(desired == DesiredNode::Drained, "{node}: {desired:?}");
        }
        Ok(())
    })
    .await
    .unwrap();
    says(&stage, "close their connections: node1 (no answer yet), node2 (no answer yet)").await.unwrap();
    report(&stage, "node1", &told(Some(("False", "forwarder-node1 has 2 connections")))).await.unwrap();
    says(&stage, "node1 (forwarder-node1 has 2 connections), node2 (no answer yet)").await.unwrap();
    report(&stage, "node1", &told(Some(("True", "all connections are closed")))).await.unwrap();
    says(&stage, "close their connections: node2 (no answer yet)").await.unwrap();
    assert_eq!(deleted(&stage, mark).await.unwrap(), Vec::<String>::new(), "a node may still need it");

    // Its time is over. Pods do not end now, so that the first step is seen.
    stage.kubelet = None;
    stage.apply(&CONFIG.replace("{}", "{teardownTimeout: 1s}")).await.unwrap();
    says(&stage, "within spec.teardownTimeout (1s), and are left as they are: node2; run nsm purge")
        .await
        .unwrap();
    let events: Api<Event> = Api::namespaced(stage.client.clone(), OPERATOR);
    let event = eventually("the Event", async || {
        let all = events.list(&ListParams::default()).await?;
        let told = all.into_iter().find(|event| event.reason.as_deref() == Some("NodeNotDrained"));
        told.ok_or_else(|| anyhow::anyhow!("nobody is told"))
    })
    .await
    .unwrap();
    let note = event.note.unwrap_or_default();
    assert!(event.type_.as_deref() == Some("Warning") && note.contains("node2; run nsm purge"), "{note}");
    assert!(!note.contains("node1") && !note.contains("node3"), "{note}");
    assert_eq!(deleted(&stage, mark).await.unwrap(), ORDER[1..2], "what serves others goes later");

    stage.kubelet = Some(Kubelet::for_pods(stage.client.clone()));
    gone::<NSMConfig>(&Api::all(stage.client.clone()), &["default"]).await.unwrap();
    gone::<Namespace>(&Api::all(stage.client.clone()), &[MESH]).await.unwrap();
    assert_eq!(deleted(&stage, mark).await.unwrap(), ORDER[1..]);
}

/// A node keeps what was wanted of it while its mesh was removed, until another mesh has it.
#[tokio::test]
async fn a_node_whose_mesh_is_made_again_at_once_serves_again() {
    let stage = Stage::with_mesh_and_controllers().await.unwrap();
    let nodes: Api<NSMNodeState> = Api::all(stage.client.clone());
    report(&stage, "node1", &told(None)).await.unwrap();
    // As the garbage collector leaves it when it has not come to it yet.
    let other = json!({
        "metadata": {"ownerReferences": [{
            "apiVersion": "v1", "kind": "Namespace", "name": "default", "controller": true,
            "uid": Api::<Namespace>::all(stage.client.clone()).get("default").await.unwrap().metadata.uid,
        }]},
        "spec": {"desired": "Drained"},
    });
    stage
        .plane
        .kubectl(&["patch", "nsmnode", "node1", "--type=merge", "--patch", &other.to_string()])
        .unwrap();
    eventually("the node to serve, and be of this mesh", async || {
        let node = nodes.get("node1").await?;
        let owners = node.metadata.owner_references.clone().unwrap_or_default();
        ensure!(owners.iter().all(|owner| owner.kind == "NSMConfig"), "{owners:?}");
        ensure!(node.spec.spec.desired == DesiredNode::Serving, "{:?}", node.spec);
        Ok(())
    })
    .await
    .unwrap();
    // By hand it may be drained as long as somebody likes.
    let drained = json!({"spec": {"desired": "Drained"}}).to_string();
    stage.plane.kubectl(&["patch", "nsmnode", "node1", "--type=merge", "--patch", &drained]).unwrap();
    report(&stage, "node1", &json!({"connections": {"total": 3, "up": 3, "down": 0}})).await.unwrap();
    stage
        .config("the report to be seen", |config, _| {
            let counted = config.status.as_ref().map(|status| status.connections.counts.total);
            ensure!(counted == Some(3), "{counted:?}");
            Ok(())
        })
        .await
        .unwrap();
    assert_eq!(nodes.get("node1").await.unwrap().spec.spec.desired, DesiredNode::Drained);
}

/// Waits until the mesh says this while it is removed.
async fn says(stage: &Stage, words: &str) -> Result<()> {
    let holds = |_: &NSMConfig, ready: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition| {
        ensure!(ready.reason == "Deleting" && ready.message.contains(words), "{ready:?}");
        Ok(())
    };
    stage.config(words, holds).await.map(drop)
}

/// What the operator has deleted.
async fn deleted(stage: &Stage, mark: Mark) -> Result<Vec<String>> {
    let asked = stage.audit.of(stage.account.user(), mark).await?.granted();
    Ok(asked.filter(|request| request.verb == "delete").words())
}

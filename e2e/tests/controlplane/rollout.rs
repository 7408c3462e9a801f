//! Another revision of the node daemons: one node at a time, none ever with two of a kind, and back again
//! where it does not work.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use nsm_crds::NSMConfig;
use nsm_e2e::kubernetes::eventually;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::stage::{MESH, Stage, condition};

const LABEL: &str = "revision.node-restriction.kubernetes.io/nsm";
const REVISION: &str = "operator.networkservicemesh.io/daemon-revision";
const DAEMON: &str = "app.kubernetes.io/name";
const DAEMONS: usize = 3;

/// Pods of node daemons: by node and daemon, the revisions of those that are ready, and of all.
#[derive(Debug, Default, PartialEq, Eq)]
struct Running(BTreeMap<String, BTreeMap<String, Vec<(String, bool)>>>);

impl Running {
    async fn look(client: &Client) -> Result<Self> {
        let pods: Api<Pod> = Api::namespaced(client.clone(), MESH);
        let mut running = Self::default();
        for pod in pods.list(&ListParams::default().labels(REVISION)).await? {
            let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()) else { continue };
            let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
            let ready =
                conditions.into_iter().flatten().any(|one| one.type_ == "Ready" && one.status == "True");
            let ready = ready && pod.metadata.deletion_timestamp.is_none();
            let daemons = running.0.entry(node).or_default();
            let label = |name: &str| pod.labels().get(name).cloned().unwrap_or_default();
            daemons.entry(label(DAEMON)).or_default().push((label(REVISION), ready));
        }
        Ok(running)
    }

    /// Nodes with all of their daemons.
    fn whole(&self) -> BTreeSet<&str> {
        let all = |daemons: &BTreeMap<String, Vec<(String, bool)>>| {
            daemons.len() == DAEMONS && daemons.values().all(|pods| pods.iter().any(|(_, ready)| *ready))
        };
        self.0.iter().filter(|(_, daemons)| all(daemons)).map(|(node, _)| node.as_str()).collect()
    }

    fn revisions(&self, node: &str) -> BTreeSet<String> {
        let daemons = self.0.get(node).into_iter().flatten();
        daemons
            .flat_map(|(daemon, pods)| pods.iter().map(move |(revision, _)| format!("{daemon} {revision}")))
            .collect()
    }
}

/// Looks all the time until it is ended: how many nodes were without a daemon at once, and whether one had
/// two of a kind.
struct Watch(JoinHandle<Result<()>>);

impl Watch {
    fn start(client: Client, nodes: usize) -> Self {
        Self(tokio::spawn(async move {
            loop {
                let running = Running::look(&client).await?;
                let whole = running.whole().len();
                ensure!(whole + 1 >= nodes, "{whole} of {nodes} nodes have their daemons: {running:#?}");
                let twice = running.0.values().flat_map(BTreeMap::values).any(|pods| pods.len() > 1);
                ensure!(!twice, "two of a kind: {running:#?}");
            }
        }))
    }

    async fn end(self) -> Result<()> {
        self.0.abort();
        self.0.await.unwrap_or(Ok(()))
    }
}

async fn set(stage: &Stage, spec: Value) {
    let configs: Api<NSMConfig> = Api::all(stage.client.clone());
    configs.patch("default", &PatchParams::default(), &Patch::Merge(json!({"spec": spec}))).await.unwrap();
}

async fn whole(stage: &Stage, nodes: &[&str]) -> Running {
    eventually("all daemons of all nodes", async || {
        let running = Running::look(&stage.client).await?;
        ensure!(running.whole() == nodes.iter().copied().collect(), "{running:#?}");
        Ok(running)
    })
    .await
    .unwrap()
}

async fn labels(stage: &Stage) -> BTreeMap<String, String> {
    let nodes = Api::<Node>::all(stage.client.clone()).list(&ListParams::default()).await.unwrap();
    nodes.iter().filter_map(|node| Some((node.name_any(), node.labels().get(LABEL)?.clone()))).collect()
}

#[tokio::test]
async fn another_revision_reaches_one_node_after_the_other_and_one_that_fails_goes_back() {
    let mut stage = Stage::with_mesh_and_controllers().await.unwrap();
    for node in ["w1", "w2", "w3"] {
        stage.add_node(node).await.unwrap();
    }
    let before = whole(&stage, &["w1", "w2", "w3"]).await;
    stage.ready().await.unwrap();

    let mark = stage.audit.mark().await.unwrap();
    let watch = Watch::start(stage.client.clone(), 3);
    set(&stage, json!({"logLevel": "DEBUG"})).await;
    stage
        .config("a node to be moved", |config, ready| {
            let rollout =
                config.status.as_ref().and_then(|status| status.rollout.clone()).unwrap_or_default();
            ensure!((rollout.nodes, rollout.done) == (3, 1), "{rollout:?}");
            ensure!(ready.message.contains("runs on 1 of 3 nodes"), "{}", ready.message);
            Ok(())
        })
        .await
        .unwrap();
    // Who takes over goes on from there.
    drop(stage.operator.take());
    stage.start_operator().unwrap();
    let status = stage.ready().await.unwrap();
    watch.end().await.unwrap();
    assert_eq!(status.rollout, None);
    let after = whole(&stage, &["w1", "w2", "w3"]).await;
    for node in ["w1", "w2", "w3"] {
        assert!(after.revisions(node).is_disjoint(&before.revisions(node)), "{after:#?}");
        assert_eq!(after.revisions(node), after.revisions("w1"));
    }
    assert_eq!(labels(&stage).await, BTreeMap::new());
    assert_eq!(stage.daemon_sets().await.unwrap().len(), DAEMONS);
    let written = stage.audit.of(stage.account.user(), mark).await.unwrap().writes();
    let moves = written.filter(|request| request.is_about("nodes")).words();
    let expected =
        ["w1", "w1", "w2", "w2", "w3", "w3", "w1", "w2", "w3"].map(|node| format!("patch nodes {node}"));
    assert_eq!(moves, expected);

    // One that does not work is taken back from its node; what joins has what works.
    set(&stage, json!({"manager": {"overrides": {"spec": {"containers": [{"name": "nsmgr", "image": "nsm.local/nsm:broken"}]}}}}))
        .await;
    let status = stage
        .config("the rollout to stop", |config, ready| {
            ensure!(ready.reason == "RolloutHalted" && ready.message.contains("node w1"), "{ready:?}");
            config.status.clone().ok_or_else(|| anyhow::anyhow!("no status"))?;
            Ok(())
        })
        .await
        .unwrap();
    assert_eq!(condition(&status.conditions, "Stalled").unwrap().reason, "RolloutHalted");
    assert_eq!(status.rollout.unwrap().failed_node.as_deref(), Some("w1"));
    stage.add_node("w4").await.unwrap();
    let back = whole(&stage, &["w1", "w2", "w3", "w4"]).await;
    for node in ["w1", "w2", "w3", "w4"] {
        assert_eq!(back.revisions(node), after.revisions("w1"), "{node}");
    }
    assert_eq!(labels(&stage).await, BTreeMap::new());
    // Whoever leads next knows of it.
    drop(stage.operator.take());
    stage.start_operator().unwrap();
    let watch = Watch::start(stage.client.clone(), 4);
    set(&stage, json!({"manager": null, "logLevel": null})).await;
    stage.ready().await.unwrap();
    watch.end().await.unwrap();
    let last = whole(&stage, &["w1", "w2", "w3", "w4"]).await;
    assert_eq!(last.revisions("w4"), before.revisions("w1"));
}

#[tokio::test]
async fn the_operator_alone_says_which_revision_runs_on_a_node_and_changes_nothing_else_of_it() {
    let mut stage = Stage::with_mesh().await.unwrap();
    stage.add_node("w1").await.unwrap();
    stage.stop_operator().await.unwrap();
    let operator: Api<Node> = Api::all(stage.account.client().await.unwrap());
    let admin: Api<Node> = Api::all(stage.client.clone());
    let label = |value: Value| Patch::Merge(json!({"metadata": {"labels": {LABEL: value}}}));
    let params = PatchParams::default();
    eventually("the policy in force", async || {
        let error = admin.patch("w1", &params, &label("new".into())).await.err();
        ensure!(error.is_some(), "an administrator has set the label");
        Ok(())
    })
    .await
    .unwrap();
    let refused = |result: Result<Node, kube::Error>, parts: &[&str]| {
        let message = result.expect_err("refused").to_string();
        for part in parts {
            assert!(message.contains(part), "{part} in {message}");
        }
    };
    let field = format!("metadata.labels[{LABEL}] of Node w1");
    let me = "system:serviceaccount:nsm-operator:nsm-operator";
    let alone = format!("only {me} changes it");
    refused(
        admin.patch("w1", &params, &label("new".into())).await,
        &[&field, "given as new", "allowed is none", &alone],
    );
    refused(admin.patch_status("w1", &params, &label("new".into())).await, &[&field, &alone]);
    let born = json!({"metadata": {"name": "w2", "labels": {LABEL: "new"}}});
    let born = admin.create(&PostParams::default(), &serde_json::from_value(born).unwrap()).await;
    refused(born, &["of Node w2", "given as new", "allowed is none"]);

    for value in ["handover", "draining", "new"] {
        operator.patch("w1", &params, &label(value.into())).await.unwrap();
    }
    refused(
        admin.patch("w1", &params, &label(Value::Null)).await,
        &[&field, "given as none", "allowed is new"],
    );
    refused(
        operator.patch("w1", &params, &label("old".into())).await,
        &["given as old", "none, handover, draining and new"],
    );
    for more in [
        json!({"metadata": {"labels": {"a": "b"}}}),
        json!({"metadata": {"labels": {"a": "b", LABEL: "draining"}}}),
        json!({"metadata": {"annotations": {"a": "b"}}}),
        json!({"spec": {"unschedulable": true}}),
    ] {
        let result = operator.patch("w1", &params, &Patch::Merge(more)).await;
        refused(result, &["more of Node w1 is given than metadata.labels", me]);
    }
    operator.patch("w1", &params, &label(Value::Null)).await.unwrap();
    // Others change everything else, as before.
    let other = Patch::Merge(
        json!({"metadata": {"labels": {"a": "b"}, "annotations": {"a": "b"}}, "spec": {"unschedulable": true}}),
    );
    admin.patch("w1", &params, &other).await.unwrap();
}

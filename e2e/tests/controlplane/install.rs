//! The first installation: in order, with the operator's own rights, and no write too many.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use kube::{Api, ResourceExt, api::ListParams};
use nsm_e2e::kubernetes::{Kubelet, eventually, without_revision};

use crate::stage::{CONFIG, MESH, NODES, Stage};

/// Workloads in the order in which they start, and whether they run on each node.
const WORKLOADS: [(&str, bool); 5] = [
    ("nsm-identity-authority", false),
    ("nsm-identity-agent", true),
    ("registry", false),
    ("nsmgr", true),
    ("forwarder", true),
];

/// The mark of the NSMConfig; one namespace, thirteen of accounts and bindings, two Services, five
/// workloads, and how many registries may be away.
const OBJECTS: usize = 23;

#[tokio::test]
async fn a_mesh_is_installed_tier_by_tier_with_one_write_an_object() {
    let mut stage = Stage::installed().await.unwrap();
    let mark = stage.audit.mark().await.unwrap();
    stage.start_operator().unwrap();
    stage.apply(CONFIG).await.unwrap();
    for (number, (name, on_nodes)) in WORKLOADS.into_iter().enumerate() {
        let expected: Vec<_> = WORKLOADS[..=number].iter().map(|(name, _)| (*name).to_owned()).collect();
        eventually("the next tier", async || {
            let there = workloads(&stage).await?;
            ensure!(there.len() > number, "only {there:?}");
            Ok(())
        })
        .await
        .unwrap();
        // The status tells that this tier is what the rest waits for, so the operator is done here.
        stage
            .config("the tier in the status", |_, ready| {
                ensure!(
                    ready.reason == "Progressing" && ready.message.starts_with(name),
                    "{}",
                    ready.message
                );
                Ok(())
            })
            .await
            .unwrap();
        let mut there = workloads(&stage).await.unwrap();
        there.sort_by_key(|name| WORKLOADS.iter().position(|(known, _)| known == name));
        assert_eq!(there, expected, "a later tier began before {name} was ready");
        if on_nodes {
            let set = stage.daemon_set(name).await.unwrap().name_any();
            Kubelet::run_daemon_set(&stage.client, MESH, &set, NODES, NODES).await.unwrap();
        } else {
            Kubelet::run_deployment(&stage.client, MESH, name).await.unwrap();
        }
    }
    let status = stage.ready().await.unwrap();
    let counts: Vec<_> = status
        .components
        .iter()
        .map(|component| (component.name.as_str(), component.desired, component.ready))
        .collect();
    let expected = WORKLOADS.map(|(name, on_nodes)| match name {
        "registry" => (name, 2, 2),
        name if on_nodes => (name, NODES, NODES),
        name => (name, 1, 1),
    });
    assert_eq!(counts, expected);
    let table = stage.plane.kubectl(&["get", "nsm"]).unwrap();
    let mut rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    assert_eq!(rows.next().unwrap(), ["NAME", "READY", "NODES", "CONNS", "DOWN", "AGE"]);
    assert_eq!(rows.next().unwrap()[..5], ["default", "True", "2", "0", "0"]);

    let asked = stage.audit.of(stage.account.user(), mark).await.unwrap().writes();
    let granted = asked.clone().granted();
    let objects = granted.clone().filter(|request| !request.is_status());
    let distinct: BTreeSet<_> = objects.words().into_iter().collect();
    assert_eq!((objects.count(), distinct.len()), (OBJECTS, OBJECTS), "{:#?}", asked.words());
    // One when it begins, one a workload that became ready. The right to write in the mesh's
    // namespace may count only a moment after it was granted; then the status tells of waiting.
    let waited = usize::from(asked.count() > granted.count());
    let statuses = granted.count() - objects.count();
    assert_eq!(statuses, 1 + WORKLOADS.len() + waited, "{:#?}", asked.words());
}

/// Names of the workloads there are.
async fn workloads(stage: &Stage) -> Result<Vec<String>> {
    let all = ListParams::default();
    let deployments = Api::<Deployment>::namespaced(stage.client.clone(), MESH).list(&all).await?;
    let daemons = stage.daemon_sets().await?;
    Ok(deployments
        .iter()
        .map(ResourceExt::name_any)
        .chain(daemons.iter().map(|set| without_revision(&set.name_any()).to_owned()))
        .collect())
}

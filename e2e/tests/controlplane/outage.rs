//! The API server dies and comes back.

use anyhow::ensure;
use k8s_openapi::api::{
    apps::v1::DaemonSet,
    core::v1::{Service, ServiceAccount},
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams},
};
use nix::sys::signal::{Signal, kill};
use nsm_e2e::kubernetes::eventually;
use serde_json::json;

use crate::stage::{CONFIG, MESH, Stage};

/// Requests that coming back may take: for each of thirteen kinds a watch or two that end early, a
/// list and a new watch.
const MOST_REQUESTS: usize = 13 * 6;

/// Workloads that new settings change, and the old revisions of three of them, which go.
const WORKLOADS: usize = 5 + 3;

#[tokio::test]
async fn the_operator_outlives_the_api_server_and_repairs_what_changed_meanwhile() {
    let mut stage = Stage::with_own_mesh().await.unwrap();
    let daemons: Api<DaemonSet> = Api::namespaced(stage.client.clone(), MESH);
    let services: Api<Service> = Api::namespaced(stage.client.clone(), MESH);
    // What the operator has just written it must not take for there when the list says otherwise.
    services.delete("registry", &DeleteParams::default()).await.unwrap();
    eventually("the Service to be made again", async || Ok(services.get("registry").await?)).await.unwrap();
    let nsmgr = stage.daemon_set("nsmgr").await.unwrap().name_any();
    let mark = stage.audit.mark().await.unwrap();
    stage.plane.restart_api().unwrap();
    // The watches of the operator are not open again yet.
    let image = json!({"spec": {"template": {"spec": {"containers": [{"name": "nsmgr", "image": "evil.example/nsm:1"}]}}}});
    eventually("an edit", async || {
        Ok(daemons.patch(&nsmgr, &PatchParams::default(), &Patch::Strategic(&image)).await?)
    })
    .await
    .unwrap();
    services.delete("registry", &DeleteParams::default()).await.unwrap();

    eventually("the image to be put back", async || {
        let spec = serde_json::to_string(&daemons.get(&nsmgr).await?.spec)?;
        ensure!(!spec.contains("evil.example"), "{spec}");
        Ok(())
    })
    .await
    .unwrap();
    eventually("the Service to be made again", async || Ok(services.get("registry").await?)).await.unwrap();
    // The watches of our own kinds come back last: the API server has to learn these first.
    stage.apply(&CONFIG.replace("{}", "{logLevel: DEBUG}")).await.unwrap();
    eventually("the new settings", async || {
        let spec = serde_json::to_string(&stage.daemon_set("forwarder").await?.spec)?;
        ensure!(spec.contains("DEBUG"), "{spec}");
        Ok(())
    })
    .await
    .unwrap();
    stage.ready().await.unwrap();

    let asked = stage.audit.of(stage.account.user(), mark).await.unwrap();
    // How often a status is written meanwhile depends on how fast the machine is.
    let reads = asked.clone().filter(|request| ["get", "list", "watch"].contains(&request.verb.as_str()));
    assert!(reads.count() <= MOST_REQUESTS, "{} requests: {:#?}", reads.count(), asked.words());
    let mut written = asked.writes().granted().filter(|request| !request.is_status()).words();
    let mut of_settings = written.split_off(2);
    written.sort();
    assert_eq!(written, ["patch daemonsets nsm-system/nsmgr", "patch services nsm-system/registry"]);
    of_settings.sort();
    of_settings.dedup();
    assert_eq!(of_settings.len(), WORKLOADS, "{of_settings:?}");
    stage.operator.as_mut().unwrap().ensure_running().unwrap();
}

#[tokio::test]
async fn an_etcd_that_stands_still_costs_the_lead_and_nothing_else() {
    let mut stage = Stage::with_own_mesh().await.unwrap();
    let accounts: Api<ServiceAccount> = Api::namespaced(stage.client.clone(), MESH);
    let mark = stage.audit.mark().await.unwrap();
    let etcd = stage.plane.etcd().unwrap();
    kill(etcd, Signal::SIGSTOP).unwrap();
    let lost = eventually("the lead to be lost", async || {
        ensure!(stage.operator.as_ref().unwrap().log().contains("does not lead any more"), "it leads");
        Ok(())
    })
    .await;
    kill(etcd, Signal::SIGCONT).unwrap();
    lost.unwrap();
    let label = "app.kubernetes.io/part-of";
    let unlabelled = Patch::Merge(json!({"metadata": {"labels": {label: null}}}));
    eventually("an edit", async || Ok(accounts.patch("nsmgr", &PatchParams::default(), &unlabelled).await?))
        .await
        .unwrap();
    eventually("the label to be put back", async || {
        ensure!(accounts.get("nsmgr").await?.labels().contains_key(label), "it is not there");
        Ok(())
    })
    .await
    .unwrap();
    stage.ready().await.unwrap();
    let written = stage.audit.of(stage.account.user(), mark).await.unwrap().writes().granted();
    let objects = written.filter(|request| !request.is_status());
    assert_eq!(objects.words(), ["patch serviceaccounts nsm-system/nsmgr"]);
    stage.operator.as_mut().unwrap().ensure_running().unwrap();
}

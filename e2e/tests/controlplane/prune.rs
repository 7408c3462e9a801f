//! Most of a mesh is never deleted at once by mistake.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::{
    Api, Resource, ResourceExt,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use nsm_crds::NSMConfig;
use nsm_e2e::kubernetes::eventually;
use serde_json::json;

use crate::stage::{MESH, Stage, condition};

/// More objects than a mesh has.
const MANY: usize = 25;

#[tokio::test]
async fn more_than_half_of_a_mesh_is_not_deleted_until_someone_says_how_many_objects_that_are() {
    let mut stage = Stage::with_mesh().await.unwrap();
    stage.ready().await.unwrap();
    // They come all at once for an operator that was away.
    stage.stop_operator().await.unwrap();
    let configs: Api<NSMConfig> = Api::all(stage.client.clone());
    let owner = configs.get("default").await.unwrap().controller_owner_ref(&()).unwrap();
    let accounts: Api<ServiceAccount> = Api::namespaced(stage.client.clone(), MESH);
    let real = accounts.get("nsmgr").await.unwrap();
    for number in 0..MANY {
        let metadata = json!({
            "name": format!("stray-{number}"), "labels": real.labels(), "ownerReferences": [owner],
        });
        let stray = serde_json::from_value(json!({"metadata": metadata})).unwrap();
        accounts.create(&PostParams::default(), &stray).await.unwrap();
    }
    let strays = async || -> Result<usize> {
        let all = accounts.list(&ListParams::default()).await?;
        Ok(all.iter().filter(|account| account.name_any().starts_with("stray-")).count())
    };
    let mark = stage.audit.mark().await.unwrap();
    stage.start_operator().unwrap();
    let status = stage
        .config("the objects to be held", |config, _| {
            let status = config.status.as_ref().context("no status")?;
            let stalled = condition(&status.conditions, "Stalled")?;
            ensure!(stalled.reason == "PruneHeld" && stalled.status == "True", "{stalled:?}");
            Ok(())
        })
        .await
        .unwrap();
    let message = &condition(&status.conditions, "Stalled").unwrap().message;
    for part in ["25 objects", "ServiceAccount nsm-system/stray-0", "allow-prune to 25"] {
        assert!(message.contains(part), "{part} in {message}");
    }
    assert_eq!(strays().await.unwrap(), MANY);
    let allow = |count: usize| {
        Patch::Merge(
            json!({"metadata": {"annotations": {"operator.networkservicemesh.io/allow-prune": count.to_string()}}}),
        )
    };
    // The mesh is looked after all the same.
    let label = "app.kubernetes.io/part-of";
    let edit = Patch::Merge(json!({"metadata": {"labels": {label: null}}}));
    accounts.patch("nsmgr", &PatchParams::default(), &edit).await.unwrap();
    eventually("an edit to be put back", async || {
        ensure!(accounts.get("nsmgr").await?.labels().contains_key(label), "it is not");
        Ok(())
    })
    .await
    .unwrap();
    let written = stage.audit.of(stage.account.user(), mark).await.unwrap().writes();
    written.filter(|request| request.verb == "delete").ensure_none("deleted without leave").unwrap();

    configs.patch("default", &PatchParams::default(), &allow(MANY)).await.unwrap();
    eventually("the objects to be gone", async || {
        let left = strays().await?;
        ensure!(left == 0, "{left} are left");
        Ok(())
    })
    .await
    .unwrap();
    let unset = Patch::Merge(
        json!({"metadata": {"annotations": {"operator.networkservicemesh.io/allow-prune": null}}}),
    );
    configs.patch("default", &PatchParams::default(), &unset).await.unwrap();
    stage.ready().await.unwrap();
}

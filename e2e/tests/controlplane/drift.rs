//! What someone edits of the mesh is put back, with one write each.

use anyhow::{Result, ensure};
use k8s_openapi::api::{
    apps::v1::{DaemonSet, Deployment},
    core::v1::{Service, ServiceAccount},
    rbac::v1::ClusterRoleBinding,
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams},
};
use nsm_e2e::kubernetes::eventually;
use serde_json::{Value, json};

use crate::stage::{MESH, Stage};

/// An edit as `kubectl edit` makes it.
fn edit(change: Value) -> Patch<Value> {
    Patch::Strategic(change)
}

#[tokio::test]
async fn every_edit_of_the_mesh_is_put_back_with_one_write() {
    let stage = Stage::with_mesh().await.unwrap();
    let user = PatchParams { field_manager: Some("kubectl-edit".into()), ..PatchParams::default() };
    let daemons: Api<DaemonSet> = Api::namespaced(stage.client.clone(), MESH);
    let deployments: Api<Deployment> = Api::namespaced(stage.client.clone(), MESH);
    let services: Api<Service> = Api::namespaced(stage.client.clone(), MESH);
    let accounts: Api<ServiceAccount> = Api::namespaced(stage.client.clone(), MESH);
    let bindings: Api<ClusterRoleBinding> = Api::all(stage.client.clone());

    let mark = stage.audit.mark().await.unwrap();
    let image = edit(pod_of("nsmgr", json!({"image": "evil.example/nsm:1"})));
    let nsmgr = stage.daemon_set("nsmgr").await.unwrap().name_any();
    daemons.patch(&nsmgr, &user, &image).await.unwrap();
    eventually("the image to be put back", async || {
        let image = &containers(&json(&daemons.get(&nsmgr).await?)?)["image"];
        ensure!(image == "nsm.local/nsm:dev", "{image}");
        Ok(())
    })
    .await
    .unwrap();

    let env = edit(pod_of("registry", json!({"env": [{"name": "NSM_LOG_LEVEL", "value": "TRACE"}]})));
    deployments.patch("registry", &user, &env).await.unwrap();
    eventually("the variable to be put back", async || {
        let env = containers(&json(&deployments.get("registry").await?)?)["env"].to_string();
        ensure!(env.contains(r#""value":"INFO""#) && !env.contains("TRACE"), "{env}");
        Ok(())
    })
    .await
    .unwrap();

    services.delete("registry", &DeleteParams::default()).await.unwrap();
    eventually("the Service to be made again", async || Ok(services.get("registry").await?)).await.unwrap();

    let label = "app.kubernetes.io/part-of";
    let unlabelled = Patch::Merge(json!({"metadata": {"labels": {label: null}}}));
    accounts.patch("forwarder", &user, &unlabelled).await.unwrap();
    eventually("the label to be put back", async || {
        ensure!(accounts.get("forwarder").await?.labels().contains_key(label), "it is not there");
        Ok(())
    })
    .await
    .unwrap();

    let subjects = Patch::Merge(json!({"subjects": []}));
    bindings.patch("nsm-nsmgr", &user, &subjects).await.unwrap();
    eventually("the binding to be put back", async || {
        ensure!(bindings.get("nsm-nsmgr").await?.subjects.is_some_and(|some| some.len() == 1), "no subject");
        Ok(())
    })
    .await
    .unwrap();
    stage.ready().await.unwrap();

    let written = stage.audit.of(stage.account.user(), mark).await.unwrap().writes();
    let objects = written.clone().filter(|request| !request.is_status()).words();
    assert_eq!(
        objects,
        [
            "patch daemonsets nsm-system/nsmgr",
            "patch deployments nsm-system/registry",
            "patch services nsm-system/registry",
            "patch serviceaccounts nsm-system/forwarder",
            "patch clusterrolebindings nsm-nsmgr",
        ]
    );
    // A workload that changes is not ready until its nodes say so: at most there and back for both
    // the edit and what puts it back.
    let statuses = written.count() - objects.len();
    assert!(statuses <= 8, "{statuses} writes of the status: {:#?}", written.words());
}

#[tokio::test]
async fn an_object_without_the_operators_mark_is_not_taken_over_but_named() {
    let stage = Stage::with_mesh().await.unwrap();
    let services: Api<Service> = Api::namespaced(stage.client.clone(), MESH);
    let label = "app.kubernetes.io/managed-by";
    let mark = |value: Value| Patch::Merge(json!({"metadata": {"labels": {label: value}}}));
    services.patch("registry", &PatchParams::default(), &mark(Value::Null)).await.unwrap();
    let advice = "Service nsm-system/registry exists and is not the operator's";
    stage
        .config("the object to be named", |_, ready| {
            ensure!(ready.reason == "ApplyFailed" && ready.message.contains(advice), "{}", ready.message);
            Ok(())
        })
        .await
        .unwrap();
    services.patch("registry", &PatchParams::default(), &mark("nsm-operator".into())).await.unwrap();
    stage.ready().await.unwrap();
}

/// A change of one container in the template of a workload.
fn pod_of(container: &str, mut change: Value) -> Value {
    change["name"] = container.into();
    json!({"spec": {"template": {"spec": {"containers": [change]}}}})
}

fn json(object: &impl serde::Serialize) -> Result<Value> {
    Ok(serde_json::to_value(object)?)
}

/// The one container of a workload.
fn containers(workload: &Value) -> Value {
    workload["spec"]["template"]["spec"]["containers"][0].clone()
}

//! What is laid over pod templates, and forwarders on nodes of their own.

use anyhow::{Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
};
use nsm_crds::NSMConfig;
use nsm_e2e::kubernetes::{eventually, file, repository, without_revision};
use serde_json::{Value, json};

use crate::stage::{MESH, Stage};

#[tokio::test]
async fn overrides_are_asked_about_before_anything_is_written() {
    let stage = Stage::with_mesh().await.unwrap();
    stage.ready().await.unwrap();
    let manager = |part: Value| json!({"manager": {"overrides": {"spec": part}}, "logLevel": "DEBUG"});
    let container = |part: Value| {
        let mut container = json!({"name": "nsmgr"});
        container.as_object_mut().unwrap().extend(part.as_object().unwrap().clone());
        manager(json!({"containers": [container]}))
    };
    for (spec, told) in [
        (manager(json!({"hostnetwork": true})), ".hostnetwork: field not declared in schema"),
        (container(json!({"image": ""})), "image: Required value"),
        (container(json!({"env": [{"name": "a b=", "value": "c"}]})), "a b="),
        (manager(json!({"containers": [{"name": "Not A Name", "image": "i"}]})), "Not A Name"),
        (manager(json!({"restartPolicy": "Never"})), "restartPolicy"),
        // What the server would write differently would be written for ever.
        (
            container(json!({"resources": {"requests": {"cpu": "0.5"}}})),
            "cpu has another value; write it as the server does",
        ),
        (manager(json!({"hostIPC": false})), "hostIPC"),
    ] {
        let mark = stage.audit.mark().await.unwrap();
        set(&stage, &spec).await;
        stage
            .config("the overrides to be refused", |config, ready| {
                ensure!(ready.reason == "InvalidConfig" && ready.message.contains(told), "{told}: {ready:?}");
                ensure!(ready.observed_generation == config.metadata.generation, "of an older generation");
                Ok(())
            })
            .await
            .unwrap();
        let asked = stage.audit.of(stage.account.user(), mark).await.unwrap().writes();
        let dry = asked.clone().filter(|request| request.uri.contains("dryRun"));
        assert_eq!(dry.count(), 1, "{:#?}", dry.words());
        let written = asked.filter(|request| !request.is_status() && !request.uri.contains("dryRun"));
        written.ensure_none("written with overrides that cannot be").unwrap();
        set(&stage, &json!({"manager": null, "logLevel": null})).await;
        stage.ready().await.unwrap();
    }
}

#[tokio::test]
async fn the_sample_of_all_settings_is_a_mesh_and_a_forwarder_that_is_dropped_is_removed() {
    let stage = Stage::with_mesh().await.unwrap();
    let sample = file(&repository().join("config/samples/nsmconfig-full.yaml")).unwrap().remove(0);
    let spec = sample.data["spec"].clone();
    set(&stage, &spec).await;
    stage.ready().await.unwrap();
    assert_eq!(
        daemons(&stage).await.unwrap(),
        ["forwarder", "forwarder-fast", "nsm-identity-agent", "nsmgr"]
    );
    let nsmgr = serde_json::to_value(stage.daemon_set("nsmgr").await.unwrap()).unwrap();
    let env = nsmgr["spec"]["template"]["spec"]["containers"][0]["env"].as_array().unwrap().clone();
    assert!(env.contains(&json!({"name": "NSM_MAX_REQUESTS_IN_FLIGHT", "value": "512"})), "{env:?}");
    assert!(env.iter().any(|variable| variable["name"] == "NSM_NAME"), "{env:?}");
    let fast = serde_json::to_value(stage.daemon_set("forwarder-fast").await.unwrap()).unwrap();
    let pod = &fast["spec"]["template"]["spec"];
    assert_eq!(pod["nodeSelector"], json!({"example.com/pool": "fast"}));
    assert_eq!(pod["containers"][0]["resources"]["requests"], json!({"cpu": "1", "memory": "32Mi"}));
    let registry = Api::<Deployment>::namespaced(stage.client.clone(), MESH).get("registry").await.unwrap();
    assert_eq!(registry.spec.unwrap().template.spec.unwrap().tolerations.unwrap().len(), 1);

    let mark = stage.audit.mark().await.unwrap();
    let only = json!([{"name": "forwarder", "nodeSelector": {"example.com/pool": "general"}}]);
    set(&stage, &json!({"forwarders": only})).await;
    eventually("the forwarder that is dropped to be gone", async || {
        let there = daemons(&stage).await?;
        ensure!(there == ["forwarder", "nsm-identity-agent", "nsmgr"], "{there:?}");
        Ok(())
    })
    .await
    .unwrap();
    stage.ready().await.unwrap();
    let written = stage.audit.of(stage.account.user(), mark).await.unwrap().writes();
    let written = written.filter(|request| !request.is_status()).words();
    assert_eq!(written, ["delete daemonsets nsm-system/forwarder-fast"]);

    let empty: serde_json::Map<_, _> =
        spec.as_object().unwrap().keys().map(|name| (name.clone(), Value::Null)).collect();
    set(&stage, &Value::Object(empty)).await;
    stage.ready().await.unwrap();
}

async fn set(stage: &Stage, spec: &Value) {
    let configs: Api<NSMConfig> = Api::all(stage.client.clone());
    let change = Patch::Merge(json!({"spec": spec}));
    configs.patch("default", &PatchParams::default(), &change).await.unwrap();
}

/// Names of all DaemonSets.
async fn daemons(stage: &Stage) -> Result<Vec<String>> {
    let daemons = stage.daemon_sets().await?;
    let mut names: Vec<_> = daemons.iter().map(|set| without_revision(&set.name_any()).to_owned()).collect();
    names.sort();
    Ok(names)
}

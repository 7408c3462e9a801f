//! An API server that refuses for a while, or has forgotten; and clocks that are wrong.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::{Result, ensure};
use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{Service, ServiceAccount},
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams},
};
use nsm_crds::NSMConfig;
use nsm_e2e::kubernetes::{Fate, Mark, Operator, Proxy, eventually};
use serde_json::json;

use crate::stage::{MESH, OPERATOR, Stage};

/// Refusals after which a storm is over: some of each watch, and of the Lease.
const STORM: usize = 50;

const LABEL: &str = "app.kubernetes.io/part-of";

/// A mesh whose operator reaches the API server by way of a proxy.
async fn proxied() -> Result<(Stage, Proxy)> {
    let mut stage = Stage::with_mesh().await?;
    stage.ready().await?;
    stage.stop_operator().await?;
    let proxy = Proxy::start(&stage.plane).await?;
    let account = stage.account.through(&proxy)?;
    stage.operator = Some(Operator::start(&stage.plane, &account, "operator-proxied")?);
    edit(&stage).await?;
    repaired(&stage).await?;
    Ok((stage, proxy))
}

/// Deletes one object of the mesh and edits another.
async fn edit(stage: &Stage) -> Result<()> {
    let services: Api<Service> = Api::namespaced(stage.client.clone(), MESH);
    services.delete("registry", &DeleteParams::default()).await?;
    let accounts: Api<ServiceAccount> = Api::namespaced(stage.client.clone(), MESH);
    let edit = Patch::Merge(json!({"metadata": {"labels": {LABEL: null}}}));
    accounts.patch("nsmgr", &PatchParams::default(), &edit).await?;
    Ok(())
}

async fn repaired(stage: &Stage) -> Result<()> {
    let services: Api<Service> = Api::namespaced(stage.client.clone(), MESH);
    let accounts: Api<ServiceAccount> = Api::namespaced(stage.client.clone(), MESH);
    eventually("both to be as they were", async || {
        services.get("registry").await?;
        ensure!(accounts.get("nsmgr").await?.labels().contains_key(LABEL), "the label is not there");
        Ok(())
    })
    .await?;
    stage.ready().await.map(|_| ())
}

/// What the operator has written but for status.
async fn written(stage: &Stage, mark: Mark) -> Result<Vec<String>> {
    let written = stage.audit.of(stage.account.user(), mark).await?.writes().granted();
    let mut words = written.filter(|request| !request.is_status()).words();
    words.sort();
    Ok(words)
}

const REPAIRS: [&str; 2] = ["patch serviceaccounts nsm-system/nsmgr", "patch services nsm-system/registry"];

#[tokio::test]
async fn storms_of_refusals_end_with_what_was_to_be_repaired_and_nothing_else() {
    let (mut stage, proxy) = proxied().await.unwrap();
    // Of one object more repairs would be taken for a fight.
    let retry = |number: u16| {
        Patch::Merge(
            json!({"metadata": {"annotations": {"operator.networkservicemesh.io/retry": number.to_string()}}}),
        )
    };
    let configs: Api<NSMConfig> = Api::all(stage.client.clone());
    for code in [429, 503, 403] {
        configs.patch("default", &PatchParams::default(), &retry(code)).await.unwrap();
        stage.ready().await.unwrap();
        let mark = stage.audit.mark().await.unwrap();
        let refused = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&refused);
        proxy.judge(move |_, _| {
            count.fetch_add(1, Ordering::Relaxed);
            Fate::Refuse(code)
        });
        proxy.cut();
        edit(&stage).await.unwrap();
        eventually("a storm", async || {
            let refused = refused.load(Ordering::Relaxed);
            ensure!(refused >= STORM, "{refused} refusals");
            Ok(())
        })
        .await
        .unwrap();
        proxy.judge(|_, _| Fate::Pass);
        repaired(&stage).await.unwrap();
        assert_eq!(written(&stage, mark).await.unwrap(), REPAIRS, "after {code}");
        stage.operator.as_mut().unwrap().ensure_running().unwrap();
    }

    // What alone is refused is told of, in the API server's words, until it is not.
    configs.patch("default", &PatchParams::default(), &retry(0)).await.unwrap();
    proxy.judge(|method, uri| {
        let refused = *method == http::Method::PATCH && uri.path().contains("/services/");
        if refused { Fate::Refuse(503) } else { Fate::Pass }
    });
    edit(&stage).await.unwrap();
    stage
        .config("the refusal in the status", |_, ready| {
            let told = ready.message.contains("Service nsm-system/registry")
                && ready.message.contains("a storm of the test");
            ensure!(ready.reason == "ApplyFailed" && told, "{ready:?}");
            Ok(())
        })
        .await
        .unwrap();
    proxy.judge(|_, _| Fate::Pass);
    repaired(&stage).await.unwrap();
}

#[tokio::test]
async fn watches_whose_past_is_forgotten_list_anew_and_nothing_is_deleted() {
    let (mut stage, proxy) = proxied().await.unwrap();
    let mark = stage.audit.mark().await.unwrap();
    let rewound: Arc<Mutex<HashSet<String>>> = Arc::default();
    let seen = Arc::clone(&rewound);
    proxy.judge(move |_, uri| {
        let watch = uri.query().is_some_and(|query| query.contains("watch=true"));
        if watch && seen.lock().unwrap().insert(uri.path().to_owned()) { Fate::Rewind } else { Fate::Pass }
    });
    proxy.cut();
    eventually("lists after 410", async || {
        let asked = stage.audit.of(stage.account.user(), mark).await?;
        let lists = asked.filter(|request| request.verb == "list").count();
        // Those of our own kinds; of the others the API server may still know everything.
        ensure!(lists >= 4, "{lists} lists");
        Ok(())
    })
    .await
    .unwrap();
    assert!(stage.operator.as_ref().unwrap().log().contains("too old resource version"));
    edit(&stage).await.unwrap();
    repaired(&stage).await.unwrap();
    assert_eq!(written(&stage, mark).await.unwrap(), REPAIRS);
    stage.operator.as_mut().unwrap().ensure_running().unwrap();
}

#[tokio::test]
async fn times_by_a_clock_that_is_years_ahead_hold_up_nothing() {
    const AHEAD: &str = "2099-01-01T00:00:00";
    let mut stage = Stage::with_mesh().await.unwrap();
    stage.ready().await.unwrap();
    stage.stop_operator().await.unwrap();
    let leases: Api<Lease> = Api::namespaced(stage.client.clone(), OPERATOR);
    let held = json!({"spec": {
        "holderIdentity": "years-ahead", "leaseDurationSeconds": 5,
        "renewTime": format!("{AHEAD}.000000Z"), "acquireTime": format!("{AHEAD}.000000Z"),
    }});
    leases.patch("nsm-operator", &PatchParams::default(), &Patch::Merge(held)).await.unwrap();
    let configs: Api<NSMConfig> = Api::all(stage.client.clone());
    let mut status = serde_json::to_value(configs.get("default").await.unwrap().status).unwrap();
    for condition in status["conditions"].as_array_mut().unwrap() {
        condition["lastTransitionTime"] = format!("{AHEAD}Z").into();
    }
    let ahead = Patch::Merge(json!({"status": status}));
    configs.patch_status("default", &PatchParams::default(), &ahead).await.unwrap();

    let mark = stage.audit.mark().await.unwrap();
    stage.start_operator().unwrap();
    edit(&stage).await.unwrap();
    repaired(&stage).await.unwrap();
    assert_eq!(written(&stage, mark).await.unwrap(), REPAIRS);
    let holder = leases.get("nsm-operator").await.unwrap().spec.unwrap().holder_identity;
    assert_eq!(holder.as_deref(), Some(crate::stage::POD));
}

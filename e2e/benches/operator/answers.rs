//! How soon an edit is put back: by the operator's clock, from when its watch told of the edit to when it writes;
//! and by the API server's, from when the edit was answered to when the request came that repairs it, which the
//! way of the edit through etcd and the watch is part of. Between two edits nothing happens for a while, as with
//! edits by hand.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::{
    core::v1::{Service, ServiceAccount},
    rbac::v1::{ClusterRoleBinding, RoleBinding},
};
use kube::{
    Api, Resource, ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use nsm_e2e::kubernetes::eventually;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::{sample::Times, stage::Stage};

/// A label that all objects of the operator have.
const LABEL: &str = "app.kubernetes.io/part-of";

/// Edits of each object: of more the operator would take it for a fight.
const EDITS: usize = 2;

/// User of the edits.
const ADMIN: &str = "admin";

/// Rest between two edits.
const REST: Duration = Duration::from_millis(300);

/// What was measured.
pub(crate) struct Answers {
    /// By the operator's clock.
    pub(crate) own: Times,
    /// By the API server's.
    pub(crate) whole: Times,
}

pub(crate) async fn measure(stage: &Stage) -> Result<Answers> {
    let said_before = said(stage)?.len();
    let mut times = Times::default();
    let client = || stage.client.clone();
    for _ in 0..EDITS {
        of_kind(stage, Api::<ServiceAccount>::namespaced(client(), "nsm-system"), &mut times).await?;
        of_kind(stage, Api::<Service>::namespaced(client(), "nsm-system"), &mut times).await?;
        of_kind(stage, Api::<RoleBinding>::namespaced(client(), "nsm-system"), &mut times).await?;
        of_kind(stage, Api::<ClusterRoleBinding>::all(client()), &mut times).await?;
    }
    ensure!(times.len() >= 20, "only {} edits", times.len());
    let mut own = Times::default();
    said(stage)?.into_iter().skip(said_before).for_each(|time| own.push(time));
    ensure!(own.len() == times.len(), "the operator tells of {} repairs, not of {}", own.len(), times.len());
    Ok(Answers { own, whole: times })
}

/// How long each repair took, as the operator says.
fn said(stage: &Stage) -> Result<Vec<Duration>> {
    let log = stage.operator()?.log();
    let lines = log.lines().filter(|line| line.contains("answers a watch's event with a write"));
    let time = |line: &str| {
        let line: Value = serde_json::from_str(line)?;
        Ok(Duration::from_micros(line["after_us"].as_u64().context("a line without a time")?))
    };
    lines.map(time).collect()
}

async fn of_kind<K>(stage: &Stage, api: Api<K>, times: &mut Times) -> Result<()>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned,
{
    let own = ListParams::default().labels("app.kubernetes.io/managed-by=nsm-operator");
    for object in api.list(&own).await? {
        let name = object.name_any();
        sleep(REST).await;
        let mark = stage.audit.mark().await?;
        let edit = Patch::Merge(json!({"metadata": {"labels": {LABEL: null}}}));
        api.patch(&name, &PatchParams::default(), &edit).await?;
        eventually("the label to be back", async || {
            ensure!(api.get(&name).await?.labels().contains_key(LABEL), "{name} lacks it");
            Ok(())
        })
        .await?;
        let about = format!("{} {name}", K::plural(&()));
        let edits = stage.audit.of(ADMIN, mark).await?;
        let repairs = stage.audit.of(stage.account.user(), mark).await?;
        let patches =
            |request: &&nsm_e2e::kubernetes::Request| request.verb == "patch" && request.object() == about;
        let edited = edits.iter().find(patches).and_then(|edit| edit.answered).context("no edit")?;
        let repaired = repairs.iter().find(patches).and_then(|repair| repair.at).context("no repair")?;
        times.push(Duration::try_from(repaired.duration_since(edited)).unwrap_or_default());
    }
    Ok(())
}

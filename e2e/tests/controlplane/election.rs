//! Two operators: one writes, and when it ends in whatever way, the other does.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use k8s_openapi::{
    api::{coordination::v1::Lease, core::v1::ServiceAccount},
    jiff::Timestamp,
};
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
};
use nix::sys::signal::Signal;
use nsm_e2e::kubernetes::{Mark, Operator, Request, eventually};
use serde_json::{Value, json};

use crate::stage::{MESH, OPERATOR, POD, Stage};

/// Time of a Lease and a second for the first write after it.
const AFTER_A_CRASH: Duration = Duration::from_secs(16);

const AFTER_AN_ORDERLY_END: Duration = Duration::from_secs(1);

/// Objects of the mesh in turn, so that nobody takes the edits for a fight, and a label of theirs.
const OBJECTS: [&str; 5] = ["forwarder", "nsmgr", "registry", "nsm-identity-agent", "nsm-identity-authority"];
const LABEL: &str = "app.kubernetes.io/part-of";

#[tokio::test]
async fn one_operator_writes_at_a_time_and_another_soon_after_its_end() {
    let mut stage = Stage::with_own_mesh().await.unwrap();
    let first = stage.operator.take().unwrap();
    let second = Operator::start(&stage.plane, &stage.account, "operator-1").unwrap();
    watches(&stage, "operator-1").await.unwrap();
    assert_eq!(holder(&stage).await.unwrap(), POD);

    // The leader stops in the middle of its work, and does not know when it wakes up.
    let mark = stage.audit.mark().await.unwrap();
    first.signal(Signal::SIGSTOP).unwrap();
    let took = repaired(&stage).await.unwrap();
    assert!(took < AFTER_A_CRASH, "{took:?} after the leader stopped");
    let taken_over = writes_of(&stage, "operator-1", mark).await.unwrap()[0].at.unwrap();
    first.signal(Signal::SIGCONT).unwrap();
    // Both see that there is something to do, and one does it.
    for _ in 0..5 {
        repaired(&stage).await.unwrap();
    }
    eventually("the one that woke up to know who leads", async || {
        ensure!(first.log().contains("does not lead any more"), "it has not said so");
        Ok(())
    })
    .await
    .unwrap();
    repaired(&stage).await.unwrap();
    let late: Vec<_> = writes_of(&stage, POD, mark).await.unwrap();
    assert!(late.iter().all(|request| request.at < Some(taken_over)), "{late:#?}");
    let mine = writes_of(&stage, "operator-1", mark).await.unwrap();
    let repairs = mine.iter().filter(|request| request.is_about("serviceaccounts")).count();
    assert_eq!(repairs, 7, "{mine:#?}");

    // It is killed.
    drop(second);
    let took = repaired(&stage).await.unwrap();
    assert!(took < AFTER_A_CRASH, "{took:?} after the leader was killed");
    assert_eq!(holder(&stage).await.unwrap(), POD);

    // It ends in order.
    let third = Operator::start(&stage.plane, &stage.account, "operator-2").unwrap();
    watches(&stage, "operator-2").await.unwrap();
    let ended = Instant::now();
    let status = first.stop().await.unwrap();
    assert!(status.success(), "{status}");
    repaired(&stage).await.unwrap();
    let took = ended.elapsed();
    assert!(took < AFTER_AN_ORDERLY_END, "{took:?} after the leader was told to stop");
    assert_eq!(holder(&stage).await.unwrap(), "operator-2");
    let lease = lease(&stage).await.unwrap();
    assert_eq!(lease.spec.unwrap().lease_transitions, Some(3));
    drop(third);
}

/// Waits until this operator has opened its watches, that of the Lease last.
async fn watches(stage: &Stage, pod: &str) -> Result<()> {
    let all = Mark::default();
    eventually("the watches of another operator", async || {
        let asked = stage.audit.of_leases(stage.account.user(), all).await?;
        let opened = |request: &Request| request.verb == "watch" && request.user_agent.contains(pod);
        ensure!(asked.iter().any(opened), "none of the Lease");
        Ok(())
    })
    .await
}

/// Makes an edit, and measures how long it takes until it is put back.
async fn repaired(stage: &Stage) -> Result<Duration> {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let object = OBJECTS[NEXT.fetch_add(1, Ordering::Relaxed) % OBJECTS.len()];
    let accounts: Api<ServiceAccount> = Api::namespaced(stage.client.clone(), MESH);
    let unlabelled = Patch::Merge(json!({"metadata": {"labels": {LABEL: Value::Null}}}));
    let begun = Instant::now();
    accounts.patch(object, &PatchParams::default(), &unlabelled).await?;
    eventually("the label to be put back", async || {
        ensure!(accounts.get(object).await?.labels().contains_key(LABEL), "it is not there");
        Ok(())
    })
    .await?;
    Ok(begun.elapsed())
}

/// What the operator of this pod has written since.
async fn writes_of(stage: &Stage, pod: &str, since: Mark) -> Result<Vec<Request>> {
    let writes = stage.audit.of(stage.account.user(), since).await?.writes();
    Ok(writes.filter(|request| request.user_agent.contains(pod)).iter().cloned().collect())
}

async fn lease(stage: &Stage) -> Result<Lease> {
    Ok(Api::<Lease>::namespaced(stage.client.clone(), OPERATOR).get("nsm-operator").await?)
}

async fn holder(stage: &Stage) -> Result<String> {
    let spec = lease(stage).await?.spec.context("no spec")?;
    let renewed = spec.renew_time.context("never renewed")?.0;
    ensure!(renewed <= Timestamp::now(), "{renewed} is to come");
    spec.holder_identity.context("nobody")
}

//! The operator is killed after every few of its writes, while it installs and while it removes.

use anyhow::{Result, ensure};
use kube::Api;
use nsm_crds::NSMConfig;
use nsm_e2e::kubernetes::{Mark, eventually};

use crate::stage::{CONFIG, Stage, condition};

/// How often it must have been killed for the story to say something.
const KILLS: usize = 6;

#[tokio::test]
async fn an_operator_that_is_killed_again_and_again_makes_and_removes_each_object_once() {
    let mut stage = Stage::with_mesh_and_controllers().await.unwrap();
    stage.plane.kubectl(&["delete", "nsm", "default", "--timeout=60s"]).unwrap();
    drop(stage.operator.take());

    let mark = stage.audit.mark().await.unwrap();
    stage.apply(CONFIG).await.unwrap();
    let kills = until(&mut stage, mark, async |stage: &Stage| {
        let config = configs(stage).get("default").await?;
        let status = config.status.unwrap_or_default();
        Ok(condition(&status.conditions, "Ready").is_ok_and(|ready| ready.status == "True"))
    })
    .await
    .unwrap();
    assert!(kills >= KILLS, "it was killed {kills} times while it installed");
    let made = writes(&stage, mark).await.unwrap();
    let mut once = made.clone();
    once.sort();
    once.dedup();
    assert_eq!((made.len(), once.len()), (20, 20), "{made:#?}");

    let mark = stage.audit.mark().await.unwrap();
    stage.plane.kubectl(&["delete", "nsm", "default", "--wait=false"]).unwrap();
    let kills =
        until(&mut stage, mark, async |stage: &Stage| Ok(configs(stage).get_opt("default").await?.is_none()))
            .await
            .unwrap();
    assert!(kills >= KILLS, "it was killed {kills} times while it removed");
    let removed: Vec<_> =
        writes(&stage, mark).await.unwrap().into_iter().filter(|words| words.starts_with("delete")).collect();
    let mut once = removed.clone();
    once.sort();
    once.dedup();
    assert_eq!((removed.len(), once.len()), (19, 19), "{removed:#?}");
}

/// Starts the operator, kills it as soon as it has written something, and so on until it is done.
async fn until(stage: &mut Stage, mark: Mark, done: impl AsyncFn(&Stage) -> Result<bool>) -> Result<usize> {
    let mut kills = 0;
    loop {
        let seen = writes(stage, mark).await?.len();
        stage.start_operator()?;
        let over = eventually("a write or the end", async || {
            let over = done(stage).await?;
            ensure!(over || writes(stage, mark).await?.len() > seen, "nothing happens");
            Ok(over)
        })
        .await?;
        drop(stage.operator.take());
        if over {
            return Ok(kills);
        }
        kills += 1;
    }
}

/// What was granted to the operator but for status, in words.
async fn writes(stage: &Stage, mark: Mark) -> Result<Vec<String>> {
    let asked = stage.audit.of(stage.account.user(), mark).await?.writes().granted();
    Ok(asked.filter(|request| !request.is_status()).words())
}

fn configs(stage: &Stage) -> Api<NSMConfig> {
    Api::all(stage.client.clone())
}

//! The operator is killed after every few of its writes, while it installs and while it removes.

use anyhow::{Result, ensure};
use kube::Api;
use nsm_crds::NSMConfig;
use nsm_e2e::kubernetes::{Mark, eventually};

use crate::stage::{CONFIG, Stage, condition};

/// How often it must have been killed for the story to say something.
const KILLS: usize = 3;

/// What the API server notes of a request whose client went away before the answer (504).
const GONE_AWAY: u16 = 504;

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
    assert_each_once(&stage, mark, "patch", 23).await.unwrap();

    let mark = stage.audit.mark().await.unwrap();
    stage.plane.kubectl(&["delete", "nsm", "default", "--wait=false"]).unwrap();
    let kills =
        until(&mut stage, mark, async |stage: &Stage| Ok(configs(stage).get_opt("default").await?.is_none()))
            .await
            .unwrap();
    assert!(kills >= KILLS, "it was killed {kills} times while it removed");
    assert_each_once(&stage, mark, "delete", 22).await.unwrap();
}

/// Asserts that so many objects were asked for in this way, none of them twice with success. Who dies before the
/// answer has no success, but an effect, maybe.
async fn assert_each_once(stage: &Stage, mark: Mark, verb: &str, objects: usize) -> Result<()> {
    let asked = stage.audit.of(stage.account.user(), mark).await?.writes();
    let of_verb = asked.filter(|request| !request.is_status() && request.verb == verb);
    let mut granted = of_verb.clone().granted().words();
    let mut once = granted.clone();
    once.sort();
    once.dedup();
    ensure!(granted.len() == once.len(), "something was asked for twice: {granted:#?}");
    let cut = of_verb.filter(|request| request.code() == GONE_AWAY).words();
    granted.extend(cut.iter().map(|words| words.replace(&format!(" ({GONE_AWAY})"), "")));
    granted.sort();
    granted.dedup();
    ensure!(granted.len() == objects, "{} objects instead of {objects}: {granted:#?}", granted.len());
    Ok(())
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

//! Applied twice writes nothing, and at rest nothing is asked but the Lease.

use std::time::Duration;

use nsm_e2e::kubernetes::eventually;

use crate::stage::Stage;

/// How long nothing may happen. Nothing has to settle; what is wrong shows as requests that repeat,
/// the slowest of which, a retry or a second look, come within a few seconds.
const WINDOW: Duration = Duration::from_secs(6);

/// Kinds that the operator watches: four of ours, seven that it makes.
const KINDS: usize = 11;

/// What a leader looks at once, before it begins: the server's version, a policy and its binding.
const LOOKS: usize = 3;

#[tokio::test]
async fn a_restarted_operator_writes_nothing_and_at_rest_it_asks_nothing() {
    let mut stage = Stage::with_mesh().await.unwrap();
    let user = stage.account.user().to_owned();
    stage.apply(SERVICE).await.unwrap();
    eventually("status of the service", async || {
        let services = stage.plane.kubectl(&[
            "get",
            "netsvc",
            "finance",
            "--output",
            "jsonpath={.status.conditions[0].reason}",
        ])?;
        anyhow::ensure!(services == "NoEndpoints", "{services}");
        Ok(())
    })
    .await
    .unwrap();
    stage.stop_operator().await.unwrap();

    let stopped = stage.audit.mark().await.unwrap();
    stage.start_operator().unwrap();
    eventually("all watches of the new operator", async || {
        let watches = stage.audit.of(&user, stopped).await?.filter(|request| request.verb == "watch");
        anyhow::ensure!(watches.count() == KINDS, "{:#?}", watches.words());
        Ok(())
    })
    .await
    .unwrap();
    // What is claimed is silence, which has no event to wait for.
    tokio::time::sleep(WINDOW).await;
    let asked = stage.audit.of(&user, stopped).await.unwrap();
    asked.clone().writes().ensure_none("a restarted operator wrote").unwrap();
    let lists = asked.filter(|request| request.verb != "watch");
    assert_eq!(lists.count(), KINDS + LOOKS, "{:#?}", lists.words());

    let quiet = stage.audit.mark().await.unwrap();
    tokio::time::sleep(WINDOW).await;
    let asked = stage.audit.of(&user, quiet).await.unwrap();
    asked.filter(|request| request.verb != "watch").ensure_none("an operator at rest asked").unwrap();
    // Who leads says so every few seconds.
    let renewed = stage.audit.of_leases(&user, quiet).await.unwrap();
    assert!((1..=2).contains(&renewed.count()), "{:#?}", renewed.words());
    let lease = "update leases nsm-operator/nsm-operator";
    assert!(renewed.words().iter().all(|words| words == lease), "{:#?}", renewed.words());
    stage.operator.as_mut().unwrap().ensure_running().unwrap();
}

const SERVICE: &str = "
apiVersion: networkservicemesh.io/v1
kind: NetworkService
metadata: {name: finance, namespace: default}
spec: {payload: ETHERNET}";

//! Applied twice writes nothing, and at rest nothing is asked but the Lease.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use nsm_crds::NetworkServiceEndpoint;
use nsm_e2e::kubernetes::{Operator, eventually};
use serde_json::{Value, json};

use crate::stage::{POD, Stage};

/// How long nothing may happen. Nothing has to settle; what is wrong shows as requests that repeat,
/// the slowest of which, a retry or a second look, come within a few seconds.
const WINDOW: Duration = Duration::from_secs(6);

/// Watches of the operator: four kinds of ours, one of them twice, eight kinds that it makes, nodes and pods.
const KINDS: usize = 15;

/// What a leader looks at once, before it begins: the server's version, policies and their bindings.
const LOOKS: usize = 5;

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

/// Endpoints that refresh, as of registries that keep them as objects.
const ENDPOINTS: usize = 10_000;

/// Refreshes a second: each endpoint refreshes at two thirds of a life of ten minutes.
const REFRESHES: u64 = 25;

/// How long a watch is open, so that each is opened again within the window.
const WATCH: Duration = Duration::from_secs(8);

/// How long nothing may be asked: `NSM_REST` in seconds.
fn window() -> Duration {
    let asked = std::env::var("NSM_REST").ok().and_then(|seconds| seconds.parse().ok());
    asked.map_or(Duration::from_secs(20), Duration::from_secs)
}

fn registration(number: usize) -> Value {
    let name = format!("nse-{number:05}");
    json!({
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "name": name, "network_service_names": ["finance"], "url": "tcp://10.0.0.1:5001",
            "expiration_time": {"seconds": 1_800_000_000},
        },
    })
}

#[tokio::test]
async fn ten_thousand_endpoints_that_refresh_cost_no_request_and_watches_go_on_where_they_were() {
    let mut stage = Stage::with_own_mesh().await.unwrap();
    stage.stop_operator().await.unwrap();
    let endpoints: Api<NetworkServiceEndpoint> = Api::namespaced(stage.client.clone(), "default");
    let make = async |number| -> Result<()> {
        let object = serde_json::from_value(registration(number))?;
        endpoints.create(&PostParams::default(), &object).await.context("a registration")?;
        Ok(())
    };
    stream::iter(0..ENDPOINTS).map(make).buffer_unordered(64).try_collect::<()>().await.unwrap();

    let began = Instant::now();
    let short = [("NSM_WATCH_TIMEOUT", format!("{}s", WATCH.as_secs()))];
    let variables = short.each_ref().map(|(name, value)| (*name, value.as_str()));
    let operator = Operator::start_with(&stage.plane, &stage.account, POD, &variables).unwrap();
    let ups = |log: &str| log.matches("all watches are up").count();
    eventually("all watches", async || {
        // One was there before.
        ensure!(ups(&operator.log()) == 2, "not yet");
        Ok(())
    })
    .await
    .unwrap();
    let started = began.elapsed();
    stage.operator = Some(operator);
    stage.ready().await.unwrap();
    eventually("the operator to lead", async || {
        ensure!(stage.operator.as_ref().unwrap().log().matches("\"leads\"").count() == 2, "it does not");
        Ok(())
    })
    .await
    .unwrap();
    eventually("its first pass", async || {
        let mark = stage.audit.mark().await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let asked = stage.audit.of(stage.account.user(), mark).await?;
        asked.filter(|request| request.verb != "watch").ensure_none("it asks")
    })
    .await
    .unwrap();

    let quiet = stage.audit.mark().await.unwrap();
    let resting = Instant::now();
    let mut refreshed = 0_usize;
    let mut tick = tokio::time::interval(Duration::from_millis(1000 / REFRESHES));
    while resting.elapsed() < window() {
        tick.tick().await;
        let refresh =
            Patch::Merge(json!({"spec": {"expiration_time": {"seconds": 1_800_000_001 + refreshed}}}));
        let name = format!("nse-{:05}", (refreshed * 7919) % ENDPOINTS);
        endpoints.patch(&name, &PatchParams::default(), &refresh).await.unwrap();
        refreshed += 1;
    }
    let asked = stage.audit.of(stage.account.user(), quiet).await.unwrap();
    asked.clone().filter(|request| request.verb != "watch").ensure_none("an operator at rest asked").unwrap();
    let reopened = asked.count();
    assert!(reopened >= KINDS, "{reopened} watches were opened again");
    let operator = stage.operator.as_mut().unwrap();
    println!(
        "{ENDPOINTS} endpoints: {refreshed} refreshes, {reopened} watches opened again; {started:?} from start to synced, {} KiB resident",
        operator.resident().unwrap()
    );
    operator.ensure_running().unwrap();
}

const SERVICE: &str = "
apiVersion: networkservicemesh.io/v1
kind: NetworkService
metadata: {name: finance, namespace: default}
spec: {payload: ETHERNET}";

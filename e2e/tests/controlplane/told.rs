//! What the operator tells of itself and of the mesh: Events, figures, health, and conditions that
//! other tools understand.

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::events::v1::Event;
use kube::{Api, api::ListParams};
use nsm_e2e::kubernetes::{Mark, eventually};

use crate::stage::{CONFIG, OPERATOR, Stage};

#[tokio::test]
async fn health_and_figures_are_served_and_events_told() {
    let mut stage = Stage::with_own_mesh().await.unwrap();
    let address = address(&stage).unwrap();
    assert_eq!(get(&address, "/livez").unwrap(), (200, "ok\n".to_owned()));
    assert_eq!(get(&address, "/readyz").unwrap().0, 200);
    assert_eq!(get(&address, "/nothing").unwrap().0, 404);
    let idle = "controller_runtime_active_workers{controller=\"nsmconfig\"} 0";
    let figures = eventually("no reconcile under way", async || {
        let (_, figures) = get(&address, "/metrics")?;
        ensure!(figures.lines().any(|told| told == idle), "{idle} is not in\n{figures}");
        Ok(figures)
    });
    let figures = figures.await.unwrap();
    for line in [
        "leader_election_master_status{name=\"nsm-operator\"} 1",
        "nsm_operator_writes_total{kind=\"DaemonSet\",reason=\"spec\"} 3",
        "nsm_operator_writes_total{kind=\"ServiceAccount\",reason=\"spec\"} 5",
        "nsm_operator_cache_objects{kind=\"NSMConfig\"} 1",
        "nsm_operator_cache_objects{kind=\"Deployment\"} 2",
        "nsm_operator_nonconverging_objects 0",
        "controller_runtime_max_concurrent_reconciles{controller=\"nsmconfig\"} 1",
        "nsm_connections{state=\"up\"} 0",
        "# TYPE controller_runtime_reconcile_time_seconds histogram",
    ] {
        assert!(figures.lines().any(|told| told == line), "{line} is not in\n{figures}");
    }
    // All that was asked of the API server is counted, as the server itself counts it.
    let written = figures.lines().filter(|line| line.starts_with("rest_client_requests_total{code=\"201\""));
    let made: f64 = written.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum();
    let user = stage.account.user();
    let all = stage.audit.of(user, Mark::default()).await.unwrap();
    let leases = stage.audit.of_leases(user, Mark::default()).await.unwrap();
    let made_by_audit = all.filter(|request| request.code() == 201).count()
        + leases.filter(|request| request.code() == 201).count();
    assert_eq!(format!("{made}"), format!("{made_by_audit}"), "{figures}");
    assert!(
        figures.contains("controller_runtime_reconcile_total{controller=\"nsmconfig\",result=\"success\"}")
    );

    let wait = ["wait", "--for=condition=Ready", "nsmconfig/default", "--timeout=5s"];
    stage.plane.kubectl(&wait).unwrap();
    told(&stage, "Normal", "AllReady").await.unwrap();
    stage.apply(&CONFIG.replace("{}", "{maxTokenLifetime: +10m}")).await.unwrap();
    told(&stage, "Warning", "InvalidConfig").await.unwrap();
    let described = stage.plane.kubectl(&["describe", "nsm", "default"]).unwrap();
    assert!(
        described.contains("InvalidConfig") && described.contains("write a duration such as 10m"),
        "{described}"
    );
    stage.operator.as_mut().unwrap().ensure_running().unwrap();
}

/// Where the operator serves, as it says at its start.
fn address(stage: &Stage) -> Result<String> {
    let log = stage.operator.as_ref().context("no operator")?.log();
    let line = log.lines().rfind(|line| line.contains("serves /livez")).context("not said")?;
    let line: serde_json::Value = serde_json::from_str(line)?;
    Ok(line["address"].as_str().context("no address")?.to_owned())
}

fn get(address: &str, path: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect(address)?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no head")?;
    Ok((head.split(' ').nth(1).context("no code")?.parse()?, body.to_owned()))
}

async fn told(stage: &Stage, kind: &str, reason: &str) -> Result<()> {
    let events: Api<Event> = Api::namespaced(stage.client.clone(), OPERATOR);
    eventually("an Event", async || {
        let all = events.list(&ListParams::default()).await?;
        let fits = |event: &&Event| {
            event.reason.as_deref() == Some(reason)
                && event.type_.as_deref() == Some(kind)
                && event.regarding.as_ref().and_then(|about| about.name.as_deref()) == Some("default")
        };
        ensure!(all.items.iter().find(fits).is_some(), "none of {reason} among {}", all.items.len());
        Ok(())
    })
    .await
}

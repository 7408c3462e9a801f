//! Endpoints that die while another one is ready, and how long their clients need.

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result, anyhow, ensure};

use crate::{
    knock::{Echo, Knock},
    mesh::{Mesh, START, Who},
    netns::Netns,
    wait,
};

/// A client says this, among other things, when its packets do not pass.
const DETECTED: &str = r#""cause":"packets""#;

/// And this when its endpoint has answered an echo.
const ALIVE: &str = r#""data":"Up""#;

/// Longest time a thousand connections may take to come up.
const MANY: Duration = Duration::from_mins(3);

/// When a line of a log was written.
fn time(line: &str) -> Result<SystemTime> {
    let line: serde_json::Value = serde_json::from_str(line)?;
    let text = line["timestamp"].as_str().ok_or_else(|| anyhow!("a line without a time"))?;
    let time: jiff::Timestamp = text.parse()?;
    Ok(time.into())
}

/// A client on node 1 whose endpoint, on the same node, dies again and again while another one is ready.
#[derive(Debug)]
pub struct Deaths {
    mesh: Mesh,
    client: Who,
    endpoint: Who,
    lives: usize,
}

impl Deaths {
    /// The first endpoint.
    pub fn begin(life: Duration) -> Result<Self> {
        let mut mesh = Mesh::start(life)?;
        let endpoint = mesh.endpoint(1, "finance", &[])?;
        let client = mesh.client(1, "kernel://finance/nsm-1")?;
        mesh.connected(client, "nsm-1")?;
        Ok(Self { mesh, client, endpoint, lives: 1 })
    }

    /// Starts the next endpoint, ends the last, and answers how long after the loss was detected the first
    /// packet reached the next one.
    pub fn die(&mut self) -> Result<Duration> {
        let log = |mesh: &Mesh, client| Ok::<_, anyhow::Error>(mesh.process(client)?.log());
        wait::until_true("the endpoint answers echoes", START, || {
            log(&self.mesh, self.client).is_ok_and(|log| log.matches(ALIVE).count() >= self.lives)
        })?;
        let next = self.mesh.endpoint(1, "finance", &[])?;
        self.mesh.says(next, r#""message":"registered""#, START)?;
        self.lives += 1;
        let number = u8::try_from(self.lives)?;
        let pod = self.mesh.pod_of(self.client)?.clone();
        let _echo = Echo::start(self.mesh.pod_of(next)?)?;
        let knock = Knock::start(&pod, Ipv4Addr::new(172, 16, number, 0), START)?;
        let died = SystemTime::now();
        self.mesh.delete_pod(self.endpoint, START)?;
        self.endpoint = next;
        let passed = knock.answered()?;
        let log = log(&self.mesh, self.client)?;
        let found = log.lines().filter(|line| line.contains(DETECTED)).map(time);
        let found = found.collect::<Result<Vec<_>>>()?.into_iter().find(|at| *at >= died);
        Ok(passed.duration_since(found.context("the loss was never detected")?).unwrap_or_default())
    }
}

fn connected(pod: &Netns, prefix: &str) -> usize {
    let addresses = pod.ip("-4 -oneline address show").unwrap_or_default();
    addresses.lines().filter(|line| line.contains(prefix)).count()
}

/// How long all connections of one client with these settings need to leave an endpoint that has died.
pub fn all_at_once(count: usize, settings: &[(&str, &str)]) -> Result<Duration> {
    let mut mesh = Mesh::start(Duration::from_mins(2))?;
    let first = mesh.endpoint(1, "finance", &[("NSM_CIDR_PREFIX", "172.30.0.0/16")])?;
    let services: Vec<_> = (1..=count).map(|number| format!("kernel://finance/nsm-{number}")).collect();
    let services = services.join(",");
    // Of one group, they are not told of each other's addresses.
    let group = format!("[{services}]");
    let own = [("NSM_AWARENESS_GROUPS", &*group), ("NSM_LOG_LEVEL", "info")];
    let client = mesh.client_with(1, &services, &[&own, settings].concat())?;
    let pod = mesh.pod_of(client)?.clone();
    wait::until_true(&format!("{count} connections"), MANY, || connected(&pod, "172.30.") == count)?;
    let second = mesh.endpoint(1, "finance", &[("NSM_CIDR_PREFIX", "172.31.0.0/16")])?;
    mesh.says(second, r#""message":"registered""#, START)?;
    let died = Instant::now();
    mesh.delete_pod(first, START)?;
    wait::until_true(&format!("{count} connections to the other endpoint"), MANY, || {
        connected(&pod, "172.31.") == count
    })?;
    let healed = died.elapsed();
    ensure!(connected(&pod, "172.30.") == 0, "addresses of the old endpoint are left");
    Ok(healed)
}

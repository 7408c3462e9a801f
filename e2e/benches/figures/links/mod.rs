//! Connections with interfaces, between namespaces and processes as users have them: registry, and
//! nsmgr and forwarder on two nodes, an endpoint on each.

mod bare;
mod client;
mod datapath;
mod many;
mod requests;

use std::{net::IpAddr, time::Duration};

use anyhow::Result;
use nsm_components::api::peer::Address;
use nsm_e2e::{
    interface::GROUP,
    mesh::{Mesh, START, Who},
    netns::Netns,
    process::Process,
    wait::until_true,
};

use self::client::{Client, Identity};
use crate::{
    report::Report,
    stage::{LIFE, Stage, connect},
};

/// The service of the endpoint on the client's own node, and of the one on the other.
const NEAR: &str = "near";
const FAR: &str = "far";

/// Longest time until links of closed connections are gone.
const GONE: Duration = Duration::from_secs(30);

/// What the figures of this part stand on.
struct Links {
    mesh: Mesh,
    identity: Identity,
    client: Who,
    near: Who,
    far: Who,
}

/// Bare relays one behind the other, before one that answers.
struct Relays {
    client: crate::relay::Client,
    _processes: Vec<Process>,
}

// === impl Links ===

impl Links {
    async fn start() -> Result<Self> {
        let mut mesh = Mesh::start_with(LIFE, &[("NSM_LOG_LEVEL", "INFO")])?;
        let near = mesh.endpoint(1, NEAR, &[("NSM_CIDR_PREFIX", "10.64.0.0/16")])?;
        let far = mesh.endpoint(2, FAR, &[("NSM_CIDR_PREFIX", "10.65.0.0/16")])?;
        for endpoint in [near, far] {
            mesh.says(endpoint, "\"registered\"", START)?;
        }
        let client = mesh.empty_pod(1)?;
        let identity = Identity::of(&mesh).await?;
        let links = Self { mesh, identity, client, near, far };
        // What is first on a way dials, and waits for what it has not yet heard of.
        for service in [NEAR, FAR] {
            let first = links.one()?;
            first.close(first.open(service, "first").await?).await?;
        }
        links.gone()?;
        Ok(links)
    }

    /// A client with a channel of its own.
    fn one(&self) -> Result<Client> {
        self.identity.client(&self.mesh, 1, self.pod()?)
    }

    fn pod(&self) -> Result<&Netns> {
        self.mesh.pod_of(self.client)
    }

    /// Waits until no link of the mesh is left in the pods.
    fn gone(&self) -> Result<()> {
        for who in [self.client, self.near, self.far] {
            let pod = self.mesh.pod_of(who)?;
            let none = || pod.list(&format!("link show group {GROUP}")).is_ok_and(|links| links.is_empty());
            until_true(&format!("{who} has no link of the mesh any more"), GONE, none)?;
        }
        Ok(())
    }

    fn pairs(&self) -> Result<bare::Pairs> {
        bare::Pairs::between(self.pod()?, self.mesh.pod_of(self.near)?)
    }

    fn tunnels(&self) -> Result<bare::Tunnels> {
        let [one, two] = self.mesh.nodes() else { anyhow::bail!("there are two nodes") };
        let addresses: [IpAddr; 2] = ["10.77.0.1".parse()?, "10.77.0.2".parse()?];
        let (here, there) = (self.pod()?, self.mesh.pod_of(self.far)?);
        bare::Tunnels::between([
            (one, addresses[0], here, addresses[1]),
            (two, addresses[1], there, addresses[0]),
        ])
    }
}

// === impl Relays ===

impl Relays {
    /// As many as there are processes between a client and an endpoint.
    async fn start(stage: &Stage, name: &str, count: usize) -> Result<Self> {
        let socket = |number: usize| stage.socket(&format!("{name}-{number}")).display().to_string();
        let mut processes = vec![stage.bare(&format!("{name}-end"), &["forwarder", &socket(count)])?];
        for number in (0..count).rev() {
            let part = ["relay", &socket(number), &socket(number + 1)];
            processes.push(stage.bare(&format!("{name}-{number}"), &part)?);
        }
        for number in 0..=count {
            connect(&stage.channels(), &Address::Unix(socket(number).into())).await?;
        }
        let client = crate::relay::Client::new(stage.channels(), Address::Unix(socket(0).into()));
        Ok(Self { client, _processes: processes })
    }
}

pub(crate) async fn measure(
    stage: &Stage,
    report: &mut Report,
    wanted: impl Fn(&[&str]) -> bool,
) -> Result<()> {
    let links = Links::start().await?;
    if wanted(&["P1", "P2", "P3", "P7"]) {
        requests::measure(stage, &links, report).await?;
    }
    if wanted(&["P27"]) {
        datapath::measure(&links, report).await?;
    }
    if wanted(&["P2", "P5", "P6", "P7", "P14", "P15", "P29"]) {
        many::measure(links, report).await?;
    }
    Ok(())
}

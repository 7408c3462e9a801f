//! `ip monitor` as witness of what was changed, or that nothing was.

use std::{
    io::{BufRead, BufReader},
    process::Child,
    sync::mpsc::{Receiver, channel},
    time::Duration,
};

use anyhow::{Result, anyhow, bail};

use crate::{netns::Netns, process::spawn, wait};

/// Long for an event, short for a failed test.
const PATIENCE: Duration = Duration::from_secs(10);

/// Watches links, addresses and routes of a namespace.
#[derive(Debug)]
pub struct IpMonitor {
    netns: Netns,
    child: Child,
    lines: Receiver<String>,
}

/// Whether the kernel is done with what it does by itself after an interface came up: carrier,
/// link-local address, and the search for another owner of it.
fn settled(netns: &Netns) -> Result<bool> {
    let links = netns.list("-6 address show up")?;
    let settled = links.iter().filter(|link| link["ifname"] != "lo").all(|link| {
        let addresses = link["addr_info"].as_array();
        let tentative = |address: &serde_json::Value| address.get("tentative").is_some();
        let local = |address: &serde_json::Value| address["scope"] == "link";
        addresses.is_some_and(|all| all.iter().any(local) && !all.iter().any(tentative))
    });
    let links = netns.list("link show up")?;
    let waiting = |state: &str| ["DOWN", "LOWERLAYERDOWN", "DORMANT"].contains(&state);
    let states = links.iter().filter_map(|link| link["operstate"].as_str());
    Ok(settled && !states.into_iter().any(waiting))
}

// === impl IpMonitor ===

impl IpMonitor {
    /// Waits until the kernel has settled, starts to watch, and returns when it has seen an event,
    /// so that it will see the next.
    pub fn start(netns: &Netns) -> Result<Self> {
        wait::until_true(&format!("the links of {} settle", netns.name()), PATIENCE, || {
            settled(netns).unwrap_or(false)
        })?;
        let mut command = netns.command("ip");
        command.args(["-o", "monitor", "link", "address", "route"]);
        let mut child = spawn(&command, None)?;
        let output = child.stdout.take().ok_or_else(|| anyhow!("ip monitor has no output"))?;
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            BufReader::new(output).lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        let monitor = Self { netns: netns.clone(), child, lines };
        for number in 1..=200 {
            monitor.sign(&format!("127.0.1.{number}"))?;
            if monitor.lines.recv_timeout(Duration::from_millis(100)).is_ok() {
                return Ok(monitor);
            }
        }
        bail!("ip monitor shows nothing in {}", netns.name())
    }

    /// All lines until now but those of its own signs.
    pub fn seen(self) -> Result<Vec<String>> {
        self.sign("127.0.2.1")?;
        let mut seen = Vec::new();
        loop {
            let line = self.lines.recv_timeout(PATIENCE).map_err(|_| anyhow!("the sign is not seen"))?;
            if line.contains("127.0.2.1") {
                return Ok(seen);
            }
            if !line.contains("127.0.1.") {
                seen.push(line);
            }
        }
    }

    /// Something that the monitor shows, and that leaves room for the same by the next one.
    fn sign(&self, address: &str) -> Result<()> {
        self.netns.ip(&format!("address add {address}/32 dev lo"))?;
        self.netns.ip(&format!("address delete {address}/32 dev lo")).map(drop)
    }
}

impl Drop for IpMonitor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

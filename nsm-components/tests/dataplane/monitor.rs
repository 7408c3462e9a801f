//! `ip monitor` as witness that nothing was changed.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Stdio},
    sync::mpsc::{Receiver, channel},
    time::Duration,
};

use nsm_components::dataplane::Netns;

use crate::world::{inside, ip};

/// Watches links, addresses and routes of a namespace.
pub(crate) struct Monitor {
    netns: Netns,
    child: Child,
    lines: Receiver<String>,
}

/// Long for an event, short for a failed test.
const PATIENCE: Duration = Duration::from_secs(10);

// === impl Monitor ===

impl Monitor {
    /// Returns when it has seen an event, so that it will see the next.
    pub(crate) fn start(netns: &Netns) -> Self {
        let mut command = inside(netns, "ip");
        command.args(["-o", "monitor", "link", "address", "route"]).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        let monitor = Self { netns: netns.clone(), child, lines };
        for n in 1..=100 {
            monitor.sign(&format!("127.0.1.{n}"));
            if monitor.lines.recv_timeout(Duration::from_millis(100)).is_ok() {
                return monitor;
            }
        }
        panic!("ip monitor shows nothing");
    }

    /// All lines until now but those of the signs.
    pub(crate) fn seen(self) -> Vec<String> {
        self.sign("127.0.2.1");
        let mut seen = Vec::new();
        loop {
            let line = self.lines.recv_timeout(PATIENCE).expect("the sign is not seen");
            if line.contains("127.0.2.1") {
                return seen;
            }
            if !line.contains("127.0.1.") {
                seen.push(line);
            }
        }
    }

    /// Something that the monitor shows.
    fn sign(&self, address: &str) {
        ip(&self.netns, &format!("address add {address}/32 dev lo"));
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

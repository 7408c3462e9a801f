//! The mesh and the samples: bringing them about, and looking at them.

use std::{
    process::{Child, Stdio},
    time::Duration,
};

use crate::kubectl::{Kubectl, eventually};

const LIMIT: Duration = Duration::from_mins(2);

pub fn is_ready(k: &Kubectl) -> bool {
    k.field("", "nsm", "default", r#".status.conditions[?(@.type=="Ready")].status"#) == "True"
        && pods_are_ready(k)
}

pub fn pods_are_ready(k: &Kubectl) -> bool {
    let pods = k.get(&["-n", "nsm-system", "get", "pods", "-o", "json"]);
    let pods = pods["items"].as_array().unwrap();
    pods.len() == 9
        && pods.iter().all(|pod| {
            let conditions = pod["status"]["conditions"].as_array();
            pod["metadata"]["deletionTimestamp"].is_null()
                && conditions.is_some_and(|all| {
                    all.iter().any(|one| one["type"] == "Ready" && one["status"] == "True")
                })
        })
}

/// Name of the only DaemonSet of a node daemon.
pub fn daemon_set(k: &Kubectl, daemon: &str) -> String {
    let selector = format!("app.kubernetes.io/name={daemon}");
    let name = "jsonpath={.items[*].metadata.name}";
    k.text(&["-n", "nsm-system", "get", "daemonsets", "-l", &selector, "-o", name])
}

pub fn connections(k: &Kubectl) -> u64 {
    k.field("", "nsm", "default", ".status.connections.total").parse().unwrap_or(0)
}

/// The operator and a mesh that is ready.
pub fn installed(k: &Kubectl) {
    k.apply("charts/install.yaml");
    k.run(&["-n", "nsm-operator", "rollout", "status", "deployment/nsm-operator", "--timeout=90s"]);
    k.apply("config/samples/nsmconfig.yaml");
    eventually("the mesh is ready", LIMIT, || is_ready(k));
}

/// The samples, with both clients connected.
pub fn connected(k: &Kubectl) {
    installed(k);
    for file in ["00-namespace", "networkservice", "endpoint", "client"] {
        k.apply(&format!("config/samples/{file}.yaml"));
    }
    let clients = [
        "-n",
        "nsm-demo",
        "wait",
        "--for=condition=Ready",
        "pods",
        "-l",
        "app.kubernetes.io/name=nsm-client",
    ];
    k.run(&[&clients[..], &["--timeout=120s"]].concat());
    eventually("both connections are reported", LIMIT, || connections(k) == 2);
}

/// The address at the other end of a client's interface: where its mesh route leads.
pub fn peer(k: &Kubectl, client: &str) -> String {
    let routes = k.text(&["-n", "nsm-demo", "exec", client, "-c", "app", "--", "ip", "route"]);
    let route = routes.lines().find(|route| route.contains("dev nsm-1"));
    route.and_then(|route| route.split_whitespace().next()).expect("a route into the mesh").to_owned()
}

/// A ping from a client's application.
pub struct Ping(Child);

impl Ping {
    pub fn start(k: &Kubectl, client: &str, peer: &str, count: u32, interval: &str) -> Self {
        let count = count.to_string();
        let ping = ["ping", "-q", "-c", &count, "-i", interval, "-W", "2", peer];
        let mut command =
            k.command(&[&["-n", "nsm-demo", "exec", client, "-c", "app", "--"][..], &ping].concat());
        Self(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }

    /// Packets without an answer, when all are sent.
    pub fn lost(self) -> u64 {
        let output = self.0.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let summary = text.lines().find(|line| line.contains("packets transmitted"));
        let summary = summary.unwrap_or_else(|| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)));
        let numbers: Vec<u64> = summary.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        numbers[0] - numbers[1]
    }
}

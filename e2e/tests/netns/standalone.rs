//! The whole mesh in one process: `nsm standalone` on a host with two pods.

use std::{path::PathBuf, process::Command, time::Duration};

use nsm_e2e::{
    figures::get,
    interface::{Interface, interfaces},
    mesh::{START, Signal, program},
    monitor::IpMonitor,
    netns::Netns,
    process::{Process, Recipe},
    stream::Stream,
    wait::{may_run, until, until_true},
};

use crate::story::{IFNAME, LIFE, assert_whole};

/// A host, an endpoint and a client.
struct Stage {
    folder: tempfile::TempDir,
    host: Netns,
    pods: [Netns; 2],
    mesh: Process,
    others: Vec<Process>,
}

// === impl Stage ===

impl Stage {
    fn begin() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let host = Netns::new("host").unwrap();
        let pods = ["endpoint", "client"].map(|name| Netns::new(name).unwrap());
        let mut stage = Self {
            mesh: Process::start(recipe(&folder, &host, "standalone", &[])).unwrap(),
            folder,
            host,
            pods,
            others: Vec::new(),
        };
        let services = format!("kernel://finance/{IFNAME}");
        for (pod, (process, own)) in
            [("nse", ("NSM_SERVICE_NAMES", "finance")), ("nsc", ("NSM_NETWORK_SERVICES", services.as_str()))]
                .into_iter()
                .enumerate()
        {
            let recipe = recipe(&stage.folder, &stage.pods[pod], process, &[own]);
            stage.others.push(Process::start(recipe).unwrap());
        }
        stage
    }

    fn metrics(&self) -> PathBuf {
        self.folder.path().join("metrics.sock")
    }

    fn is_ready(&self) -> bool {
        get(&self.metrics(), "/readyz").is_ok_and(|(status, _)| status == 200)
    }

    /// The client's end and the endpoint's.
    fn interfaces(&self) -> [Interface; 2] {
        let usable = |found: &Interface| found.up && found.address.is_some() && found.peer.is_some();
        let [endpoint, client] = &self.pods;
        [client, endpoint].map(|pod| {
            until(&format!("an interface in the {}'s pod", pod.name()), START, || {
                interfaces(pod).ok()?.into_iter().find(usable)
            })
            .unwrap_or_else(|error| panic!("{error}\n{}", self.mesh.log_tail(40)))
        })
    }

    fn stream(&self) -> Stream {
        let [client, endpoint] = self.interfaces().map(|one| one.address.unwrap().0);
        Stream::start((&self.pods[1], client), (&self.pods[0], endpoint)).unwrap()
    }

    fn watch(&self) -> [IpMonitor; 2] {
        [0, 1].map(|pod| IpMonitor::start(&self.pods[pod]).unwrap())
    }

    fn journal(&self) -> usize {
        std::fs::read_dir(self.folder.path().join("private/connections")).unwrap().count()
    }
}

/// How a process of this stage is run: with one folder, and where it is not the mesh, the two sockets in it.
fn recipe(folder: &tempfile::TempDir, netns: &Netns, process: &str, own: &[(&str, &str)]) -> Recipe {
    let path = folder.path().display();
    let mut environment = vec![("NSM_MAX_TOKEN_LIFETIME".to_owned(), format!("{}s", LIFE.as_secs()))];
    let mut set = |name: &str, value: String| environment.push((name.to_owned(), value));
    if process == "standalone" {
        set("NSM_BASE_DIR", path.to_string());
        set("NSM_METRICS_LISTEN_ON", format!("unix://{path}/metrics.sock"));
    } else {
        set("NSM_NAME", process.to_owned());
        set("SPIFFE_ENDPOINT_SOCKET", format!("unix://{path}/agent.sock"));
        set("NSM_CONNECT_TO", format!("unix://{path}/nsm.io.sock"));
        set("NSM_LISTEN_ON", format!("unix://{path}/{process}.sock"));
        set("NSM_METRICS_LISTEN_ON", String::new());
    }
    for (name, value) in own {
        set(name, (*value).to_owned());
    }
    Recipe {
        name: process.to_owned(),
        netns: netns.clone(),
        program: program().unwrap(),
        arguments: vec![process.to_owned()],
        environment,
        log: folder.path().join(format!("{process}.log")),
    }
}

/// Ends the process and starts it again beneath a thousand packets a second.
fn nothing_is_lost(signal: Signal) -> Option<Stage> {
    if !may_run() {
        return None;
    }
    let mut stage = Stage::begin();
    let before = stage.interfaces();
    until_true("all parts are ready", START, || stage.is_ready()).unwrap();
    let watched = stage.watch();
    let stream = stage.stream();
    stream.run_for(Duration::from_millis(200)).unwrap();
    stage.mesh.signal(signal).unwrap();
    let status = stage.mesh.ended().unwrap();
    assert_eq!(status.code(), (signal == Signal::SIGTERM).then_some(0), "{}", stage.mesh.log_tail(20));
    stream.run_for(Duration::from_millis(500)).unwrap();
    assert!(!stage.is_ready());
    stage.mesh.start_again().unwrap();
    until_true("all parts are ready again", START, || stage.is_ready()).unwrap();
    // What is not refreshed expires one life after the start at the latest.
    stream.run_for(LIFE + Duration::from_secs(2)).unwrap();
    assert_whole(stream);
    for monitor in watched {
        let seen = monitor.seen().unwrap();
        assert!(seen.is_empty(), "{}", seen.join("\n"));
    }
    assert_eq!(stage.interfaces(), before);
    assert_eq!(stage.journal(), 1);
    Some(stage)
}

#[test]
fn nothing_is_lost_when_the_mesh_in_one_process_is_killed_and_started_again() {
    nothing_is_lost(Signal::SIGKILL);
}

#[test]
fn nothing_is_lost_when_the_mesh_in_one_process_is_stopped_and_its_parts_stop_in_order() {
    let Some(stage) = nothing_is_lost(Signal::SIGTERM) else { return };
    let log = stage.mesh.log();
    let stopped = log.lines().filter(|line| line.contains("\"stopped\""));
    let parts: Vec<_> =
        stopped.filter_map(|line| line.split("\"part\":\"").nth(1)?.split('"').next()).collect();
    assert_eq!(parts, ["nsmgr", "forwarder", "registry", "identity"], "{log}");
}

#[test]
fn a_second_process_in_the_same_folder_ends_at_once_and_disturbs_nobody() {
    if !may_run() {
        return;
    }
    let stage = Stage::begin();
    until_true("all parts are ready", START, || stage.is_ready()).unwrap();
    let second = recipe(&stage.folder, &stage.host, "standalone", &[]);
    let mut command = stage.host.command(&second.program);
    let output = command.args(&second.arguments).envs(second.environment).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{error}");
    let folder = stage.folder.path().display().to_string();
    assert!(error.contains(&folder) && error.contains("NSM_BASE_DIR"), "{error}");
    assert!(stage.is_ready());
    stage.interfaces();
}

#[test]
fn a_bad_setting_of_any_part_ends_the_whole_with_2_and_names_variable_value_and_what_is_allowed() {
    for (name, value, allowed) in [
        ("NSM_LOG_LEVEL", "loud", "WARN"),
        ("NSM_NAME", " ", "name"),
        ("NSM_BASE_DIR", "here", "absolute"),
        ("NSM_LISTEN_ON", "tcp://127.0.0.1:5001", "unix:///path"),
        ("NSM_MAX_TOKEN_LIFETIME", "0s", "10m"),
        ("NSM_SVID_LIFETIME", "1 fortnight", "10m"),
        ("NSM_CA_LIFETIME", "1s", "NSM_SVID_LIFETIME"),
        ("NSM_SPIFFE_ID_TEMPLATE", "/everybody", "{uid}"),
        ("NSM_METRICS_LISTEN_ON", "tcp://0.0.0.0:9090", "127.0.0.1"),
        ("NSM_EXCLUDED_PREFIXES_FILE", "", "name"),
    ] {
        let mut command = Command::new(program().unwrap());
        let output = command.env_clear().arg("standalone").env(name, value).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{name}={value}: {error}");
        for text in [name, value, allowed] {
            assert!(error.contains(text), "{name}={value}: no {text} in: {error}");
        }
        assert_eq!(error.matches(name).count(), 1 + usize::from(name == allowed), "{error}");
    }
}

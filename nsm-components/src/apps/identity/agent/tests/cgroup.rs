//! The whole way with the kernel's own cgroups: a process in a pod's cgroup, agent, authority.
//!
//! Needs root and a writable cgroup file system. The process in the pod is this test program,
//! started once more as [`the_process_in_a_pod`].

use std::{
    path::Path,
    process::{Command, Output},
    sync::atomic::{AtomicUsize, Ordering},
};

use super::*;
use crate::{
    api::workload::{X509svidRequest, spiffe_workload_api_client::SpiffeWorkloadApiClient},
    apps::identity::{fake_api::pod, workload_api::SECURITY_HEADER},
};

const HERE: &str = "0a1b2c3d-1111-2222-3333-444455556666";
const ELSEWHERE: &str = "ffffffff-1111-2222-3333-444455556666";

/// Cgroups of one process, removed at the end.
struct Cgroups {
    /// Deepest folder of each hierarchy, and how many of its parents are ours.
    folders: Vec<PathBuf>,
    depth: usize,
}

impl Cgroups {
    /// `path` in some hierarchies of v1, or in the one of v2.
    fn make(path: &str) -> Option<Self> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let own = format!("nsm-test-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let mut cgroups = Self { folders: Vec::new(), depth: path.split('/').count() + 1 };
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        for mount in mounts.lines() {
            let fields: Vec<_> = mount.split(' ').collect();
            let [_, point, kind, options, ..] = fields[..] else { continue };
            let usable = kind == "cgroup2" || kind == "cgroup" && options.contains("pids");
            let usable = usable || kind == "cgroup" && options.contains("freezer");
            let folder = Path::new(point).join(&own).join(path);
            if usable && fs::create_dir_all(&folder).is_ok() {
                cgroups.folders.push(folder);
            }
        }
        (!cgroups.folders.is_empty()).then_some(cgroups)
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        for folder in &self.folders {
            for folder in folder.ancestors().take(self.depth) {
                let _ = fs::remove_dir(folder);
            }
        }
    }
}

/// Starts this program again as the process in a pod; it prints what it was given.
async fn ask(socket: &Path, cgroups: Option<&Cgroups>) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let folders = cgroups.map_or(&[][..], |cgroups| &cgroups.folders);
    command
        .args([
            "--exact",
            "apps::identity::agent::tests::cgroup::the_process_in_a_pod",
            "--ignored",
            "--nocapture",
        ])
        .env("NSM_TEST_SOCKET", socket)
        .env("NSM_TEST_CGROUPS", std::env::join_paths(folders).unwrap());
    let run = tokio::task::spawn_blocking(move || command.output());
    let Output { stdout, stderr, .. } = timeout(DEADLINE, run).await.unwrap().unwrap().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    let answer =
        stdout.lines().find_map(|line| line.split_once("answer: ").map(|(_, answer)| answer.to_owned()));
    answer.unwrap_or_else(|| panic!("no answer in {stdout} {stderr}"))
}

#[tokio::test]
#[ignore = "started by the test below, in a cgroup"]
async fn the_process_in_a_pod() {
    let Some(socket) = std::env::var_os("NSM_TEST_SOCKET") else { return };
    let folders = std::env::var_os("NSM_TEST_CGROUPS").unwrap();
    // No folder at all is one of no name, which would be the current one.
    for folder in std::env::split_paths(&folders).filter(|folder| !folder.as_os_str().is_empty()) {
        fs::write(folder.join("cgroup.procs"), "0").unwrap();
    }
    let connector = tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { tokio::net::UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    let channel = Endpoint::from_static("http://localhost").connect_with_connector(connector).await.unwrap();
    let mut request = Request::new(X509svidRequest {});
    request.metadata_mut().insert(SECURITY_HEADER, "true".parse().unwrap());
    let answer = async {
        let mut stream = SpiffeWorkloadApiClient::new(channel).fetch_x509svid(request).await?.into_inner();
        stream.message().await
    };
    match timeout(DEADLINE, answer).await.unwrap() {
        Ok(message) => println!("answer: {}", message.unwrap().svids[0].spiffe_id),
        Err(status) => println!("answer: {:?} {}", status.code(), status.message()),
    }
}

#[tokio::test]
async fn a_process_gets_the_identity_of_the_pod_whose_cgroup_it_is_in() {
    let (Some(here), Some(elsewhere), Some(nested)) = (
        Cgroups::make(&format!("kubepods/besteffort/pod{HERE}/c")),
        Cgroups::make(&format!("kubepods/burstable/pod{ELSEWHERE}/c")),
        Cgroups::make(&format!("kubepods/pod{HERE}/c/pod{ELSEWHERE}/c")),
    ) else {
        return println!("skipped: no cgroups can be made here");
    };
    let api = FakeApi::new();
    api.add_pod(pod(HERE, "default", "web", "node1", "ReplicaSet"));
    api.add_pod(pod(ELSEWHERE, "default", "web", "node2", "ReplicaSet"));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("token"), "token1").unwrap();
    let authority = Target::Tcp(listener.local_addr().unwrap().to_string());
    start_authority(&api, listener);
    let daemon = Daemon::start_with(&api, folder.path(), authority);
    until(async || probe_agent(&daemon.settings).await.is_ok()).await;

    let socket = folder.path().join("agent.sock");
    let expected = format!("spiffe://k8s.nsm/ns/default/sa/web/pod/pod-{HERE}");
    assert_eq!(ask(&socket, Some(&here)).await, expected);
    let refused = ask(&socket, Some(&elsewhere)).await;
    assert!(refused.starts_with("PermissionDenied") && refused.contains("on node node2"), "{refused}");
    let refused = ask(&socket, Some(&nested)).await;
    assert!(refused.starts_with("PermissionDenied") && refused.contains("names two pods"), "{refused}");
    let refused = ask(&socket, None).await;
    assert!(refused.starts_with("PermissionDenied") && refused.contains("in no pod"), "{refused}");
}

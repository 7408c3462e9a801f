//! What may go wrong on a node: the disk is full, a pod dies while it asks, a name is taken, everybody
//! starts at once. A Request fails with the reason and leaves nothing, and the next one succeeds.

use std::{
    fs,
    process::Command,
    time::{Duration, Instant},
};

use futures::future::{join_all, try_join_all};
use nsm_e2e::{
    interface::interfaces,
    mesh::{Mesh, START, Signal, Who},
    wait::{may_run, until_true},
};

use crate::{
    player::{Player, runtime},
    story::{IFNAME, LIFE},
};

/// As many as a node may start in one moment.
const PODS: usize = 64;

/// How much later than a token's end its connection may go.
const LATE: Duration = Duration::from_secs(8);

/// A small disk in the place of a folder, as long as the value lives.
struct Disk<'a>(&'a std::path::Path);

impl<'a> Disk<'a> {
    fn at(folder: &'a std::path::Path) -> Self {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=32k", "none"]).arg(folder);
        assert!(mount.status().unwrap().success());
        Self(folder)
    }

    fn fill(&self) {
        assert!(fs::write(self.0.join("full"), vec![0; 64 << 10]).is_err(), "it is not full");
    }

    fn empty(&self) {
        fs::remove_file(self.0.join("full")).unwrap();
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0).status();
    }
}

#[test]
fn a_full_disk_fails_a_request_with_its_reason_and_the_next_one_succeeds_when_there_is_room() {
    if !may_run() {
        return;
    }
    let mut mesh = Mesh::start(LIFE).unwrap();
    let endpoint = mesh.endpoint(2, "finance", &[]).unwrap();
    mesh.says(endpoint, "registered", START).unwrap();
    let folder = mesh.journal_folder(2);
    mesh.end(&[Who::Forwarder(2)], Signal::SIGTERM).unwrap();
    let disk = Disk::at(&folder);
    mesh.start_again(&[Who::Forwarder(2)]).unwrap();
    disk.fill();
    let client = mesh.client(2, &format!("kernel://finance/{IFNAME}")).unwrap();
    mesh.says(client, "No space left on device", START).unwrap();
    for pod in [client, endpoint] {
        assert_eq!(interfaces(mesh.pod_of(pod).unwrap()).unwrap(), []);
    }
    let entries = || {
        fs::read_dir(&folder)
            .unwrap()
            .flatten()
            .filter(|e| e.path().extension().is_some_and(|ending| ending == "json"))
            .count()
    };
    assert_eq!(entries(), 0);
    disk.empty();
    mesh.connected(client, IFNAME).unwrap();
    mesh.end(&[client], Signal::SIGTERM).unwrap();
    mesh.is_clean(LIFE + LATE).unwrap();
    mesh.end(&[Who::Forwarder(2)], Signal::SIGTERM).unwrap();
    drop(disk);
}

#[test]
fn a_pod_that_dies_while_it_asks_leaves_nothing() {
    if !may_run() {
        return;
    }
    let mut mesh = Mesh::start(LIFE).unwrap();
    let endpoint = mesh.endpoint(2, "finance", &[]).unwrap();
    mesh.says(endpoint, "registered", START).unwrap();
    for node in [1, 2] {
        // The answer of the endpoint waits until the pod is gone.
        mesh.process(endpoint).unwrap().signal(Signal::SIGSTOP).unwrap();
        let client = mesh.client(node, &format!("kernel://finance/{IFNAME}")).unwrap();
        let asked = |mesh: &Mesh| {
            let socket = mesh.metrics_socket(Who::Forwarder(node));
            nsm_e2e::figures::figures(&socket).is_ok_and(|seen| seen["nsm_requests_in_flight"] > 0)
        };
        until_true("the forwarder works on the Request", START, || asked(&mesh)).unwrap();
        let gone = mesh.begin_delete(client).unwrap();
        mesh.process(endpoint).unwrap().signal(Signal::SIGCONT).unwrap();
        gone.wait(LIFE + LATE).unwrap();
        mesh.is_clean(LIFE * 2 + LATE).unwrap();
    }
    let client = mesh.client(2, &format!("kernel://finance/{IFNAME}")).unwrap();
    mesh.connected(client, IFNAME).unwrap();
}

#[test]
fn an_interface_name_that_a_pod_has_is_named_and_the_request_succeeds_once_it_is_free() {
    if !may_run() {
        return;
    }
    let mut mesh = Mesh::start(LIFE).unwrap();
    let endpoint = mesh.endpoint(2, "finance", &[]).unwrap();
    mesh.says(endpoint, "registered", START).unwrap();
    let first = mesh.empty_pod(2).unwrap();
    let pod = mesh.pod_of(first).unwrap().clone();
    pod.ip(&format!("link add {IFNAME} type bridge")).unwrap();
    let client = mesh.client_beside(first, 2, &format!("kernel://finance/{IFNAME}")).unwrap();
    mesh.says(client, &format!("interface {IFNAME} exists"), START).unwrap();
    assert_eq!(interfaces(mesh.pod_of(endpoint).unwrap()).unwrap(), []);
    assert!(pod.ip(&format!("-d link show {IFNAME}")).unwrap().contains("bridge"));
    pod.ip(&format!("link delete {IFNAME}")).unwrap();
    mesh.connected(client, IFNAME).unwrap();
}

#[test]
fn sixty_four_pods_that_start_at_once_on_one_node_are_all_connected_and_leave_nothing() {
    if !may_run() {
        return;
    }
    let life = Duration::from_mins(1);
    let mut mesh = Mesh::start_with(life, &[("NSM_LOG_LEVEL", "INFO")]).unwrap();
    let endpoint = mesh.endpoint(2, "finance", &[]).unwrap();
    mesh.says(endpoint, "registered", START).unwrap();
    let pods: Vec<_> = (0..PODS).map(|_| mesh.empty_pod(2).unwrap()).collect();
    runtime().block_on(async {
        let player = Player::on(&mesh, 2);
        let begin = Instant::now();
        let open = pods.iter().enumerate().map(|(number, who)| {
            let (player, pod) = (&player, mesh.pod_of(*who).unwrap());
            async move { player.open(&format!("start-{number}"), "finance", IFNAME, pod).await }
        });
        let opened = join_all(open).await;
        println!("{PODS} in {:?}", begin.elapsed());
        let failed: Vec<_> = opened.iter().filter_map(|opened| opened.as_ref().err()).collect();
        assert!(failed.is_empty(), "{} of {PODS} failed: {failed:?}", failed.len());
        let at_endpoint = interfaces(mesh.pod_of(endpoint).unwrap()).unwrap();
        assert_eq!(at_endpoint.len(), PODS);
        let mut addresses: Vec<_> = at_endpoint.iter().filter_map(|interface| interface.peer).collect();
        addresses.sort_unstable();
        addresses.dedup();
        assert_eq!(addresses.len(), PODS, "each has an address of its own");
        try_join_all(opened.into_iter().flatten().map(|opened| player.close(opened))).await.unwrap();
    });
    mesh.is_clean(LATE).unwrap();
}

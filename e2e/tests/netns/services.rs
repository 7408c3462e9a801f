//! Network services come and go, and a pod may use several.

use std::time::{Duration, Instant};

use nsm_e2e::{
    interface::interfaces,
    mesh::{Mesh, START, Signal, Who},
    wait::{may_run, until_true},
};

use crate::story::{IFNAME, LIFE};

/// For two clients to start and connect, on a busy machine.
const SOON: Duration = Duration::from_secs(15);

#[test]
fn a_client_of_an_unknown_service_says_so_and_connects_when_it_appears() {
    if !may_run() {
        return;
    }
    let mut mesh = Mesh::start(LIFE).unwrap();
    let client = mesh.client(1, &format!("kernel://finance/{IFNAME}")).unwrap();
    let line = mesh.says(client, "network service finance is not found", START).unwrap();
    assert!(line.contains("trying again"), "{line}");
    let process = mesh.process(client).unwrap().id();
    mesh.endpoint(2, "finance", &[]).unwrap();
    mesh.connected(client, IFNAME).unwrap();
    assert_eq!(mesh.process(client).unwrap().id(), process);
}

#[test]
fn a_pod_has_an_interface_for_every_service_that_its_clients_ask_for() {
    if !may_run() {
        return;
    }
    let mut mesh = Mesh::start(LIFE).unwrap();
    mesh.endpoint(2, "finance", &[]).unwrap();
    mesh.endpoint(1, "weather,news", &[]).unwrap();
    let client = mesh.client(1, "kernel://finance/nsm-1,kernel://weather/nsm-2").unwrap();
    let other = mesh.client_beside(client, 1, "kernel://news/nsm-3").unwrap();
    let prefixes = [(client, "nsm-1", 1, "vxlan"), (client, "nsm-2", 2, "veth"), (other, "nsm-3", 2, "veth")];
    for (client, name, number, kind) in prefixes {
        let interface = mesh.connected(client, name).unwrap();
        assert_eq!(interface.address.unwrap().0.octets()[..3], [172, 16, number]);
        assert_eq!(interface.kind, kind);
    }
    assert_eq!(interfaces(mesh.pod_of(client).unwrap()).unwrap().len(), 3);
}

const TWO: &str = "kernel://finance/nsm-1,kernel://weather/nsm-2";

/// Addresses of a client of two services whose endpoints hand out the same ones.
fn addresses_of_two(settings: &[(&str, &str)]) -> Option<[std::net::Ipv4Addr; 2]> {
    if !may_run() {
        return None;
    }
    let mut mesh = Mesh::start(LIFE).unwrap();
    for (node, service) in [(1, "finance"), (2, "weather")] {
        mesh.endpoint(node, service, &[("NSM_CIDR_PREFIX", "172.16.5.0/24")]).unwrap();
    }
    let client = mesh.client_with(1, TWO, settings).unwrap();
    // An interface is there before its client has looked at what it was granted.
    let connected = |line: &&str| line.contains("\"connected\"") && line.contains("\"service\"");
    until_true("both are connected", START, || {
        mesh.process(client).is_ok_and(|client| client.log().lines().filter(connected).count() >= 2)
    })
    .unwrap();
    Some(["nsm-1", "nsm-2"].map(|name| mesh.connected(client, name).unwrap().address.unwrap().0))
}

#[test]
fn two_connections_of_a_client_never_have_the_same_address() {
    if let Some([first, second]) = addresses_of_two(&[]) {
        assert_ne!(first, second);
    }
}

#[test]
fn two_connections_of_one_awareness_group_may_have_the_same_address() {
    if let Some([first, second]) = addresses_of_two(&[("NSM_AWARENESS_GROUPS", &format!("[{TWO}]"))]) {
        assert_eq!(first, second);
    }
}

/// Processes that forget everything when they are killed learn it again from those that live, long
/// before a token ends: a client that comes right afterwards is connected at once.
fn a_new_client_connects_soon_after(whom: &[Who]) {
    if !may_run() {
        return;
    }
    let mut mesh = Mesh::start(Duration::from_mins(10)).unwrap();
    mesh.endpoint(2, "finance", &[]).unwrap();
    let first = mesh.client(1, "kernel://finance/nsm-1").unwrap();
    mesh.connected(first, "nsm-1").unwrap();
    mesh.end(whom, Signal::SIGKILL).unwrap();
    mesh.start_again(whom).unwrap();
    let start = Instant::now();
    for node in [1, 2] {
        let client = mesh.client(node, "kernel://finance/nsm-1").unwrap();
        mesh.connected(client, "nsm-1").unwrap();
    }
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
}

#[test]
fn a_registry_that_lost_everything_learns_it_again_at_once() {
    a_new_client_connects_soon_after(&[Who::Registry]);
}

#[test]
fn nsmgrs_that_lost_everything_learn_it_again_at_once() {
    a_new_client_connects_soon_after(&[Who::Nsmgr(1), Who::Nsmgr(2)]);
}

#[test]
fn forwarders_that_were_started_anew_are_found_at_once() {
    a_new_client_connects_soon_after(&[Who::Forwarder(1), Who::Forwarder(2)]);
}

#[test]
fn a_whole_mesh_that_was_started_anew_learns_everything_again_at_once() {
    let nodes = [Who::Nsmgr(1), Who::Nsmgr(2), Who::Forwarder(1), Who::Forwarder(2)];
    a_new_client_connects_soon_after(&[&[Who::Identity, Who::Registry], &nodes[..]].concat());
}

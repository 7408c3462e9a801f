//! Upstream's client in our mesh.

use nsm_e2e::{
    interface::interfaces,
    mesh::{Mesh, START, Who},
    wait::{may_run, until_true},
};

use crate::upstream::{IFNAME, LATE, LIFE, Upstream, assert_whole, restart_nsmgrs, stream};

/// One endpoint of ours on node 2, one client of upstream on this node.
fn a_client_is_served_on(node: usize) {
    if !may_run() {
        return;
    }
    let mut mesh = Mesh::start(LIFE).unwrap();
    let endpoint = mesh.endpoint(2, "finance", &[]).unwrap();
    let pod = mesh.empty_pod(node).unwrap();
    let mut client = Upstream::client(&mesh, pod, node, &format!("kernel://finance/{IFNAME}"));
    client.says("connected to nse-1", START);
    let (interface, stream) = stream(&mesh, pod, endpoint);
    client.answers(2);
    restart_nsmgrs(&mut mesh, &[1, 2]);
    client.answers(2);
    assert_whole(stream);
    assert_eq!(mesh.connected(pod, IFNAME).unwrap(), interface);
    let answered = client.answered();
    assert!(answered.iter().all(|ids| *ids == answered[0]), "a refresh keeps all ids: {answered:?}");
    client.stop();
    client.says("closed", LATE);
    mesh.is_clean(LATE).unwrap();
    assert!(mesh.process(Who::Nsmgr(node)).unwrap().id().is_some());
}

#[test]
fn a_client_of_upstream_beside_its_endpoint_is_served_from_request_to_close() {
    a_client_is_served_on(2);
}

#[test]
fn a_client_of_upstream_on_another_node_is_served_from_request_to_close() {
    a_client_is_served_on(1);
}

#[test]
fn a_client_of_upstream_whose_endpoint_is_gone_gets_another() {
    if !may_run() {
        return;
    }
    let mut mesh = Mesh::start(LIFE).unwrap();
    let gone = mesh.endpoint(2, "finance", &[]).unwrap();
    let pod = mesh.empty_pod(1).unwrap();
    let mut client = Upstream::client(&mesh, pod, 1, &format!("kernel://finance/{IFNAME}"));
    client.says("connected to nse-1", START);
    let other = mesh.endpoint(1, "finance", &[]).unwrap();
    mesh.says(other, "\"registered\"", START).unwrap();
    mesh.delete_pod(gone, START).unwrap();
    let reached = || {
        let found = interfaces(mesh.pod_of(pod).unwrap()).unwrap();
        found.iter().any(|found| found.address.is_some_and(|(ip, _)| ip.octets()[..3] == [172, 16, 2]))
    };
    until_true("it is connected to the other endpoint", LIFE + LATE, reached).unwrap();
    let (_, stream) = stream(&mesh, pod, other);
    client.answers(2);
    assert_whole(stream);
    client.stop();
    mesh.is_clean(LIFE + LATE).unwrap();
}

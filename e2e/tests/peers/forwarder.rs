//! Upstream's control plane of a forwarder beneath our nsmgr, and our forwarders among nothing else of ours.

use nsm_e2e::{
    mesh::{Mesh, START, Signal, program},
    wait::may_run,
};

use serde_json::Value;

use crate::upstream::{IFNAME, LATE, LIFE, Upstream, assert_whole, restart_nsmgrs, stream};

#[test]
fn a_forwarder_of_upstream_takes_our_requests_to_our_endpoint() {
    if !may_run() {
        return;
    }
    let mut mesh = Mesh::start(LIFE).unwrap();
    let forwarder = Upstream::forwarder(&mut mesh, 1);
    forwarder.says("registered forwarder-1", START);
    mesh.endpoint(1, "finance", &[]).unwrap();
    let client = mesh.client(1, &format!("kernel://finance/{IFNAME}")).unwrap();
    mesh.says(client, "\"connected\"", START).unwrap();
    forwarder.answers(2);
    restart_nsmgrs(&mut mesh, &[1]);
    forwarder.answers(2);
    let answered = forwarder.answered();
    assert!(answered.iter().all(|ids| *ids == answered[0]), "a refresh keeps all ids: {answered:?}");
    // It tells no feature level, and the path has none; nor does it know what a drain is.
    let command = |arguments: &[&str]| {
        let mut command = mesh.nodes()[0].command(program().unwrap());
        let sockets =
            [("NSM_CONNECT_TO", mesh.nsmgr_socket(1)), ("SPIFFE_ENDPOINT_SOCKET", mesh.workload_api())];
        command
            .args(arguments)
            .envs(sockets.map(|(name, path)| (name, format!("unix://{}", path.display()))));
        command.output().unwrap()
    };
    let listing: Value = serde_json::from_slice(&command(&["connections", "-o", "json"]).stdout).unwrap();
    assert_eq!(listing["connections"][0]["featureLevel"], 0, "{listing:#}");
    let levels: Vec<_> =
        listing["processes"].as_array().unwrap().iter().map(|one| &one["featureLevel"]).collect();
    assert_eq!(levels, [1, 0], "{listing:#}");
    let drained = command(&["drain", "--timeout", "1s"]);
    let said = String::from_utf8(drained.stderr).unwrap();
    assert_eq!(drained.status.code(), Some(1), "{said}");
    assert!(said.contains("forwarder-1: it tells nothing of itself"), "{said}");
    assert_eq!(command(&["drain", "--undo", "--timeout", "1s"]).status.code(), Some(1));
    forwarder.answers(2);
    mesh.end(&[client], Signal::SIGTERM).unwrap();
    mesh.says(client, "\"closed\"", LATE).unwrap();
    forwarder.says("close of", LATE);
}

#[test]
fn our_forwarders_carry_packets_where_all_else_is_of_upstream() {
    if !may_run() {
        return;
    }
    let mut mesh = Mesh::start(LIFE).unwrap();
    let _registry = Upstream::registry(&mut mesh);
    let mut nsmgrs = [1, 2].map(|node| Upstream::nsmgr(&mut mesh, node));
    let pod = mesh.empty_pod(2).unwrap();
    let (mut endpoint, name) = Upstream::endpoint(&mesh, pod, 2, "finance");
    endpoint.says(&format!("registered {name}"), START);
    let mut clients = [1, 2].map(|node| {
        let pod = mesh.empty_pod(node).unwrap();
        (pod, Upstream::client(&mesh, pod, node, &format!("kernel://finance/{IFNAME}")))
    });
    let connected = [&clients[0], &clients[1]].map(|(client, _)| stream(&mesh, *client, pod));
    for (_, client) in &clients {
        client.answers(2);
    }
    for nsmgr in &mut nsmgrs {
        nsmgr.restart(Signal::SIGKILL);
    }
    for (_, client) in &clients {
        client.answers(2);
    }
    for ((client, _), (interface, stream)) in clients.iter().zip(connected) {
        assert_whole(stream);
        assert_eq!(mesh.connected(*client, IFNAME).unwrap(), interface);
    }
    for (_, client) in &mut clients {
        client.stop();
    }
    mesh.is_clean(LATE).unwrap();
    endpoint.stop();
}

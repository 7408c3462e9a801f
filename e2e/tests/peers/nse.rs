//! Upstream's endpoint in our mesh.

use nsm_e2e::{
    mesh::{Mesh, START, Signal},
    wait::may_run,
};

use crate::upstream::{IFNAME, LATE, LIFE, Upstream, assert_whole, restart_nsmgrs, stream};

#[test]
fn an_endpoint_of_upstream_serves_clients_of_both_nodes_from_request_to_close() {
    if !may_run() {
        return;
    }
    let mut mesh = Mesh::start(LIFE).unwrap();
    let pod = mesh.empty_pod(2).unwrap();
    let (mut endpoint, name) = Upstream::endpoint(&mesh, pod, 2, "finance");
    endpoint.says(&format!("registered {name}"), START);
    let watcher = Upstream::watcher(&mesh, 1, "finance");
    watcher.says(&format!("there is {name}"), START);
    let clients = [1, 2].map(|node| mesh.client(node, &format!("kernel://finance/{IFNAME}")).unwrap());
    let connected = clients.map(|client| stream(&mesh, client, pod));
    // Of each client twice.
    endpoint.answers(4);
    restart_nsmgrs(&mut mesh, &[1, 2]);
    endpoint.answers(4);
    for (client, (interface, stream)) in clients.into_iter().zip(connected) {
        assert_whole(stream);
        assert_eq!(mesh.connected(client, IFNAME).unwrap(), interface);
    }
    let mut answered = endpoint.answered();
    answered.sort();
    answered.dedup();
    assert_eq!(answered.len(), 2, "a refresh keeps all ids: {answered:?}");
    mesh.end(&clients, Signal::SIGTERM).unwrap();
    endpoint.says("close of", LATE);
    mesh.is_clean(LATE).unwrap();
    endpoint.stop();
    watcher.says(&format!("gone is {name}"), LATE);
}

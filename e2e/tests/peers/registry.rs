//! Upstream's registry beneath our nsmgrs, and what upstream's watchers see of ours.

use nsm_e2e::{
    mesh::{Mesh, START, Signal},
    wait::may_run,
};

use crate::upstream::{IFNAME, LATE, LIFE, Upstream, assert_whole, restart_nsmgrs, stream};

/// Watchers of upstream see endpoints of ours come, be taken back, and expire.
pub(crate) fn watchers_see_endpoints(mesh: &mut Mesh) {
    let watchers = [1, 2].map(|node| Upstream::watcher(mesh, node, "weather"));
    let polite = mesh.endpoint(1, "weather", &[("NSM_UNREGISTER_ITSELF", "true")]).unwrap();
    let killed = mesh.endpoint(2, "weather", &[]).unwrap();
    for watcher in &watchers {
        watcher.says(&format!("there is {polite}"), START);
        watcher.says(&format!("there is {killed}"), START);
    }
    mesh.end(&[polite], Signal::SIGTERM).unwrap();
    mesh.end(&[killed], Signal::SIGKILL).unwrap();
    for watcher in &watchers {
        watcher.says(&format!("gone is {polite}"), LATE);
    }
    for watcher in &watchers {
        watcher.says(&format!("gone is {killed}"), LIFE + LATE);
    }
}

#[test]
fn watchers_of_upstream_see_our_endpoints_come_and_go() {
    if !may_run() {
        return;
    }
    watchers_see_endpoints(&mut Mesh::start(LIFE).unwrap());
}

#[test]
pub(crate) fn watchers_see_endpoints_come_and_go_in_a_registry_of_upstream() {
    if !may_run() {
        return;
    }
    let mut mesh = Mesh::start(LIFE).unwrap();
    let _registry = Upstream::registry(&mut mesh);
    watchers_see_endpoints(&mut mesh);
}

#[test]
fn a_mesh_with_a_registry_of_upstream_serves_its_clients_and_outlives_restarts() {
    if !may_run() {
        return;
    }
    let mut mesh = Mesh::start(LIFE).unwrap();
    let mut registry = Upstream::registry(&mut mesh);
    let endpoint = mesh.endpoint(2, "finance", &[]).unwrap();
    let clients = [1, 2].map(|node| mesh.client(node, &format!("kernel://finance/{IFNAME}")).unwrap());
    let connected = clients.map(|client| stream(&mesh, client, endpoint));
    registry.restart(Signal::SIGKILL);
    restart_nsmgrs(&mut mesh, &[1, 2]);
    // What is not refreshed is gone by then.
    connected[0].1.run_for(LIFE + LATE).unwrap();
    for (client, (interface, stream)) in clients.into_iter().zip(connected) {
        assert_whole(stream);
        assert_eq!(mesh.connected(client, IFNAME).unwrap(), interface);
    }
    // The registry that was started anew has learnt of the endpoint again.
    let late = mesh.client(1, &format!("kernel://finance/{IFNAME}")).unwrap();
    mesh.connected(late, IFNAME).unwrap();
    mesh.end(&clients, Signal::SIGTERM).unwrap();
    mesh.end(&[late], Signal::SIGTERM).unwrap();
    mesh.is_clean(LATE).unwrap();
}

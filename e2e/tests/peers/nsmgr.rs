//! Upstream's nsmgr among our processes.

use nsm_e2e::{
    mesh::{Mesh, Signal, Who},
    stream::Stream,
    wait::may_run,
};

use crate::registry::watchers_see_endpoints;
use crate::upstream::{IFNAME, LATE, LIFE, Upstream, assert_whole, stream};

/// Upstream's nsmgr on node 1 with a client of ours there and an endpoint of ours on this node: what `happens`
/// while packets pass costs none of them.
fn nothing_is_lost_when(node: usize, happens: impl FnOnce(&mut Mesh, &mut Upstream, Who, &Stream)) {
    if !may_run() {
        return;
    }
    let mut mesh = Mesh::start(LIFE).unwrap();
    let mut nsmgr = Upstream::nsmgr(&mut mesh, 1);
    let endpoint = mesh.endpoint(node, "finance", &[]).unwrap();
    let client = mesh.client(1, &format!("kernel://finance/{IFNAME}")).unwrap();
    let (interface, stream) = stream(&mesh, client, endpoint);
    happens(&mut mesh, &mut nsmgr, client, &stream);
    // What is not refreshed is gone by then.
    stream.run_for(LIFE + LATE).unwrap();
    assert_whole(stream);
    assert_eq!(mesh.connected(client, IFNAME).unwrap(), interface);
    mesh.end(&[client], Signal::SIGTERM).unwrap();
    mesh.is_clean(LATE).unwrap();
}

fn an_nsmgr_serves_with_the_endpoint_on(node: usize) {
    nothing_is_lost_when(node, |_, nsmgr, _, stream| {
        stream.run_for(LIFE / 2).unwrap();
        nsmgr.restart(Signal::SIGKILL);
    });
}

#[test]
fn an_nsmgr_of_upstream_connects_a_client_with_an_endpoint_beside_it() {
    an_nsmgr_serves_with_the_endpoint_on(1);
}

#[test]
fn an_nsmgr_of_upstream_connects_a_client_with_an_endpoint_on_another_node() {
    an_nsmgr_serves_with_the_endpoint_on(2);
}

/// Upstream's nsmgr knows a connection by the ids in its path alone.
#[test]
fn a_client_of_ours_that_is_killed_finds_its_connection_again_at_an_nsmgr_of_upstream() {
    nothing_is_lost_when(1, |mesh, _, client, _| {
        mesh.end(&[client], Signal::SIGKILL).unwrap();
        mesh.start_again(&[client]).unwrap();
        mesh.says(client, "going on with what there was before", LATE).unwrap();
    });
}

#[test]
fn endpoints_of_ours_come_and_go_with_an_nsmgr_of_upstream() {
    if !may_run() {
        return;
    }
    let mut mesh = Mesh::start(LIFE).unwrap();
    let _nsmgr = Upstream::nsmgr(&mut mesh, 1);
    watchers_see_endpoints(&mut mesh);
}

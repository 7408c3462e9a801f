//! One kind of process is ours, the rest is upstream's but for the forwarders. The other way round,
//! one of upstream's among ours, has a file for each kind.

use nsm_e2e::{
    mesh::{Mesh, START, Signal},
    wait::may_run,
};

use crate::upstream::{IFNAME, LATE, LIFE, Upstream, assert_whole, restart_nsmgrs, stream};

/// What is ours.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ours {
    Registry,
    Nsmgrs,
    Client,
    Endpoint,
}

/// A client on one node and its endpoint on the other, from the Request to the Close.
fn all_else_is_of_upstream(ours: Ours) {
    if !may_run() {
        return;
    }
    let mut mesh = Mesh::start(LIFE).unwrap();
    let _registry = (ours != Ours::Registry).then(|| Upstream::registry(&mut mesh));
    let nodes: &[usize] = if ours == Ours::Nsmgrs { &[] } else { &[1, 2] };
    let mut nsmgrs: Vec<_> = nodes.iter().map(|node| Upstream::nsmgr(&mut mesh, *node)).collect();
    let (pod, mut endpoint) = if ours == Ours::Endpoint {
        (mesh.endpoint(2, "finance", &[]).unwrap(), None)
    } else {
        let pod = mesh.empty_pod(2).unwrap();
        let (endpoint, name) = Upstream::endpoint(&mesh, pod, 2, "finance");
        endpoint.says(&format!("registered {name}"), START);
        (pod, Some(endpoint))
    };
    let services = format!("kernel://finance/{IFNAME}");
    let (who, mut client) = if ours == Ours::Client {
        (mesh.client(1, &services).unwrap(), None)
    } else {
        let pod = mesh.empty_pod(1).unwrap();
        (pod, Some(Upstream::client(&mesh, pod, 1, &services)))
    };
    let (interface, stream) = stream(&mesh, who, pod);
    let witness = client.as_ref().or(endpoint.as_ref()).unwrap();
    witness.answers(2);
    for nsmgr in &mut nsmgrs {
        nsmgr.restart(Signal::SIGKILL);
    }
    if nsmgrs.is_empty() {
        restart_nsmgrs(&mut mesh, &[1, 2]);
    }
    witness.answers(2);
    assert_whole(stream);
    assert_eq!(mesh.connected(who, IFNAME).unwrap(), interface);
    match &mut client {
        Some(client) => client.stop(),
        None => mesh.end(&[who], Signal::SIGTERM).unwrap(),
    }
    mesh.is_clean(LATE).unwrap();
    if let Some(endpoint) = &mut endpoint {
        endpoint.says("close of", LATE);
        endpoint.stop();
    }
}

#[test]
fn our_registry_alone_serves_a_mesh_of_upstream() {
    all_else_is_of_upstream(Ours::Registry);
}

#[test]
fn our_nsmgrs_alone_serve_a_mesh_of_upstream() {
    all_else_is_of_upstream(Ours::Nsmgrs);
}

#[test]
fn our_client_alone_is_served_by_a_mesh_of_upstream() {
    all_else_is_of_upstream(Ours::Client);
}

#[test]
fn our_endpoint_alone_serves_in_a_mesh_of_upstream() {
    all_else_is_of_upstream(Ours::Endpoint);
}

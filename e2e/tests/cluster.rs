//! The operator as a user sees it, on two real nodes: install, connect, look, break, remove.
//!
//! The cluster is started and removed around these tests by `make test TIER=cluster`. Each test
//! makes sure of what it needs first, so they run in any order, but one after the other: there is
//! one mesh a cluster.
#![allow(clippy::unwrap_used, clippy::panic, unreachable_pub, missing_docs)]

#[path = "cluster/deletions.rs"]
mod deletions;
#[path = "cluster/kubectl.rs"]
mod kubectl;
#[path = "cluster/mesh.rs"]
mod mesh;

use std::time::Duration;

use kubectl::{Kubectl, eventually};
use mesh::{Ping, connected, installed, peer};

const MINUTE: Duration = Duration::from_mins(1);

#[test]
fn the_samples_connect_two_clients_one_of_them_across_nodes_and_the_status_tells_so() {
    let k = Kubectl::new();
    connected(&k);
    let nodes =
        ["client-local", "client-remote"].map(|pod| k.field("nsm-demo", "pod", pod, ".spec.nodeName"));
    let endpoint = k.get(&["-n", "nsm-demo", "get", "pods", "-o", "json"]);
    let endpoint = endpoint["items"].as_array().unwrap().iter().find_map(|pod| {
        let name = pod["metadata"]["name"].as_str()?;
        name.starts_with("icmp-responder").then(|| pod["spec"]["nodeName"].as_str().unwrap().to_owned())
    });
    assert_eq!(nodes[0], endpoint.unwrap(), "the local client sits beside the endpoint");
    assert_ne!(nodes[0], nodes[1], "the remote client sits elsewhere");
    for client in ["client-local", "client-remote"] {
        let ping = Ping::start(&k, client, &peer(&k, client), 20, "0.05");
        assert_eq!(ping.lost(), 0, "{client}");
    }
    let table = k.text(&["get", "nsm"]);
    let row: Vec<_> = table.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row[..5], ["default", "True", "2", "2", "0"], "{table}");
    let services = k.text(&["get", "netsvc,nse", "-A"]);
    let service = services.lines().find(|line| line.contains("networkservice.")).unwrap();
    let row: Vec<_> = service.split_whitespace().collect();
    assert_eq!(row[2..5], ["ETHERNET", "1", "2"], "one endpoint, two connections: {services}");
    let endpoint = services.lines().find(|line| line.contains("networkserviceendpoint.")).unwrap();
    let row: Vec<_> = endpoint.split_whitespace().collect();
    assert_eq!(row[2..5], ["True", "1", "2"], "registered once, two connections: {services}");
}

#[test]
fn an_edited_daemonset_image_is_put_back() {
    let k = Kubectl::new();
    installed(&k);
    let image = ".spec.template.spec.containers[0].image";
    let forwarder = mesh::daemon_set(&k, "forwarder");
    let before = k.field("nsm-system", "daemonset", &forwarder, image);
    let set = format!("daemonset/{forwarder}");
    k.run(&["-n", "nsm-system", "set", "image", &set, "forwarder=nsm.local/other:1"]);
    eventually("the image is put back", MINUTE, || {
        k.field("nsm-system", "daemonset", &forwarder, image) == before
    });
    eventually("the mesh is ready again", MINUTE, || mesh::is_ready(&k));
}

#[test]
fn an_operator_that_is_started_again_writes_nothing() {
    let k = Kubectl::new();
    connected(&k);
    let audit = kubectl::Audit::of("system:serviceaccount:nsm-operator:nsm-operator");
    // What was changed before may still be followed by a status.
    audit.quiet_for(Duration::from_secs(3), MINUTE);
    let mark = audit.len();
    k.run(&["-n", "nsm-operator", "rollout", "restart", "deployment/nsm-operator"]);
    k.run(&["-n", "nsm-operator", "rollout", "status", "deployment/nsm-operator", "--timeout=60s"]);
    eventually("the new operator watches", MINUTE, || {
        audit.since(mark).iter().filter(|request| request.verb == "watch").count() >= 8
    });
    // Its first pass over everything is over when it asks nothing more.
    audit.quiet_for(Duration::from_secs(3), MINUTE);
    let writes: Vec<_> = audit.since(mark).into_iter().filter(kubectl::Request::is_write).collect();
    assert!(writes.is_empty(), "{writes:#?}");
}

#[test]
fn no_packet_is_lost_while_every_pod_of_the_mesh_is_killed() {
    let k = Kubectl::new();
    connected(&k);
    let pings = ["client-local", "client-remote"]
        .map(|client| Ping::start(&k, client, &peer(&k, client), 1500, "0.01"));
    for name in ["forwarder", "nsmgr", "nsm-identity-agent", "registry", "nsm-identity-authority"] {
        let selector = format!("app.kubernetes.io/name={name}");
        k.run(&["-n", "nsm-system", "delete", "pods", "-l", &selector, "--force", "--grace-period=0"]);
    }
    eventually("the mesh is ready again", MINUTE, || mesh::pods_are_ready(&k));
    for ping in pings {
        assert_eq!(ping.lost(), 0);
    }
    eventually("the connections are reported again", 2 * MINUTE, || mesh::connections(&k) == 2);
}

#[test]
fn both_nodes_are_moved_to_another_revision_and_clients_are_served_on() {
    let k = Kubectl::new();
    connected(&k);
    let before = mesh::daemon_set(&k, "forwarder");
    let users = || k.text(&["-n", "nsm-demo", "get", "pods", "-o", "jsonpath={.items[*].metadata.uid}"]);
    let pods = users();
    let pings = ["client-local", "client-remote"]
        .map(|client| Ping::start(&k, client, &peer(&k, client), 6000, "0.01"));
    let level = |level: &str| {
        let patch = format!(r#"{{"spec": {{"logLevel": {level}}}}}"#);
        k.run(&["patch", "nsm", "default", "--type=merge", "--patch", &patch]);
    };
    level("\"DEBUG\"");
    eventually("another revision of the forwarder runs alone", 2 * MINUTE, || {
        let now = mesh::daemon_set(&k, "forwarder");
        now != before && !now.contains(' ')
    });
    eventually("the mesh is ready again", MINUTE, || mesh::is_ready(&k));
    for (client, ping) in ["client-local", "client-remote"].into_iter().zip(pings) {
        assert_eq!(ping.lost(), 0, "{client}");
    }
    assert_eq!(users(), pods, "no pod of a user is restarted");
    eventually("the connections are reported again", 2 * MINUTE, || mesh::connections(&k) == 2);
    let labels = k.text(&["get", "nodes", "--show-labels", "--no-headers"]);
    assert!(!labels.contains("revision.node-restriction"), "{labels}");
    level("null");
    eventually("the mesh is ready again", 2 * MINUTE, || {
        mesh::daemon_set(&k, "forwarder") == before && mesh::is_ready(&k)
    });
}

#[test]
fn a_client_that_is_deleted_leaves_no_connection_behind() {
    let k = Kubectl::new();
    connected(&k);
    k.run(&["-n", "nsm-demo", "delete", "pod", "client-remote", "--timeout=60s"]);
    eventually("one connection is left", MINUTE, || mesh::connections(&k) == 1);
    eventually("the endpoint has one interface left", MINUTE, || {
        let service = k.field("nsm-demo", "netsvc", "icmp-responder", ".status.connections.total");
        service == "1"
    });
    connected(&k);
}

#[test]
fn deleting_the_nsmconfig_removes_what_it_made_and_nothing_else() {
    let k = Kubectl::new();
    installed(&k);
    k.apply("config/samples/00-namespace.yaml");
    k.apply("config/samples/networkservice.yaml");
    k.run(&["delete", "nsm", "default", "--timeout=120s"]);
    eventually("the mesh's namespace is gone", 2 * MINUTE, || k.is_gone(&["get", "namespace", "nsm-system"]));
    eventually("node states and bindings are gone", MINUTE, || {
        k.text(&["get", "nsmnode,clusterrolebindings", "-o", "name"]).lines().all(|name| {
            !name.contains("nsmnodestate")
                && !name.ends_with("/nsm-nsmgr")
                && !name.ends_with("/nsm-identity-authority")
        })
    });
    assert_eq!(k.field("nsm-demo", "netsvc", "icmp-responder", ".spec.payload"), "ETHERNET");
    installed(&k);
}

//! What says that another forwarder made it is left alone, even where it says a connection that is served here.

use std::time::Duration;

use nsm_e2e::{
    figures::figures,
    interface::GROUP,
    mesh::{Mesh, START, Signal, Who},
    wait::{may_run, until_true},
};
use serde_json::Value;

use crate::{
    context::with_policies,
    story::{IFNAME, LIFE},
};

/// No refresh comes while a test with this life runs.
const LONG: Duration = Duration::from_mins(3);

/// A packet mark that no forwarder here has.
const OTHER_MARK: &str = "0x7";

/// A priority and a table that nobody has.
const OTHER_PLACE: &str = "priority 100 table 77";

#[test]
fn a_link_that_another_forwarder_made_may_break_and_no_client_is_told() {
    if !may_run() {
        return;
    }
    let mut mesh = Mesh::start(LONG).unwrap();
    mesh.endpoint(2, "finance", &[]).unwrap();
    // It hears of nothing by itself: it would be healed before the forwarder tells.
    let silent = [("NSM_LIVENESS_CHECK_ENABLED", "false")];
    let client = mesh.client_with(1, &format!("kernel://finance/{IFNAME}"), &silent).unwrap();
    let connection = mesh.connected(client, IFNAME).unwrap().connection().unwrap().to_owned();
    let pod = mesh.pod_of(client).unwrap();
    pod.ip(&format!("link add other group {GROUP} type bridge")).unwrap();
    let alias = format!("nsm:{connection} of forwarder-1#00000000");
    assert!(pod.command("ip").args(["link", "set", "other", "alias", &alias]).status().unwrap().success());
    pod.ip("link delete other").unwrap();
    // Links break in the order in which the kernel tells it.
    pod.ip(&format!("link delete {IFNAME}")).unwrap();
    let told = mesh.says(Who::Forwarder(1), r#""message":"a link is broken"#, START).unwrap();
    assert!(told.contains(&format!(r#""interface":"{IFNAME}""#)), "{told}");
    mesh.connected(client, IFNAME).unwrap();
}

/// The rules of a pod that carry the mark of another forwarder.
fn others(mesh: &Mesh, client: Who) -> Vec<Value> {
    let rules = mesh.pod_of(client).unwrap().list("rule").unwrap();
    rules.into_iter().filter(|rule| rule["fwmark"] == OTHER_MARK).collect()
}

#[test]
fn a_rule_that_another_forwarder_made_is_left_by_refreshes_and_by_the_end_of_the_connection() {
    if !may_run() {
        return;
    }
    let mut mesh = Mesh::start(LIFE).unwrap();
    let (_, clients) = with_policies(&mut mesh);
    for client in clients {
        let pod = mesh.pod_of(client).unwrap();
        let rules = pod.list("rule").unwrap();
        let tag = rules.iter().find_map(|rule| rule["suppress_ifgroup"].as_str()).unwrap();
        let marks = format!("fwmark {OTHER_MARK}/0 protocol 78 suppress_ifgroup {tag}");
        pod.ip(&format!("rule add {OTHER_PLACE} {marks}")).unwrap();
    }
    let before = clients.map(|client| others(&mesh, client));
    assert!(before.iter().all(|rules| rules.len() == 1), "{before:?}");
    for client in clients {
        let refreshes = || figures(&mesh.metrics_socket(client)).unwrap()["nsm_refreshes_total"];
        let first = refreshes();
        until_true(&format!("{client} is refreshed"), LIFE * 2, || refreshes() > first + 1).unwrap();
    }
    assert_eq!(clients.map(|client| others(&mesh, client)), before);
    mesh.end(&clients, Signal::SIGTERM).unwrap();
    for client in clients {
        // The kernel's three, and the other's.
        let left = || mesh.pod_of(client).unwrap().list("rule").unwrap().len();
        until_true(&format!("the rules of {client} are gone"), START, || left() <= 4).unwrap();
    }
    assert_eq!(clients.map(|client| others(&mesh, client)), before);
}

//! Which endpoint a live client is connected to follows the network service and the endpoints' lives.

use std::time::{Duration, Instant};

use nsm_components::api::registry::{Destination, Match, NetworkService};
use nsm_e2e::{
    interface::interfaces,
    mesh::{Mesh, START, Signal, Who},
    wait::{may_run, until_true},
};

use crate::{story::IFNAME, stranger::Stranger};

/// No token ends and nothing is refreshed while a test runs: what happens has another cause.
const LONG: Duration = Duration::from_mins(10);

/// For a client to notice and to be connected anew, on a busy machine.
const SOON: Duration = Duration::from_secs(10);

/// Endpoint `number` of the mesh hands out addresses of its own prefix.
fn is_connected_to(mesh: &Mesh, client: Who, number: u8) -> bool {
    let links = interfaces(mesh.pod_of(client).unwrap()).unwrap_or_default();
    let own = |address: std::net::Ipv4Addr| address.octets()[..3] == [172, 16, number];
    links.len() == 1 && links[0].address.is_some_and(|(ip, _)| own(ip))
}

/// Waits until the client has one interface, to this endpoint, and packets pass.
fn reaches(mesh: &Mesh, client: Who, number: u8, limit: Duration) {
    let what = format!("{client} is connected to endpoint {number}");
    until_true(&what, limit, || is_connected_to(mesh, client, number)).unwrap();
    let peer = mesh.connected(client, IFNAME).unwrap().peer.unwrap().to_string();
    let ping = |peer: &str| {
        let mut command = mesh.pod_of(client).unwrap().command("ping");
        command.args(["-n", "-c", "1", "-W", "1", peer]).output().unwrap().status.success()
    };
    until_true("packets pass", SOON, || ping(&peer)).unwrap();
}

/// The service `finance` for endpoints of a colour.
fn finance(colour: &str) -> NetworkService {
    let route = Destination {
        destination_selector: [("colour".to_owned(), colour.to_owned())].into(),
        ..Default::default()
    };
    let matches = vec![Match { routes: vec![route], ..Default::default() }];
    NetworkService { name: "finance".into(), payload: "ETHERNET".into(), matches, ..Default::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edit_of_the_selector_moves_live_clients() {
    if !may_run() {
        return;
    }
    let mut mesh = Mesh::start(LONG).unwrap();
    let writer = Stranger::of(&mesh);
    let nsmgr = writer.channel(&mesh.nsmgr_socket(1)).await;
    let registered = mesh.says(Who::Registry, "listening", START);
    registered.unwrap();
    writer.write_service(&nsmgr, finance("blue")).await;
    mesh.endpoint(2, "finance", &[("NSM_LABELS", "colour:blue")]).unwrap();
    mesh.endpoint(1, "finance", &[("NSM_LABELS", "colour:green")]).unwrap();
    let clients = [1, 2].map(|node| mesh.client(node, &format!("kernel://finance/{IFNAME}")).unwrap());
    for client in clients {
        reaches(&mesh, client, 1, START);
    }
    for (colour, number) in [("green", 2), ("blue", 1)] {
        writer.write_service(&nsmgr, finance(colour)).await;
        let start = Instant::now();
        for client in clients {
            reaches(&mesh, client, number, SOON);
        }
        println!("moved to {colour} after {:?}", start.elapsed());
    }
    mesh.end(&clients, Signal::SIGTERM).unwrap();
    mesh.is_clean(SOON).unwrap();
}

#[test]
fn the_death_of_an_endpoint_on_another_node_is_told_along_the_path_and_healed_at_once() {
    if !may_run() {
        return;
    }
    let mut mesh = Mesh::start(LONG).unwrap();
    let first = mesh.endpoint(2, "finance", &[]).unwrap();
    let client = mesh.client(1, &format!("kernel://finance/{IFNAME}")).unwrap();
    reaches(&mesh, client, 1, START);
    let second = mesh.endpoint(2, "finance", &[]).unwrap();
    mesh.says(second, "registered", START).unwrap();
    mesh.end(&[first], Signal::SIGKILL).unwrap();
    let start = Instant::now();
    reaches(&mesh, client, 2, SOON);
    println!("healed after {:?}", start.elapsed());
    mesh.end(&[client], Signal::SIGTERM).unwrap();
}

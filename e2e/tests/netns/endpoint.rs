//! Endpoints: what they hand out, what of it stays when they are started again, and their ends.

use std::time::Duration;

use nsm_e2e::{
    mesh::{Mesh, START, Signal, Who},
    stream::Stream,
    wait::may_run,
};

use crate::story::{IFNAME, LIFE, Story, assert_silent, assert_whole};

/// Longer than a test: nothing is refreshed unless somebody asks for it.
const LONG: Duration = Duration::from_mins(10);

fn address(mesh: &Mesh, client: Who) -> String {
    mesh.connected(client, IFNAME).unwrap().address.unwrap().0.to_string()
}

#[test]
fn an_endpoint_of_ones_own_on_the_library_serves_clients_with_what_it_alone_knows() {
    if !may_run() {
        return;
    }
    let mut mesh = Mesh::start(LIFE).unwrap();
    let endpoint = mesh.example_endpoint("own_endpoint", 2, "seats").unwrap();
    let clients =
        [(1, 7), (2, 8)].map(|(node, seat)| (mesh.client(node, &seat_url(&seat.to_string())).unwrap(), seat));
    let lost = mesh.client(1, &seat_url("first")).unwrap();
    for (client, seat) in clients {
        assert_eq!(address(&mesh, client), format!("10.60.0.{seat}"));
        let interface = mesh.connected(client, IFNAME).unwrap();
        let from = (mesh.pod_of(client).unwrap(), interface.address.unwrap().0);
        let to = (mesh.pod_of(endpoint).unwrap(), interface.peer.unwrap());
        let stream = Stream::start(from, to).unwrap();
        stream.run_for(Duration::from_millis(200)).unwrap();
        assert_whole(stream);
    }
    mesh.says(lost, "the label seat says 2 to 254", START).unwrap();
    mesh.end(&[clients[0].0, clients[1].0, lost], Signal::SIGTERM).unwrap();
    mesh.is_clean(LIFE).unwrap();
    mesh.end(&[endpoint], Signal::SIGTERM).unwrap();
}

fn seat_url(seat: &str) -> String {
    format!("kernel://seats/{IFNAME}?seat={seat}")
}

#[test]
fn an_endpoint_that_was_killed_gives_its_clients_addresses_to_nobody_else() {
    if !may_run() {
        return;
    }
    let mut story = Story::begin_with(LONG);
    let before = story.interfaces();
    let watched = story.watch_clients();
    let streams = story.clients().map(|client| story.stream(client));
    story.mesh.end(&[story.endpoint], Signal::SIGKILL).unwrap();
    story.mesh.start_again(&[story.endpoint]).unwrap();
    // None of the others has asked anew.
    let new = story.mesh.client(1, &format!("kernel://finance/{IFNAME}")).unwrap();
    let new = address(&story.mesh, new);
    assert!(before.iter().all(|old| old.address.unwrap().0.to_string() != new), "{new} is in use");
    for stream in streams {
        assert_whole(stream);
    }
    assert_silent(watched);
    assert_eq!(story.interfaces(), before);
}

#[test]
fn an_endpoint_hands_out_addresses_of_both_families_until_there_are_none() {
    if !may_run() {
        return;
    }
    let mut mesh = Mesh::start(LIFE).unwrap();
    let settings = [("NSM_CIDR_PREFIX", "[172.16.9.0/31,172.16.9.4/31],fd00:9::/64")];
    mesh.endpoint(2, "finance", &settings).unwrap();
    let mut addresses = Vec::new();
    for _ in 0..2 {
        let client = mesh.client(2, &format!("kernel://finance/{IFNAME}")).unwrap();
        addresses.push(address(&mesh, client));
        let pod = mesh.pod_of(client).unwrap();
        let peer = format!("fd00:9::{}", (addresses.len() - 1) * 2);
        nsm_e2e::wait::until_true(&format!("{peer} answers {client}"), START, || {
            pod.command("ping").args(["-c", "1", "-W", "1", &peer]).output().unwrap().status.success()
        })
        .unwrap();
    }
    assert_eq!(addresses, ["172.16.9.1", "172.16.9.5"]);
    let late = mesh.client(2, &format!("kernel://finance/{IFNAME}")).unwrap();
    let line = mesh.says(late, "no two free addresses are left", START).unwrap();
    assert!(line.contains("172.16.9.0/31, 172.16.9.4/31") && line.contains("NSM_CIDR_PREFIX"), "{line}");
}

#[test]
fn an_endpoint_that_nobody_uses_unregisters_and_ends() {
    if !may_run() {
        return;
    }
    let mut mesh = Mesh::start(LONG).unwrap();
    let endpoint = mesh.endpoint(1, "finance", &[("NSM_IDLE_TIMEOUT", "3s")]).unwrap();
    let client = mesh.client(1, &format!("kernel://finance/{IFNAME}")).unwrap();
    mesh.connected(client, IFNAME).unwrap();
    mesh.end(&[client], Signal::SIGTERM).unwrap();
    mesh.says(endpoint, "nobody used this endpoint for its idle timeout", START).unwrap();
    mesh.says(endpoint, "unregistered", START).unwrap();
    assert!(mesh.ended(endpoint).unwrap().success());
    let late = mesh.client(1, &format!("kernel://finance/{IFNAME}")).unwrap();
    mesh.says(late, "trying again", START).unwrap();
    mesh.is_clean(START).unwrap();
}

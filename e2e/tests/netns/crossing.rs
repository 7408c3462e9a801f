//! Connections carry packets, and their interfaces are what was asked for.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    time::Duration,
};

use nsm_e2e::{
    interface::GROUP,
    mesh::{Signal, Who},
    wait::may_run,
};

use crate::story::{IFNAME, Story, assert_silent, assert_whole};

/// Ten bytes there and back.
fn tcp(story: &Story, client: Who) {
    let interface = story.interface(client);
    let (own, peer) = (interface.address.unwrap().0, interface.peer.unwrap());
    let (endpoint, client) = (story.mesh.pod_of(story.endpoint).unwrap(), story.mesh.pod_of(client).unwrap());
    let listener = endpoint.inside(move || TcpListener::bind((peer, 0))).unwrap().unwrap();
    let address = listener.local_addr().unwrap();
    let limit = Duration::from_secs(10);
    let connect = move || TcpStream::connect_timeout(&address, limit);
    let mut here = client.inside(connect).unwrap().unwrap();
    let (mut there, from) = listener.accept().unwrap();
    assert_eq!(from.ip(), own);
    let mut bytes = [0; 10];
    here.set_read_timeout(Some(limit)).unwrap();
    there.set_read_timeout(Some(limit)).unwrap();
    here.write_all(b"there we g").unwrap();
    there.read_exact(&mut bytes).unwrap();
    there.write_all(&bytes).unwrap();
    here.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"there we g");
}

fn ping(story: &Story, client: nsm_e2e::mesh::Who, bytes: u64) {
    let peer = story.interface(client).peer.unwrap().to_string();
    let mut command = story.mesh.pod_of(client).unwrap().command("ping");
    command.args(["-n", "-c", "1", "-W", "5", "-M", "do", "-s", &bytes.to_string(), &peer]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn packets_cross_a_connection_on_one_node_and_one_between_two_nodes() {
    if !may_run() {
        return;
    }
    let story = Story::begin();
    for client in story.clients() {
        // The largest packet that the interface takes: 28 bytes are headers.
        ping(&story, client, story.interface(client).mtu - 28);
        tcp(&story, client);
        let stream = story.stream(client);
        stream.run_for(Duration::from_millis(500)).unwrap();
        assert_eq!(assert_whole(stream).reordered, 0);
    }
}

#[test]
fn interfaces_have_the_names_addresses_routes_and_marks_that_were_asked_for() {
    if !may_run() {
        return;
    }
    let story = Story::begin();
    let [remote, local] = story.interfaces();
    assert_eq!((remote.kind.as_str(), local.kind.as_str()), ("vxlan", "veth"));
    assert!(remote.mtu < 1500 && local.mtu == 1500, "{} and {}", remote.mtu, local.mtu);
    for (interface, node) in [(&remote, 1), (&local, 2)] {
        let (address, prefix) = interface.address.unwrap();
        assert_eq!((address.octets()[..3].to_vec(), prefix), (vec![172, 16, 1], 32));
        assert_ne!(interface.peer.unwrap(), address);
        assert_eq!(interface.group, GROUP);
        let id = interface.connection().unwrap().to_owned();
        let forwarder = format!(" of {}#", Who::Forwarder(node));
        assert!(interface.alias.contains(&forwarder), "{}", interface.alias);
        assert!(story.mesh.journal(node).contains(&id), "{id} is not in {:?}", story.mesh.journal(node));
    }
    let at_endpoint = nsm_e2e::interface::interfaces(story.mesh.pod_of(story.endpoint).unwrap()).unwrap();
    let seen = |own: bool| {
        let pair = |i: &nsm_e2e::interface::Interface| (i.address.map(|(ip, _)| ip), i.peer);
        let turned = |i: &nsm_e2e::interface::Interface| (i.peer, i.address.map(|(ip, _)| ip));
        let mut seen: Vec<_> =
            if own { at_endpoint.iter().map(pair).collect() } else { [&remote, &local].map(turned).to_vec() };
        seen.sort_unstable();
        seen
    };
    assert_eq!(seen(true), seen(false), "the endpoint's interfaces are the mirror of the clients'");
}

#[test]
fn a_refresh_writes_nothing_to_the_kernel() {
    if !may_run() {
        return;
    }
    let story = Story::begin();
    let watched = story.watch();
    let streams = story.clients().map(|client| story.stream(client));
    // A connection is refreshed when a fifth of its life is over; after a whole one it would be gone.
    streams[0].run_for(story.mesh.life() + Duration::from_secs(2)).unwrap();
    for stream in streams {
        assert_whole(stream);
    }
    assert_silent(watched);
}

#[test]
fn a_client_that_is_told_to_stop_closes_its_connection_everywhere() {
    if !may_run() {
        return;
    }
    let mut story = Story::begin();
    let at_endpoint = |story: &Story| {
        nsm_e2e::interface::interfaces(story.mesh.pod_of(story.endpoint).unwrap()).unwrap().len()
    };
    assert_eq!(at_endpoint(&story), 2);
    story.mesh.end(&[story.remote], Signal::SIGTERM).unwrap();
    // It waits for the answer before it ends: nothing has to be waited for here.
    assert_eq!(at_endpoint(&story), 1);
    assert_eq!(story.mesh.journal(1), Vec::<String>::new());
    story.interface(story.local);
    story.mesh.end(&[story.local], Signal::SIGTERM).unwrap();
    assert_eq!(story.mesh.traces().unwrap(), Vec::<String>::new());
    let log = story.mesh.process(story.local).unwrap().log();
    assert!(log.contains("\"closed\""), "{IFNAME}: {log}");
}

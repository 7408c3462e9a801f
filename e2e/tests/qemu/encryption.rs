//! Packets between nodes are encrypted where both kernels can, and nobody on the way reads them.

use std::{os::fd::AsRawFd, process::Output};

use nix::{
    errno::Errno,
    sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, socket},
};
use nsm_e2e::{
    interface::Interface,
    mesh::{Mesh, Who},
};

use crate::story::{IFNAME, assert_silent, assert_whole};

/// Every packet of `ping` is full of it.
const SECRET: &str = "nsm-secret";

/// What passes node 1 while a ping goes from the client to the endpoint and back: how many packets, and how many of
/// them can be read.
fn overheard(mesh: &Mesh, client: Who, interface: &Interface) -> (usize, usize) {
    let listen = || {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll)
    };
    let wire = mesh.nodes()[0].inside(listen).unwrap().unwrap();
    let pattern = SECRET.bytes().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat();
    let size = (interface.mtu - 28).to_string();
    let peer = interface.peer.unwrap().to_string();
    let mut ping = mesh.pod_of(client).unwrap().command("ping");
    ping.args(["-n", "-c", "1", "-W", "10", "-M", "do", "-s", &size, "-p", &pattern, &peer]);
    let Output { status, stdout, .. } = ping.output().unwrap();
    assert!(status.success(), "{}", String::from_utf8_lossy(&stdout));
    let (mut all, mut read) = (0, 0);
    let mut packet = vec![0; 65536];
    loop {
        match recv(wire.as_raw_fd(), &mut packet, MsgFlags::empty()) {
            Ok(length) => {
                all += 1;
                read +=
                    usize::from(packet[..length].windows(SECRET.len()).any(|part| part == SECRET.as_bytes()));
            }
            Err(Errno::EAGAIN) => return (all, read),
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn ip_packets_between_two_nodes_are_encrypted_and_frames_go_as_they_are() {
    let Some(mut mesh) = crate::mesh() else { return };
    mesh.endpoint(2, "finance", &[]).unwrap();
    mesh.endpoint(2, "bridge", &[("NSM_PAYLOAD", "ETHERNET")]).unwrap();
    let mut through = |service: &str, kind: &str, mtu: u64| {
        let client = mesh.client(1, &format!("kernel://{service}/{IFNAME}")).unwrap();
        let interface = mesh.connected(client, IFNAME).unwrap();
        assert_eq!((interface.kind.as_str(), interface.mtu), (kind, mtu));
        overheard(&mesh, client, &interface)
    };
    let (all, read) = through("finance", "wireguard", 1440);
    assert!(all >= 2 && read == 0, "{read} of {all} packets can be read");
    // So the pattern would have been seen.
    let (all, read) = through("bridge", "vxlan", 1446);
    assert!(read >= 2, "{read} of {all} packets can be read");
}

#[test]
fn every_tunnel_has_a_port_of_its_own_and_a_refresh_writes_nothing() {
    let Some(mut story) = crate::story() else { return };
    let other = story.mesh.client(1, &format!("kernel://finance/{IFNAME}")).unwrap();
    let second = story.mesh.connected(other, IFNAME).unwrap();
    assert_eq!(
        (story.interface(story.remote).kind.as_str(), second.kind.as_str()),
        ("wireguard", "wireguard")
    );
    let watched = story.watch();
    let streams = [story.remote, other].map(|client| story.stream(client));
    // A connection is refreshed when a fifth of its life is over; after a whole one it would be gone.
    streams[0].run_for(story.mesh.life() + std::time::Duration::from_secs(5)).unwrap();
    for stream in streams {
        assert_whole(stream);
    }
    assert_silent(watched);
    for client in [story.remote, other] {
        story.mesh.end(&[client], nsm_e2e::mesh::Signal::SIGTERM).unwrap();
    }
    assert_eq!(story.mesh.journal(1), Vec::<String>::new());
}

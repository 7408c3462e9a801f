//! Between the nodes is a router whose link carries less than the nodes' own.

use std::{fs, time::Duration};

use nsm_e2e::{
    interface::{Interface, interfaces},
    mesh::{Mesh, Who},
    netns::Netns,
    wait::{may_run, until},
};

use crate::{
    connections::listed,
    story::{IFNAME, LIFE},
};

/// What the router's second link carries.
const PATH: u64 = 1400;

/// Leads packets between the nodes through a router, and leaves their interfaces as they are.
fn detour(mesh: &Mesh) -> Netns {
    let router = Netns::new("router").unwrap();
    router.inside(|| fs::write("/proc/sys/net/ipv4/ip_forward", "1")).unwrap().unwrap();
    for (number, node) in (1..).zip(mesh.nodes()) {
        let other = 3 - number;
        let at_router = |arguments: &str| router.ip(arguments).unwrap();
        let at_node = |arguments: &str| node.ip(arguments).unwrap();
        at_node(&format!("link add detour type veth peer name to{number} netns {}", router.path()));
        at_node(&format!("address add 10.78.{number}.2/24 dev detour"));
        at_router(&format!("address add 10.78.{number}.1/24 dev to{number}"));
        if number == 2 {
            at_node(&format!("link set detour mtu {PATH}"));
            at_router(&format!("link set to{number} mtu {PATH}"));
        }
        at_node("link set detour up");
        at_router(&format!("link set to{number} up"));
        at_router(&format!("route add 10.77.0.{number}/32 via 10.78.{number}.2"));
        at_node(&format!("route add 10.77.0.{other}/32 via 10.78.{number}.1 src 10.77.0.{number}"));
    }
    router
}

fn of(mesh: &Mesh, who: Who) -> Vec<Interface> {
    interfaces(mesh.pod_of(who).unwrap()).unwrap()
}

#[test]
fn a_tunnel_is_as_large_as_the_path_and_the_reason_is_told() {
    if !may_run() {
        return;
    }
    let mut mesh = Mesh::start(LIFE).unwrap();
    let _router = detour(&mesh);
    let endpoint = mesh.endpoint(2, "finance", &[]).unwrap();
    let client = mesh.client(1, &format!("kernel://finance/{IFNAME}")).unwrap();
    mesh.connected(client, IFNAME).unwrap();
    // VXLAN takes 54 bytes. At the latest when the connection is refreshed.
    let mtu = PATH - 54;
    let fits = |who| of(&mesh, who).iter().all(|interface| interface.mtu == mtu);
    let both = || (fits(client) && fits(endpoint)).then_some(());
    until("both ends are as large as the path", LIFE, both).unwrap();
    let peer = mesh.connected(client, IFNAME).unwrap().peer.unwrap().to_string();
    let mut ping = mesh.pod_of(client).unwrap().command("ping");
    ping.args(["-n", "-c", "1", "-W", "5", "-M", "do", "-s", &(mtu - 28).to_string(), &peer]);
    let output = ping.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let told = |client: Who| {
        let one = listed(&mesh, 1).remove(&client.to_string())?;
        let reason = one["mtuReason"].as_str()?.to_owned();
        (one["mtu"] == mtu).then_some(reason)
    };
    let reason = until("the reason is told", LIFE, || told(client)).unwrap();
    assert!(reason.contains("1400 bytes, the interface here 1500"), "{reason}");
    // What is known of the path counts for the next connection from its first packet on.
    let next = mesh.client(1, &format!("kernel://finance/{IFNAME}")).unwrap();
    assert_eq!(mesh.connected(next, IFNAME).unwrap().mtu, mtu);
}

#[test]
fn a_path_that_carries_what_the_interfaces_do_is_no_reason() {
    if !may_run() {
        return;
    }
    let story = crate::story::Story::begin();
    let remote = story.remote.to_string();
    // Long enough for the answer to come and for a refresh after it.
    let stream = story.stream(story.remote);
    stream.run_for(LIFE / 2 + Duration::from_secs(1)).unwrap();
    crate::story::assert_whole(stream);
    let one = listed(&story.mesh, 1).remove(&remote).unwrap();
    assert_eq!((&one["mtu"], &one["mtuReason"]), (&serde_json::json!(1446), &serde_json::Value::Null));
    assert_eq!(story.interface(story.remote).mtu, 1446);
}

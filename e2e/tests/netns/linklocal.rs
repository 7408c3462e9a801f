//! Why links keep the addresses of link scope that the kernel gives them.

use nsm_e2e::{
    interface::interfaces,
    mesh::{Mesh, START},
    wait::{may_run, until_true},
};

use crate::{
    context::addresses,
    story::{IFNAME, LIFE},
};

/// An address that the client has elsewhere than on the connection's link, as a pod that passes packets on does.
const BEHIND: &str = "fd00:9::1";

/// Neighbour Discovery asks from an address of the link itself. Where a packet comes from elsewhere that is the one
/// of link scope, and without it (`addr_gen_mode` none) nobody is asked and the packet is lost.
#[test]
fn ipv6_packets_that_come_from_behind_a_pod_find_the_way_over_a_tunnel() {
    if !may_run() {
        return;
    }
    for payload in ["ETHERNET", "IP"] {
        let mut mesh = Mesh::start(LIFE).unwrap();
        let prefix = [("NSM_PAYLOAD", payload), ("NSM_CIDR_PREFIX", "fd00:1::/64")];
        let endpoint = mesh.endpoint(2, "finance", &prefix).unwrap();
        // Its echoes would find the neighbour, from the link's own address.
        let silent = [("NSM_LIVENESS_CHECK_ENABLED", "false")];
        let client = mesh.client_with(1, &format!("kernel://finance/{IFNAME}"), &silent).unwrap();
        let (pod, there) = (mesh.pod_of(client).unwrap(), mesh.pod_of(endpoint).unwrap());
        until_true("the client is connected", START, || {
            let up = |found: &[nsm_e2e::interface::Interface]| found.iter().any(|found| found.up);
            interfaces(pod).is_ok_and(|found| up(&found)) && addresses(pod, IFNAME).len() == 1
        })
        .unwrap();
        let device = interfaces(there).unwrap().remove(0).name;
        let [own, other] = [(pod, IFNAME), (there, &*device)]
            .map(|(netns, name)| addresses(netns, name).remove(0).split('/').next().unwrap().to_owned());
        pod.ip(&format!("address add {BEHIND}/128 dev lo")).unwrap();
        there.ip(&format!("-6 route add {BEHIND} via {own} dev {device} onlink")).unwrap();
        // Nobody knows anybody yet.
        for (netns, name) in [(pod, IFNAME), (there, &*device)] {
            netns.ip(&format!("-6 neighbour flush dev {name}")).unwrap();
        }
        let words = ["-6", "-c", "1", "-W", "1", "-I", BEHIND, &other];
        // The first may leave while an address of link scope is still being tried out.
        until_true(&format!("a ping with payload {payload}"), START, || {
            pod.command("ping").args(words).output().unwrap().status.success()
        })
        .unwrap();
    }
}

//! Which tunnels a node offers, and why not others.

use nsm_e2e::{
    figures::figures,
    mesh::{Mesh, Who},
    netns::Netns,
    wait::may_run,
};

use crate::story::{IFNAME, LIFE};

#[test]
fn ip_packets_go_by_wireguard_where_the_kernel_has_it_and_elsewhere_by_vxlan_with_the_reason_told() {
    if !may_run() {
        return;
    }
    let has = Netns::new("look").unwrap().ip("link add wg type wireguard").is_ok();
    let mut mesh = Mesh::start_with(LIFE, &[("NSM_PAYLOAD", "IP")]).unwrap();
    mesh.endpoint(2, "finance", &[]).unwrap();
    let client = mesh.client(1, &format!("kernel://finance/{IFNAME}")).unwrap();
    let kind = mesh.connected(client, IFNAME).unwrap().kind;
    assert_eq!(kind, if has { "wireguard" } else { "vxlan" });
    for forwarder in [Who::Forwarder(1), Who::Forwarder(2)] {
        let figures = figures(&mesh.metrics_socket(forwarder)).unwrap();
        let absent: Vec<_> = figures.keys().filter(|key| key.starts_with("nsm_mechanism_absent")).collect();
        let log = mesh.process(forwarder).unwrap().log();
        if has {
            assert!(absent.is_empty() && !log.contains("mechanism is not offered"), "{absent:?}");
            continue;
        }
        let [absent] = absent.as_slice() else { panic!("{absent:?}") };
        for told in [r#"mechanism="WIREGUARD""#, "this kernel has no WireGuard"] {
            assert!(absent.contains(told), "{absent}");
        }
        let line = log.lines().find(|line| line.contains("mechanism is not offered")).unwrap();
        assert!(line.contains("WIREGUARD") && line.contains("this kernel has no WireGuard"), "{line}");
    }
}

use proptest::prelude::*;

use super::*;
use crate::api::connectioncontext::{EthernetContext, IpContext, IpNeighbor, Route};

fn netns(ino: u64) -> NetnsKey {
    NetnsKey { dev: 4, ino }
}

fn pod(ino: u64, ifname: &str) -> Side {
    Side::Kernel { netns: netns(ino), ifname: ifname.into() }
}

fn tunnel(vni: u32, mtu: u32) -> Side {
    let (local, remote) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
    Side::Vxlan { tunnel: VxlanLink { local, remote, vni, port: 4789 }, mtu }
}

fn connection(context: ConnectionContext) -> Connection {
    Connection { id: "c1".into(), context: Some(context), ..Connection::default() }
}

#[test]
fn the_client_gets_src_and_the_endpoint_dst_and_is_first() {
    let ip = IpContext {
        src_ip_addrs: vec!["172.16.0.1/32".into()],
        dst_ip_addrs: vec!["172.16.0.0/32".into(), "172.16.0.0/32".into()],
        src_routes: vec![Route { prefix: "10.0.0.0/8".into(), next_hop: String::new() }],
        ip_neighbors: vec![IpNeighbor {
            ip: "172.16.0.9".into(),
            hardware_address: "02:00:00:00:00:01".into(),
        }],
        ..IpContext::default()
    };
    let context = ConnectionContext { ip_context: Some(ip), mtu: 1400, ..ConnectionContext::default() };

    let desired = plan(&connection(context), &pod(1, "nsm-1"), &pod(2, "nsm-1")).unwrap();

    assert_eq!(desired.link, Link::Veth);
    let [endpoint, client] = desired.ends.as_slice() else { panic!("two ends") };
    assert_eq!((endpoint.role, endpoint.netns), (Role::Endpoint, netns(2)));
    assert_eq!((client.role, client.netns), (Role::Client, netns(1)));
    assert_eq!(endpoint.addresses, ["172.16.0.0/32".parse().unwrap()]);
    assert_eq!(client.addresses, ["172.16.0.1/32".parse().unwrap()]);
    assert_eq!((endpoint.routes.len(), client.routes.len()), (1, 2));
    assert_eq!((endpoint.mtu, client.mtu), (Some(1400), Some(1400)));
    assert_eq!(client.neighbours.len(), 1);
    assert_ne!(endpoint.mac, client.mac);
    assert_ne!(endpoint.index, client.index);
}

#[test]
fn a_tunnel_leaves_one_end_and_the_smaller_mtu_wins() {
    let of = |mtu, tunnel_mtu| {
        let context = ConnectionContext { mtu, ..ConnectionContext::default() };
        let desired = plan(&connection(context), &tunnel(7, tunnel_mtu), &pod(2, "nsm-1")).unwrap();
        assert_eq!((desired.ends.len(), desired.ends[0].role), (1, Role::Endpoint));
        desired.ends[0].mtu
    };
    assert_eq!(of(0, 0), Some(1446));
    assert_eq!(of(9000, 1446), Some(1446));
    assert_eq!(of(1300, 1446), Some(1300));
    assert_eq!(of(0, 1446), Some(1446));
}

#[test]
fn a_hardware_address_asked_for_wins_over_the_derived_one() {
    let ethernet = EthernetContext { src_mac: "02:aa:bb:cc:dd:ee".into(), dst_mac: "x".into(), vlan_tag: 0 };
    let context = ConnectionContext { ethernet_context: Some(ethernet), ..ConnectionContext::default() };
    let desired = plan(&connection(context), &pod(1, "a"), &pod(2, "b")).unwrap();
    assert_eq!(desired.ends[1].mac, [0x02, 0xaa, 0xbb, 0xcc, 0xdd, 0xee]);
    assert_eq!(desired.ends[0].mac, mac(&desired.id, Role::Endpoint));
}

#[test]
fn with_a_payload_of_ip_both_ends_of_a_pair_know_each_other_and_what_is_asked_for_wins() {
    let ip = IpContext {
        src_ip_addrs: vec!["172.16.0.1/32".into(), "fd00::1/128".into()],
        dst_ip_addrs: vec!["172.16.0.0/32".into()],
        ip_neighbors: vec![IpNeighbor { ip: "fd00::1".into(), hardware_address: "02:00:00:00:00:01".into() }],
        ..IpContext::default()
    };
    let context = ConnectionContext { ip_context: Some(ip), ..ConnectionContext::default() };
    let of = |payload: &str, client: &Side| {
        let connection = Connection { payload: payload.into(), ..connection(context.clone()) };
        plan(&connection, &pod(1, "a"), client).unwrap().ends
    };
    let known = |end: &End| end.neighbours.iter().map(|n| (n.ip.to_string(), n.mac)).collect::<Vec<_>>();
    let asked = ("fd00::1".to_owned(), [2, 0, 0, 0, 0, 1]);
    let ends = of("IP", &pod(2, "b"));
    assert_eq!(known(&ends[0]), [asked.clone(), ("172.16.0.1".into(), ends[1].mac)]);
    assert_eq!(known(&ends[1]), [asked.clone(), ("172.16.0.0".into(), ends[0].mac)]);
    assert_eq!(known(&of("ETHERNET", &pod(2, "b"))[0]), std::slice::from_ref(&asked));
    assert_eq!(known(&of("IP", &tunnel(7, 0))[0]), [asked]);
}

#[test]
fn ipv6_over_a_path_that_is_too_small_for_it_is_refused_with_both_numbers() {
    let of = |address: &str| {
        let ip = IpContext { dst_ip_addrs: vec![address.into()], ..IpContext::default() };
        let context = ConnectionContext { ip_context: Some(ip), mtu: 1500, ..ConnectionContext::default() };
        plan(&connection(context), &tunnel(7, 1200), &pod(2, "nsm-1"))
    };
    let error = of("fd00::1/128").unwrap_err().to_string();
    assert!(error.contains("mtu 1200") && error.contains("fd00::1/128"), "{error}");
    of("10.0.0.1/32").unwrap();
}

#[test]
fn what_the_kernel_would_not_take_is_refused_before_anything_is_made() {
    let plain = || connection(ConnectionContext::default());
    let error = |server: &Side, client: &Side| plan(&plain(), server, client).unwrap_err();
    for name in ["", "all", "default", "a/b", "sixteen-bytes-xx"] {
        assert_eq!(error(&pod(1, name), &pod(2, "b")), PlanError::InterfaceName(name.into()));
    }
    assert!(matches!(error(&pod(1, "a"), &pod(1, "a")), PlanError::SameInterface { .. }));
    assert!(matches!(error(&tunnel(7, 0), &tunnel(8, 0)), PlanError::NoPod(_)));
    assert!(matches!(error(&tunnel(0, 0), &pod(1, "a")), PlanError::Tunnel { .. }));
    assert_eq!(error(&tunnel(7, 60), &pod(1, "a")), PlanError::Mtu(60));
    let nameless = Connection { id: String::new(), ..plain() };
    assert!(matches!(plan(&nameless, &pod(1, "a"), &pod(2, "b")), Err(PlanError::Id(_))));
}

proptest! {
    #[test]
    fn a_repeated_plan_is_the_same_and_its_numbers_are_valid(id in "[a-z0-9-]{1,100}", a in 1u64..9, b in 10u64..19) {
        let connection = Connection { id, ..Connection::default() };
        let first = plan(&connection, &pod(a, "nsm-1"), &pod(b, "nsm-1")).unwrap();
        prop_assert_eq!(&plan(&connection, &pod(a, "nsm-1"), &pod(b, "nsm-1")).unwrap(), &first);
        for end in &first.ends {
            prop_assert!((1 << 30..1 << 31).contains(&end.index));
            prop_assert_eq!(end.mac[0] & 0b11, 0b10);
        }
    }

    #[test]
    fn no_text_in_a_context_makes_a_plan_fail(texts in proptest::collection::vec(".{0,20}", 0..6)) {
        let ip = IpContext {
            src_ip_addrs: texts.clone(),
            dst_ip_addrs: texts.clone(),
            src_routes: texts.iter().map(|t| Route { prefix: t.clone(), next_hop: t.clone() }).collect(),
            ..IpContext::default()
        };
        let context = ConnectionContext { ip_context: Some(ip), ..ConnectionContext::default() };
        prop_assert!(plan(&connection(context), &pod(1, "a"), &pod(2, "b")).is_ok());
    }
}

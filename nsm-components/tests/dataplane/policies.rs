//! Policy routes: what the kernel does with packets, and whose a rule is.

use nsm_components::{
    api::{
        Connection,
        connectioncontext::{PolicyRoute, Route},
    },
    dataplane::{Applied, Netns, Removed, plan},
};

use crate::monitor::Monitor;
use crate::world::{connection, dataplane, ip, ip_context, links, may_run, namespaces, netns, pod};

fn policy(from: &str, proto: &str, src: &str, dst: &str, routes: &[(&str, &str)]) -> PolicyRoute {
    let route =
        |(prefix, next_hop): &(&str, &str)| Route { prefix: (*prefix).into(), next_hop: (*next_hop).into() };
    PolicyRoute {
        from: from.into(),
        proto: proto.into(),
        src_port: src.into(),
        dst_port: dst.into(),
        routes: routes.iter().map(route).collect(),
    }
}

/// One of each kind: by address, protocol, port and range, with and without routes, both families.
fn policed(id: &str) -> Connection {
    let mut connection = connection(id);
    let context = ip_context(&mut connection);
    // The endpoint adds where policies come from to the client's addresses.
    context.src_ip_addrs.extend(["172.16.2.201/24".into(), "2004::3/120".into(), "2005::3/120".into()]);
    context.policies = vec![
        policy("172.16.2.201/24", "6", "", "6666", &[("172.16.3.0/24", "172.16.2.200")]),
        policy("172.16.2.201/24", "6", "5555", "", &[]),
        policy("", "17", "", "6666", &[]),
        policy("", "17", "", "6667-6669", &[]),
        policy("2004::3/120", "17", "", "5555", &[("2004::5/120", "2004::6")]),
        policy("2005::3/120", "", "", "", &[]),
    ];
    connection
}

/// A pod with a way out of its own, as a CNI makes it.
fn pod_with_own_routes() -> Netns {
    let netns = netns();
    for line in [
        "link add cni type bridge",
        "link set cni up",
        "address add 10.244.0.5/24 dev cni",
        "address add fd00:44::5/64 dev cni nodad",
        "route add default via 10.244.0.1",
        "-6 route add default via fd00:44::1",
    ] {
        ip(&netns, line);
    }
    netns
}

/// Rules of both families.
fn rules(netns: &Netns) -> Vec<String> {
    let all = format!("{}{}", ip(netns, "rule"), ip(netns, "-6 rule"));
    all.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

/// Routes of all tables but those of the kernel.
fn routes(netns: &Netns) -> Vec<String> {
    let all = format!("{}{}", ip(netns, "route show table all"), ip(netns, "-6 route show table all"));
    let own = all.lines().filter(|line| !line.contains("proto kernel") && !line.contains("table local"));
    own.map(|line| line.trim().to_owned()).collect()
}

#[tokio::test]
async fn packets_go_by_the_policy_that_means_them_and_by_the_pods_own_routes_otherwise() {
    if !may_run() {
        return;
    }
    let (node, nsc, nse) = (netns(), pod_with_own_routes(), netns());
    let (rules_before, routes_before) = (rules(&nsc), routes(&nsc));
    let dataplane = dataplane(&node);
    let desired = plan(&policed("c-pbr"), &pod(&nsc, "nsm-1"), &pod(&nse, "nsm-1")).unwrap();
    let at_hand = namespaces(&[&nsc, &nse]);
    assert_eq!(dataplane.ensure(&desired, &at_hand).await.unwrap(), Applied::Created);

    for (asked, answered) in [
        ("172.16.3.1 from 172.16.2.201 ipproto tcp dport 6666", "via 172.16.2.200 dev nsm-1 table 1"),
        ("172.16.3.1 from 172.16.2.201 ipproto tcp sport 5555", "dev nsm-1 table 2"),
        ("172.16.4.1 ipproto udp dport 6666", "dev nsm-1 table 3 src 172.16.1.101"),
        ("172.16.4.1 ipproto udp dport 6668", "dev nsm-1 table 4 src 172.16.1.101"),
        ("2004::5 from 2004::3 ipproto udp dport 5555", "via 2004::6 dev nsm-1 table 5"),
        ("2001:db8::1 from 2005::3", "dev nsm-1 table 6"),
        // What no policy means goes as if there were none.
        ("172.16.3.1 from 172.16.2.201 ipproto tcp dport 6665", "via 10.244.0.1 dev cni"),
        ("172.16.4.1 ipproto udp dport 6670", "via 10.244.0.1 dev cni"),
        ("172.16.4.1 ipproto tcp dport 6666", "via 10.244.0.1 dev cni"),
        ("2001:db8::1 ipproto udp dport 5555", "via fd00:44::1 dev cni"),
    ] {
        let route = ip(&nsc, &format!("route get {asked}"));
        assert!(route.contains(answered), "{asked}: {route} is not {answered}");
    }
    assert_eq!(rules(&nse).len(), 5, "the endpoint has none: {:?}", rules(&nse));

    let monitor = Monitor::start(&nsc);
    let again = crate::world::dataplane(&node);
    assert_eq!(again.ensure(&desired, &at_hand).await.unwrap(), Applied::Adopted);
    assert_eq!((again.kernel().counters().writes, monitor.seen()), (0, vec![]));

    assert_eq!(again.remove(&desired.footprint(), &at_hand).await.unwrap(), Removed::Deleted);
    assert_eq!((rules(&nsc), routes(&nsc)), (rules_before, routes_before));
}

#[tokio::test]
async fn a_changed_list_of_policies_changes_only_what_differs_and_none_leaves_none() {
    if !may_run() {
        return;
    }
    let (node, nsc, nse) = (netns(), pod_with_own_routes(), netns());
    let dataplane = dataplane(&node);
    let at_hand = namespaces(&[&nsc, &nse]);
    let mut connection = policed("c-change");
    let desired = |connection: &Connection| {
        let mut desired = plan(connection, &pod(&nsc, "nsm-1"), &pod(&nse, "nsm-1")).unwrap();
        desired.has_policies = true;
        desired
    };
    ip_context(&mut connection).policies.clear();
    dataplane.ensure(&desired(&connection), &at_hand).await.unwrap();
    let before = (rules(&nsc), routes(&nsc));

    ip_context(&mut connection).policies = ip_context(&mut policed("x")).policies.clone();
    assert_eq!(dataplane.ensure(&desired(&connection), &at_hand).await.unwrap(), Applied::Changed(12));
    // Another route in a policy, and another port.
    ip_context(&mut connection).policies[0].routes[0].prefix = "172.16.5.0/24".into();
    ip_context(&mut connection).policies[2].dst_port = "7777".into();
    assert_eq!(dataplane.ensure(&desired(&connection), &at_hand).await.unwrap(), Applied::Changed(2 + 4));
    assert_eq!(dataplane.ensure(&desired(&connection), &at_hand).await.unwrap(), Applied::Adopted);
    let get = |what: &str| ip(&nsc, &format!("route get {what}"));
    assert!(get("172.16.5.1 from 172.16.2.201 ipproto tcp dport 6666").contains("table 1"));
    assert!(get("172.16.4.1 ipproto udp dport 7777").contains("dev nsm-1 table 7"));
    assert!(get("172.16.4.1 ipproto udp dport 6666").contains("dev cni"));
    // What the pod breaks is repaired: routes go when a link goes down, rules do not.
    ip(&nsc, "link set nsm-1 down");
    ip(&nsc, "rule del table 2");
    dataplane.ensure(&desired(&connection), &at_hand).await.unwrap();
    assert!(dataplane.is_in_sync(&desired(&connection), &at_hand).await.unwrap());
    assert!(get("172.16.3.1 from 172.16.2.201 ipproto tcp sport 5555").contains("table 2"));

    ip_context(&mut connection).policies.clear();
    dataplane.ensure(&desired(&connection), &at_hand).await.unwrap();
    assert_eq!((rules(&nsc), routes(&nsc)), before);
}

#[tokio::test]
async fn two_connections_of_a_pod_have_tables_and_rules_of_their_own() {
    if !may_run() {
        return;
    }
    let (node, nsc) = (netns(), pod_with_own_routes());
    let endpoints = [netns(), netns()];
    // Both hand out the same addresses; one serves TCP, the other UDP.
    let desired = |n: usize, proto: &str| {
        let mut connection = connection(&format!("c-{n}"));
        ip_context(&mut connection).policies = vec![policy("", proto, "", "6666", &[])];
        plan(&connection, &pod(&nsc, &format!("nsm-{n}")), &pod(&endpoints[n], "nsm-1")).unwrap()
    };
    let all = namespaces(&[&nsc, &endpoints[0], &endpoints[1]]);
    // Of the pod itself: never touched, and its table never used.
    ip(&nsc, "rule add from 10.9.0.0/16 lookup 1 priority 100");
    ip(&nsc, "route add 10.8.0.0/16 dev cni table 2");
    let before = (rules(&nsc), routes(&nsc));
    let dataplane = dataplane(&node);
    let (tcp, udp) = (desired(0, "6"), desired(1, "17"));
    let (a, b) = tokio::join!(dataplane.ensure(&tcp, &all), dataplane.ensure(&udp, &all));
    assert_eq!((a.unwrap(), b.unwrap()), (Applied::Created, Applied::Created));

    let get = |proto: &str| ip(&nsc, &format!("route get 172.16.1.100 ipproto {proto} dport 6666"));
    let (tcp_route, udp_route) = (get("tcp"), get("udp"));
    assert!(tcp_route.contains("dev nsm-0") && udp_route.contains("dev nsm-1"), "{tcp_route}{udp_route}");
    let mut tables: Vec<u8> = [&tcp_route, &udp_route]
        .map(|route| route.split("table ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap())
        .into();
    tables.sort_unstable();
    assert_eq!(tables, [3, 4]);

    dataplane.remove(&tcp.footprint(), &all).await.unwrap();
    assert_eq!(get("udp"), udp_route);
    assert_eq!(dataplane.ensure(&udp, &all).await.unwrap(), Applied::Adopted);
    dataplane.remove(&udp.footprint(), &all).await.unwrap();
    assert_eq!((rules(&nsc), routes(&nsc)), before);
}

#[tokio::test]
async fn a_rule_outlives_its_link_and_is_removed_all_the_same() {
    if !may_run() {
        return;
    }
    let (node, nsc, nse) = (netns(), pod_with_own_routes(), netns());
    let before = rules(&nsc);
    let dataplane = dataplane(&node);
    let desired = plan(&policed("c-outlives"), &pod(&nsc, "nsm-1"), &pod(&nse, "nsm-1")).unwrap();
    dataplane.ensure(&desired, &namespaces(&[&nsc, &nse])).await.unwrap();
    // The endpoint's pod ends, and the client's end of the pair with it.
    ip(&nse, "link delete nsm-1");
    drop(nse);
    assert_eq!((links(&nsc), rules(&nsc).len()), (vec!["cni".into()], before.len() + 6));
    // Meanwhile nobody loses a packet to it: an empty table is passed over.
    assert!(ip(&nsc, "route get 172.16.4.1 ipproto udp dport 6666").contains("dev cni"));

    let at_hand = namespaces(&[&nsc]);
    assert_eq!(dataplane.remove(&desired.footprint(), &at_hand).await.unwrap(), Removed::Deleted);
    assert_eq!(rules(&nsc), before);
    assert_eq!(dataplane.remove(&desired.footprint(), &at_hand).await.unwrap(), Removed::Nothing);
}

#[tokio::test]
async fn a_kernel_that_refuses_a_policy_says_which_and_nothing_is_left() {
    if !may_run() {
        return;
    }
    let (node, nsc, nse) = (netns(), pod_with_own_routes(), netns());
    let before = (rules(&nsc), routes(&nsc));
    let dataplane = dataplane(&node);
    let mut connection = policed("c-refused");
    // A next hop that is an address of the pod itself.
    ip_context(&mut connection).policies[0].routes[0].next_hop = "127.0.0.1".into();
    let desired = plan(&connection, &pod(&nsc, "nsm-1"), &pod(&nse, "nsm-1")).unwrap();
    let error = dataplane.ensure(&desired, &namespaces(&[&nsc, &nse])).await.unwrap_err();
    assert!(error.to_string().contains("172.16.3.0/24 via 127.0.0.1 table 1"), "{error}");
    assert_eq!((rules(&nsc), routes(&nsc)), before);
    assert_eq!((links(&nsc), links(&nse)), (vec!["cni".into()], vec![]));
}

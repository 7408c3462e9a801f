//! The data plane on the real kernel. Needs root; sends packets only inside of its own namespaces.

// Helpers of tests are tests: what they cannot do fails the test.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "dataplane/monitor.rs"]
mod monitor;
#[path = "dataplane/world.rs"]
mod world;

use std::{
    os::{fd::AsFd, unix::fs::OpenOptionsExt},
    time::Duration,
};

use monitor::Monitor;
use nsm_components::{
    api::connectioncontext::{IpNeighbor, Route},
    dataplane::{
        Applied, Conflict, Counters, Dataplane, Depth, Error, Kernel, Netlink, Netns, OwnedLink, Owner, diff,
        plan,
    },
};
use world::{
    connection, inside, ip, ip_context, links, may_run, namespaces, netns, ping, pod, sysctl, tunnel,
    two_nodes,
};

const O_PATH: i32 = nix::fcntl::OFlag::O_PATH.bits();

fn dataplane(underlay: &Netns) -> Dataplane<Netlink> {
    Dataplane::new(Netlink::with_underlay(underlay.clone()))
}

/// What was written between two readings.
fn written(before: Counters, after: Counters) -> (u64, u64, u64) {
    (after.writes - before.writes, after.write_sends - before.write_sends, after.sysctls - before.sysctls)
}

#[tokio::test]
async fn two_pods_of_one_node_reach_each_other_under_equal_interface_names() {
    if !may_run() {
        return;
    }
    let (node, nsc, nse) = (netns(), netns(), netns());
    let dataplane = dataplane(&node);
    let desired = plan(&connection("c-local"), &pod(&nsc, "nsm-1"), &pod(&nse, "nsm-1")).unwrap();
    let at_hand = namespaces(&[&nsc, &nse]);

    assert_eq!(dataplane.ensure(&desired, &at_hand).await.unwrap(), Applied::Created);

    ping(&nsc, "172.16.1.100", 56);
    ping(&nsc, "fd00:9::100", 56);
    ping(&nse, "172.16.1.101", 56);
    for pod in [&nsc, &nse] {
        let link = ip(pod, "-d link show nsm-1");
        assert!(link.contains("alias nsm:c-local") && link.contains("group 7238509"), "{link}");
        assert!(link.contains("LOWER_UP"), "{link}");
        assert_eq!(sysctl(pod, "net/ipv4/ping_group_range"), "0 2147483647");
    }
    let routes = ip(&nsc, "route show dev nsm-1");
    assert!(routes.contains("172.16.1.100 proto 78 scope link"), "{routes}");
    assert!(routes.contains("192.168.99.0/24 via 172.16.1.100 proto 78 onlink"), "{routes}");
    assert_eq!(links(&node), [""; 0], "nothing of it is on the node");

    assert!(dataplane.remove(&desired.footprint(), &at_hand).await.unwrap());
    assert_eq!((links(&nsc), links(&nse)), (vec![], vec![]));
    assert!(!dataplane.remove(&desired.footprint(), &at_hand).await.unwrap());
}

#[tokio::test]
async fn a_new_local_connection_takes_three_sends_and_a_refresh_none() {
    if !may_run() {
        return;
    }
    let (node, nsc, nse) = (netns(), netns(), netns());
    let dataplane = dataplane(&node);
    let mut connection = connection("c-count");
    ip_context(&mut connection).src_routes.clear();
    let context = ip_context(&mut connection);
    context.src_ip_addrs.truncate(1);
    context.dst_ip_addrs.truncate(1);
    let desired = plan(&connection, &pod(&nsc, "nsm-1"), &pod(&nse, "nsm-1")).unwrap();
    let at_hand = namespaces(&[&nsc, &nse]);

    let start = dataplane.kernel().counters();
    dataplane.ensure(&desired, &at_hand).await.unwrap();
    let made = dataplane.kernel().counters();
    // The link; then altname, alias with up, address and route on each end. One sysctl file a pod.
    assert_eq!(written(start, made), (9, 3, 2));

    assert_eq!(dataplane.ensure(&desired, &at_hand).await.unwrap(), Applied::Adopted);
    let refreshed = dataplane.kernel().counters();
    assert_eq!(written(made, refreshed), (0, 0, 0));
}

#[tokio::test]
async fn pods_of_two_nodes_reach_each_other_through_a_tunnel_that_starts_in_the_pod() {
    if !may_run() {
        return;
    }
    let (node_1, node_2) = two_nodes();
    let (nsc, nse) = (netns(), netns());
    let (near, far) = (dataplane(&node_1), dataplane(&node_2));
    let connection = connection("c-remote");
    let to = tunnel("10.250.0.1", "10.250.0.2", 4242);
    let from = tunnel("10.250.0.2", "10.250.0.1", 4242);
    let desired_near = plan(&connection, &pod(&nsc, "nsm-1"), &to).unwrap();
    let desired_far = plan(&connection, &from, &pod(&nse, "nsm-1")).unwrap();

    let at_far = namespaces(&[&nse]);
    assert_eq!(far.ensure(&desired_far, &at_far).await.unwrap(), Applied::Created);
    let at_near = namespaces(&[&nsc]);
    assert_eq!(near.ensure(&desired_near, &at_near).await.unwrap(), Applied::Created);

    ping(&nsc, "172.16.1.100", 56);
    ping(&nsc, "fd00:9::100", 56);
    // 20 bytes of IPv4 and 8 of ICMP fill the inner MTU.
    ping(&nsc, "172.16.1.100", 1446 - 28);
    assert!(ip(&nsc, "link show nsm-1").contains("mtu 1446"));
    assert_eq!((links(&node_1), links(&node_2)), (vec!["wire".into()], vec!["wire".into()]));
    assert_eq!(near.ensure(&desired_near, &at_near).await.unwrap(), Applied::Adopted);
    assert_eq!(near.kernel().underlay_mtu("10.250.0.1".parse().unwrap()).await.unwrap(), Some(1500));

    near.remove(&desired_near.footprint(), &at_near).await.unwrap();
    far.remove(&desired_far.footprint(), &at_far).await.unwrap();
    assert_eq!((links(&nsc), links(&nse)), (vec![], vec![]));
}

#[tokio::test]
async fn a_tunnel_over_ipv6_shares_vni_and_port_with_one_over_ipv4() {
    if !may_run() {
        return;
    }
    let (node_1, node_2) = two_nodes();
    let (near, far) = (dataplane(&node_1), dataplane(&node_2));
    let mut alive = Vec::new();
    for (a, b, mtu) in [("10.250.0.1", "10.250.0.2", 1446), ("fd00:250::1", "fd00:250::2", 1426)] {
        let (nsc, nse) = (netns(), netns());
        let connection = connection(&format!("c-{mtu}"));
        let desired_near = plan(&connection, &pod(&nsc, "nsm-1"), &tunnel(a, b, 4243)).unwrap();
        let desired_far = plan(&connection, &tunnel(b, a, 4243), &pod(&nse, "nsm-1")).unwrap();

        far.ensure(&desired_far, &namespaces(&[&nse])).await.unwrap();
        near.ensure(&desired_near, &namespaces(&[&nsc])).await.unwrap();

        ping(&nsc, "172.16.1.100", mtu - 28);
        assert_eq!(near.ensure(&desired_near, &namespaces(&[&nsc])).await.unwrap(), Applied::Adopted);
        alive.push((nsc, nse));
    }
}

#[tokio::test]
async fn a_tunnel_whose_vni_is_taken_is_refused_by_that_name_and_leaves_nothing() {
    if !may_run() {
        return;
    }
    let (node, _far) = two_nodes();
    let (a, b) = (netns(), netns());
    let dataplane = dataplane(&node);
    let first = plan(&connection("c-1"), &pod(&a, "nsm-1"), &tunnel("10.250.0.1", "10.250.0.2", 77)).unwrap();
    let second =
        plan(&connection("c-2"), &pod(&b, "nsm-1"), &tunnel("10.250.0.1", "10.250.0.3", 77)).unwrap();
    dataplane.ensure(&first, &namespaces(&[&a])).await.unwrap();

    let error = dataplane.ensure(&second, &namespaces(&[&b])).await.unwrap_err();

    assert!(matches!(error, Error::VniTaken { vni: 77 }), "{error:?}");
    assert_eq!(links(&b), [""; 0]);
    assert_eq!(links(&a), ["nsm-1"]);
}

#[tokio::test]
async fn a_new_process_adopts_what_it_finds_without_touching_it() {
    if !may_run() {
        return;
    }
    let (node, nsc, nse) = (netns(), netns(), netns());
    let desired = plan(&connection("c-adopt"), &pod(&nsc, "nsm-1"), &pod(&nse, "nsm-2")).unwrap();
    let at_hand = namespaces(&[&nsc, &nse]);
    dataplane(&node).ensure(&desired, &at_hand).await.unwrap();
    ping(&nsc, "172.16.1.100", 56);
    let monitors = [Monitor::start(&nsc), Monitor::start(&nse)];

    let next = dataplane(&node);
    assert_eq!(next.ensure(&desired, &at_hand).await.unwrap(), Applied::Adopted);

    assert_eq!(next.kernel().counters().writes, 0);
    for monitor in monitors {
        assert_eq!(monitor.seen(), [""; 0]);
    }
    let owned = next.list_owned(&nsc).await.unwrap();
    assert_eq!(owned.len(), 1);
    assert_eq!(owned[0].owner, Owner::Connection(desired.id));
}

#[tokio::test]
async fn a_foreign_interface_of_the_wanted_name_is_named_and_left_alone() {
    if !may_run() {
        return;
    }
    let (node, nsc, nse) = (netns(), netns(), netns());
    ip(&nse, "link add eth0 type bridge");
    let desired = plan(&connection("c-foreign"), &pod(&nsc, "nsm-1"), &pod(&nse, "eth0")).unwrap();
    let at_hand = namespaces(&[&nsc, &nse]);
    let before = ip(&nse, "-d link show eth0");
    let dataplane = dataplane(&node);

    let error = dataplane.ensure(&desired, &at_hand).await.unwrap_err();
    assert!(!dataplane.remove(&desired.footprint(), &at_hand).await.unwrap());

    assert!(matches!(&error, Error::Conflict(Conflict::Foreign { name, .. }) if name == "eth0"), "{error:?}");
    assert!(error.to_string().contains("interface eth0 exists"), "{error}");
    assert_eq!(ip(&nse, "-d link show eth0"), before);
    assert_eq!(links(&nsc), [""; 0]);
}

#[tokio::test]
async fn links_that_earlier_attempts_left_behind_give_way() {
    if !may_run() {
        return;
    }
    let (node, nsc, nse) = (netns(), netns(), netns());
    let at_hand = namespaces(&[&nsc, &nse]);
    // Marked but without an alias, as after a kill between the first and the second message.
    ip(&nsc, "link add nsm-1 group 7238509 type bridge");
    // Of a connection whose Close was lost.
    let dataplane = dataplane(&node);
    let lost = plan(&connection("c-lost"), &pod(&nsc, "old"), &pod(&nse, "nsm-1")).unwrap();
    dataplane.ensure(&lost, &at_hand).await.unwrap();

    let desired = plan(&connection("c-new"), &pod(&nsc, "nsm-1"), &pod(&nse, "nsm-1")).unwrap();
    let careful = dataplane.clone().with_in_use(|id| id.as_str() == "c-lost");
    let error = careful.ensure(&desired, &at_hand).await.unwrap_err();
    assert!(error.to_string().contains("serves connection c-lost"), "{error}");
    assert_eq!(dataplane.ensure(&desired, &at_hand).await.unwrap(), Applied::Created);

    ping(&nsc, "172.16.1.100", 56);
    assert_eq!((links(&nsc), links(&nse)), (vec!["nsm-1".into()], vec!["nsm-1".into()]));
}

#[tokio::test]
async fn a_kill_after_any_operation_is_made_good_by_the_next_request() {
    if !may_run() {
        return;
    }
    let (node, nsc, nse) = (netns(), netns(), netns());
    let dataplane = dataplane(&node);
    let desired = plan(&connection("c-kill"), &pod(&nsc, "nsm-1"), &pod(&nse, "nsm-1")).unwrap();
    let at_hand = namespaces(&[&nsc, &nse]);
    let footprint = desired.footprint();
    let nothing = dataplane.kernel().observe(&footprint, Depth::Routes, &at_hand).await.unwrap();
    let operations = diff(&desired, &nothing, &|_| false).unwrap();

    for done in 1..operations.len() {
        dataplane.kernel().apply(operations[..done].to_vec(), &at_hand).await.unwrap();

        dataplane.ensure(&desired, &at_hand).await.unwrap();

        assert!(dataplane.is_in_sync(&desired, &at_hand).await.unwrap(), "{done}");
        assert_eq!((links(&nsc).len(), links(&nse).len()), (1, 1), "{done}");
        dataplane.remove(&desired.footprint(), &at_hand).await.unwrap();
    }
}

#[tokio::test]
async fn ipv6_is_switched_on_where_the_pod_has_it_off() {
    if !may_run() {
        return;
    }
    let (node, nsc, nse) = (netns(), netns(), netns());
    let off = ["-qw", "net.ipv6.conf.default.disable_ipv6=1"];
    assert!(inside(&nsc, "sysctl").args(off).status().unwrap().success());
    let dataplane = dataplane(&node);
    let desired = plan(&connection("c-ipv6"), &pod(&nsc, "nsm-1"), &pod(&nse, "nsm-1")).unwrap();
    let at_hand = namespaces(&[&nsc, &nse]);

    dataplane.ensure(&desired, &at_hand).await.unwrap();
    ping(&nsc, "fd00:9::100", 56);

    assert!(
        inside(&nsc, "sysctl")
            .args(["-qw", "net.ipv6.conf.nsm-1.disable_ipv6=1"])
            .status()
            .unwrap()
            .success()
    );
    assert!(!dataplane.is_in_sync(&desired, &at_hand).await.unwrap());
    dataplane.ensure(&desired, &at_hand).await.unwrap();
    ping(&nsc, "fd00:9::100", 56);
    assert_eq!(sysctl(&nsc, "net/ipv6/conf/default/disable_ipv6"), "1");
}

#[tokio::test]
async fn links_that_nobody_wants_can_be_listed_and_removed_one_by_one() {
    if !may_run() {
        return;
    }
    let (node, nsc, nse) = (netns(), netns(), netns());
    ip(&nsc, "link add own type bridge");
    ip(&nsc, "link add half group 7238509 type bridge");
    let dataplane = dataplane(&node);
    let desired = plan(&connection("c-listed"), &pod(&nsc, "nsm-1"), &pod(&nse, "nsm-1")).unwrap();
    dataplane.ensure(&desired, &namespaces(&[&nsc, &nse])).await.unwrap();

    let mut owned = dataplane.list_owned(&nsc).await.unwrap();
    owned.sort_by(|a, b| a.name.cmp(&b.name));
    let owners: Vec<_> = owned.iter().map(|link| link.owner.clone()).collect();
    assert_eq!(owners, [Owner::Unfinished, Owner::Connection(desired.id)]);

    let renamed = OwnedLink { owner: Owner::Unfinished, ..owned[1].clone() };
    assert!(!dataplane.remove_owned(&renamed, &nsc).await.unwrap());
    for link in &owned {
        assert!(dataplane.remove_owned(link, &nsc).await.unwrap());
    }
    assert_eq!((links(&nsc), links(&nse)), (vec!["own".into()], vec![]));
}

#[tokio::test]
async fn a_connection_that_moves_to_another_endpoint_leaves_nothing_at_the_old_one() {
    if !may_run() {
        return;
    }
    let (node, nsc, old, new) = (netns(), netns(), netns(), netns());
    let dataplane = dataplane(&node);
    let connection = connection("c-heal");
    let before = plan(&connection, &pod(&nsc, "nsm-1"), &pod(&old, "nsm-1")).unwrap();
    dataplane.ensure(&before, &namespaces(&[&nsc, &old])).await.unwrap();

    let after = plan(&connection, &pod(&nsc, "nsm-1"), &pod(&new, "nsm-1")).unwrap();
    assert_eq!(dataplane.ensure(&after, &namespaces(&[&nsc, &new])).await.unwrap(), Applied::Created);

    ping(&nsc, "172.16.1.100", 56);
    assert_eq!((links(&old), links(&new)), (vec![], vec!["nsm-1".into()]));
}

#[tokio::test]
async fn what_a_pod_breaks_is_repaired_and_what_is_no_longer_wanted_goes() {
    if !may_run() {
        return;
    }
    let (node, nsc, nse) = (netns(), netns(), netns());
    let dataplane = dataplane(&node);
    let at_hand = namespaces(&[&nsc, &nse]);
    let mut connection = connection("c-repair");
    let neighbour = IpNeighbor { ip: "172.16.1.100".into(), hardware_address: "02:00:00:00:00:09".into() };
    ip_context(&mut connection).ip_neighbors = vec![neighbour];
    let desired = plan(&connection, &pod(&nsc, "nsm-1"), &pod(&nse, "nsm-1")).unwrap();
    dataplane.ensure(&desired, &at_hand).await.unwrap();
    assert!(ip(&nsc, "neighbour show dev nsm-1").contains("02:00:00:00:00:09 PERMANENT"));

    // Down and up again takes routes, IPv6 addresses and permanent neighbours.
    ip(&nsc, "link set nsm-1 down");
    ip(&nsc, "address add 10.66.0.1/24 dev nsm-1");
    ip(&nse, "link set nsm-1 mtu 1300 address 02:00:00:00:00:77");
    ip_context(&mut connection).ip_neighbors.clear();
    ip_context(&mut connection).src_routes = vec![Route { prefix: "10.1.0.0/16".into(), ..Route::default() }];
    connection.context.as_mut().unwrap().mtu = 1400;
    let desired = plan(&connection, &pod(&nsc, "nsm-1"), &pod(&nse, "nsm-1")).unwrap();
    let applied = dataplane.ensure(&desired, &at_hand).await.unwrap();

    assert!(matches!(applied, Applied::Changed(_)), "{applied:?}");
    assert!(dataplane.is_in_sync(&desired, &at_hand).await.unwrap());
    ping(&nsc, "172.16.1.100", 1400 - 28);
    ping(&nsc, "fd00:9::100", 56);
    let routes = ip(&nsc, "route");
    assert!(routes.contains("10.1.0.0/16") && !routes.contains("192.168.99.0"), "{routes}");
    assert!(!ip(&nsc, "address").contains("10.66.0.1"));
}

#[tokio::test]
async fn a_default_route_through_the_mesh_leaves_the_pods_own_beneath() {
    if !may_run() {
        return;
    }
    let (node, nsc, nse) = (netns(), netns(), netns());
    for line in [
        "link add cni type bridge",
        "link set cni up",
        "address add 10.244.0.5/24 dev cni",
        "address add fd00:44::5/64 dev cni nodad",
        "route add default via 10.244.0.1",
        "-6 route add default via fd00:44::1",
    ] {
        ip(&nsc, line);
    }
    let own = |netns: &Netns| (ip(netns, "route show default"), ip(netns, "-6 route show default"));
    let before = own(&nsc);
    let dataplane = dataplane(&node);
    let mut connection = connection("c-default");
    let route = |prefix: &str| Route { prefix: prefix.into(), next_hop: String::new() };
    ip_context(&mut connection).src_routes = vec![route("0.0.0.0/0"), route("::/0")];
    let desired = plan(&connection, &pod(&nsc, "nsm-1"), &pod(&nse, "nsm-1")).unwrap();
    let at_hand = namespaces(&[&nsc, &nse]);

    dataplane.ensure(&desired, &at_hand).await.unwrap();

    assert!(ip(&nsc, "route get 8.8.8.8").contains("dev nsm-1"));
    assert!(ip(&nsc, "route get 2001:db8::1").contains("dev nsm-1"));
    assert_eq!(dataplane.ensure(&desired, &at_hand).await.unwrap(), Applied::Adopted);
    dataplane.remove(&desired.footprint(), &at_hand).await.unwrap();
    assert_eq!(own(&nsc), before);
}

#[tokio::test]
async fn the_kernels_own_words_reach_the_error_and_nothing_is_left() {
    if !may_run() {
        return;
    }
    let (node, nsc, nse) = (netns(), netns(), netns());
    let dataplane = dataplane(&node);
    let mut connection = connection("c-words");
    // A next hop that is an address of the pod itself.
    let route = Route { prefix: "10.7.0.0/16".into(), next_hop: "127.0.0.1".into() };
    ip_context(&mut connection).src_routes = vec![route];
    let desired = plan(&connection, &pod(&nsc, "nsm-1"), &pod(&nse, "nsm-1")).unwrap();

    let error = dataplane.ensure(&desired, &namespaces(&[&nsc, &nse])).await.unwrap_err();

    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(error.to_string().starts_with("cannot add route 10.7.0.0/16 via 127.0.0.1"), "{error}");
    assert!(cause.contains("invalid gateway"), "{cause}");
    assert_eq!((links(&nsc), links(&nse)), (vec![], vec![]));
}

#[tokio::test]
async fn a_connection_is_removed_through_a_process_in_the_pod_and_a_dead_pod_needs_nothing() {
    if !may_run() {
        return;
    }
    let (node, nsc, nse) = (netns(), netns(), netns());
    let dataplane = dataplane(&node);
    let desired = plan(&connection("c-find"), &pod(&nsc, "nsm-1"), &pod(&nse, "nsm-1")).unwrap();
    dataplane.ensure(&desired, &namespaces(&[&nsc, &nse])).await.unwrap();
    let footprint = desired.footprint();
    let nsc_key = nsc.key();

    // Only a process keeps the client's namespace now, and nothing the endpoint's.
    let mut process = inside(&nsc, "cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
    let deadline = std::time::SystemTime::now() + Duration::from_secs(10);
    while Netns::find(nsc_key).is_none() {
        assert!(std::time::SystemTime::now() < deadline, "the process is not in the namespace");
        tokio::task::yield_now().await;
    }
    let gone = nse.key();
    drop(nse);
    let removed = dataplane.remove(&footprint, &namespaces(&[])).await;
    let left = links(&nsc);
    process.kill().unwrap();
    process.wait().unwrap();

    removed.unwrap();
    assert_eq!(left, [""; 0]);
    assert!(Netns::find(gone).is_none());
    drop(nsc);
    assert!(!dataplane.remove(&footprint, &namespaces(&[])).await.unwrap());
}

#[tokio::test]
async fn hundreds_of_routes_are_as_good_as_one() {
    if !may_run() {
        return;
    }
    let (node, nsc, nse) = (netns(), netns(), netns());
    let dataplane = dataplane(&node);
    let mut connection = connection("c-routes");
    let route = |n: u32| Route { prefix: format!("10.{}.{}.0/24", n / 200, n % 200), ..Route::default() };
    ip_context(&mut connection).src_routes = (0..300).map(route).collect();
    let desired = plan(&connection, &pod(&nsc, "nsm-1"), &pod(&nse, "nsm-1")).unwrap();
    let at_hand = namespaces(&[&nsc, &nse]);

    assert_eq!(dataplane.ensure(&desired, &at_hand).await.unwrap(), Applied::Created);
    assert_eq!(ip(&nsc, "route").lines().count(), 301);
    assert_eq!(dataplane.ensure(&desired, &at_hand).await.unwrap(), Applied::Adopted);
}

#[tokio::test]
async fn forty_connections_to_one_endpoint_are_made_side_by_side() {
    if !may_run() {
        return;
    }
    let (node, nse) = (netns(), netns());
    let dataplane = dataplane(&node);
    let pods: Vec<Netns> = (0..40).map(|_| netns()).collect();
    let desired = |n: usize| {
        let mut connection = connection(&format!("c-{n}"));
        let context = ip_context(&mut connection);
        context.src_ip_addrs = vec![format!("172.16.2.{n}/32")];
        context.dst_ip_addrs = vec!["172.16.1.100/32".into()];
        context.dst_routes.clear();
        plan(&connection, &pod(&pods[n], "nsm-1"), &pod(&nse, &format!("nsm-{n}"))).unwrap()
    };
    let all = namespaces(&pods.iter().chain([&nse]).collect::<Vec<_>>());
    let made = futures::future::join_all((0..40).map(|n| {
        let (dataplane, all, desired) = (&dataplane, &all, desired(n));
        async move { dataplane.ensure(&desired, all).await }
    }));
    assert!(made.await.into_iter().all(|made| made.unwrap() == Applied::Created));
    assert_eq!(dataplane.list_owned(&nse).await.unwrap().len(), 40);
    ping(&pods[39], "172.16.1.100", 56);
}

#[test]
fn only_namespaces_are_taken_for_namespaces_also_without_the_right_to_read() {
    let path_only =
        |path: &str| std::fs::OpenOptions::new().read(true).custom_flags(O_PATH).open(path).unwrap();
    let own = Netns::from_fd(path_only("/proc/self/ns/net").as_fd()).unwrap();
    assert_eq!(own.key(), Netns::open("/proc/self/ns/net").unwrap().key());
    for path in ["/dev/null", "/tmp", "/proc/self/status"] {
        let error = Netns::from_fd(path_only(path).as_fd()).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput, "{path}: {error}");
    }
}

#[tokio::test]
async fn both_ends_may_be_in_one_pod() {
    if !may_run() {
        return;
    }
    let (node, both) = (netns(), netns());
    let dataplane = dataplane(&node);
    let mut connection = connection("c-self");
    ip_context(&mut connection).src_routes.clear();
    let desired = plan(&connection, &pod(&both, "nsm-1"), &pod(&both, "nsm-2")).unwrap();
    let at_hand = namespaces(&[&both]);
    assert_eq!(dataplane.ensure(&desired, &at_hand).await.unwrap(), Applied::Created);
    assert_eq!(dataplane.ensure(&desired, &at_hand).await.unwrap(), Applied::Adopted);
    assert!(dataplane.remove(&desired.footprint(), &at_hand).await.unwrap());
    assert_eq!(links(&both), [""; 0]);
}

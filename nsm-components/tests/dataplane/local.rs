//! Both pods on one node.

use nsm_components::{
    api::connectioncontext::Route,
    dataplane::{Applied, Netns, Removed, plan},
};

use crate::world::{
    connection, dataplane, inside, ip, ip_context, links, may_run, namespaces, netns, ping, pod, sysctl,
    written,
};

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

    assert_eq!(dataplane.remove(&desired.footprint(), &at_hand).await.unwrap(), Removed::Deleted);
    assert_eq!((links(&nsc), links(&nse)), (vec![], vec![]));
    assert_eq!(dataplane.remove(&desired.footprint(), &at_hand).await.unwrap(), Removed::Nothing);
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
    // The link; then altname, alias with up, address, route and neighbour on each end. One sysctl file a pod.
    assert_eq!(written(start, made), (11, 3, 2));

    assert_eq!(dataplane.ensure(&desired, &at_hand).await.unwrap(), Applied::Adopted);
    let refreshed = dataplane.kernel().counters();
    assert_eq!(written(made, refreshed), (0, 0, 0));
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
    assert_eq!(dataplane.remove(&desired.footprint(), &at_hand).await.unwrap(), Removed::Deleted);
    assert_eq!(links(&both), [""; 0]);
}

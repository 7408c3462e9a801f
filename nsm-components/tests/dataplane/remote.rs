//! Pods of two nodes, through a tunnel.

use std::time::{Duration, Instant};

use nsm_components::dataplane::{Applied, Error, plan};

use crate::world::{
    connection, dataplane, ip, links, may_run, namespaces, netns, ping, pod, tunnel, two_nodes,
};

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
async fn who_knew_a_clients_addresses_elsewhere_is_told_where_they_are_once_its_tunnel_is_made() {
    if !may_run() {
        return;
    }
    let (node_1, node_2) = two_nodes();
    let (nsc, nse) = (netns(), netns());
    let (near, far) = (dataplane(&node_1), dataplane(&node_2));
    let connection = connection("c-told");
    let to = tunnel("10.250.0.1", "10.250.0.2", 4244);
    let from = tunnel("10.250.0.2", "10.250.0.1", 4244);
    let desired_near = plan(&connection, &pod(&nsc, "nsm-1"), &to).unwrap();
    let desired_far = plan(&connection, &from, &pod(&nse, "nsm-1")).unwrap();
    far.ensure(&desired_far, &namespaces(&[&nse])).await.unwrap();
    for address in ["172.16.1.101", "fd00:9::101"] {
        ip(&nse, &format!("neighbour replace {address} lladdr 02:00:00:00:00:99 dev nsm-1 nud stale"));
    }

    near.ensure(&desired_near, &namespaces(&[&nsc])).await.unwrap();

    let mac = desired_near.ends[0].mac.map(|byte| format!("{byte:02x}")).join(":");
    for address in ["172.16.1.101", "fd00:9::101"] {
        let deadline = Instant::now() + Duration::from_secs(2);
        let mut known = ip(&nse, &format!("neighbour show {address}"));
        while !known.contains(&mac) {
            assert!(Instant::now() < deadline, "{address} is still elsewhere: {known}");
            known = ip(&nse, &format!("neighbour show {address}"));
        }
    }
    assert_eq!(ip(&nsc, "neighbour show 172.16.1.101"), "", "nothing is left of the search");
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

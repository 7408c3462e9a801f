//! What is there already: adopted, repaired, taken over or left alone.

use nsm_components::{
    api::connectioncontext::{IpNeighbor, Route},
    dataplane::{Applied, Conflict, Depth, Error, Kernel, Owner, Removed, diff, plan},
};

use crate::monitor::Monitor;
use crate::world::{connection, dataplane, ip, ip_context, links, may_run, namespaces, netns, ping, pod};

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
    assert_eq!(dataplane.remove(&desired.footprint(), &at_hand).await.unwrap(), Removed::Nothing);

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

use proptest::prelude::*;

use super::*;
use crate::{
    api::{
        Connection,
        connectioncontext::{ConnectionContext, IpContext, PolicyRoute, Route},
    },
    dataplane::{Memory, NetnsKey, Rule, Side, VxlanLink, plan},
};

fn netns(ino: u64) -> NetnsKey {
    NetnsKey { dev: 4, ino }
}

fn pod(ino: u64) -> Side {
    Side::Kernel { netns: netns(ino), ifname: "nsm-1".into() }
}

fn tunnel(vni: u32) -> Side {
    let (local, remote) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
    Side::Vxlan { tunnel: VxlanLink { local, remote, vni, port: 4789 }, mtu: 1446 }
}

fn connection(id: &str, routes: &[String]) -> Connection {
    let route = |prefix: &String| Route { prefix: prefix.clone(), next_hop: String::new() };
    let ip = IpContext {
        src_ip_addrs: vec!["172.16.0.1/32".into()],
        dst_ip_addrs: vec!["172.16.0.0/32".into()],
        src_routes: routes.iter().map(route).collect(),
        ..IpContext::default()
    };
    let context = ConnectionContext { ip_context: Some(ip), ..ConnectionContext::default() };
    Connection { id: id.into(), context: Some(context), ..Connection::default() }
}

fn local(id: &str) -> Desired {
    with_policies(id, &[], &["6", "17"])
}

/// With a policy route for each of these protocols.
fn with_policies(id: &str, routes: &[String], protocols: &[&str]) -> Desired {
    let mut connection = connection(id, routes);
    let policy = |proto: &&str| PolicyRoute { proto: (*proto).into(), ..PolicyRoute::default() };
    let ip = connection.context.as_mut().unwrap().ip_context.as_mut().unwrap();
    ip.policies = protocols.iter().map(policy).collect();
    let mut desired = plan(&connection, &pod(1), &pod(2)).unwrap();
    // As a forwarder does that knows of policy routes before.
    desired.has_policies = true;
    desired
}

/// Tables by namespace and protocol.
fn tables(dataplane: &Dataplane<Memory>) -> Vec<(u64, Option<u8>, u8)> {
    dataplane.kernel().rules().iter().map(|(at, r)| (at.ino, r.selector.proto, r.table)).collect()
}

fn dataplane() -> Dataplane<Memory> {
    Dataplane::new(Memory::new())
}

#[tokio::test]
async fn a_second_time_makes_no_operation() {
    let (dataplane, netns) = (dataplane(), Namespaces::default());
    assert_eq!(dataplane.ensure(&local("c1"), &netns).await.unwrap(), Applied::Created);
    let made = dataplane.kernel().operations().len();
    assert_eq!(dataplane.ensure(&local("c1"), &netns).await.unwrap(), Applied::Adopted);
    assert_eq!(dataplane.kernel().operations().len(), made);
}

#[tokio::test]
async fn whichever_operation_fails_nothing_is_left_and_the_next_attempt_succeeds() {
    let (probe, netns) = (dataplane(), Namespaces::default());
    probe.ensure(&local("c1"), &netns).await.unwrap();
    for nth in 0..probe.kernel().operations().len() {
        let dataplane = dataplane();
        dataplane.kernel().fail_at(nth, Errno::EPERM);
        let error = dataplane.ensure(&local("c1"), &netns).await.unwrap_err();
        assert!(matches!(error, Error::Apply(_)), "{nth}: {error}");
        assert_eq!(dataplane.kernel().links(), [], "{nth}");
        assert_eq!(dataplane.kernel().rules(), [], "{nth}");
        assert_eq!(dataplane.ensure(&local("c1"), &netns).await.unwrap(), Applied::Created);
    }
}

#[tokio::test]
async fn whichever_change_fails_an_existing_connection_stays_as_it_was() {
    let netns = Namespaces::default();
    let before = with_policies("c1", &["10.1.0.0/16".into()], &["6", "17"]);
    let after = with_policies("c1", &["10.2.0.0/16".into()], &["17"]);
    let probe = dataplane();
    probe.ensure(&before, &netns).await.unwrap();
    let Applied::Changed(changes) = probe.ensure(&after, &netns).await.unwrap() else { panic!("changed") };
    assert_eq!(changes, 2 + 2 + 2 * 2, "a route, a new policy and two old ones");
    for nth in 0..changes {
        let dataplane = dataplane();
        dataplane.ensure(&before, &netns).await.unwrap();
        let rules = tables(&dataplane).len();
        dataplane.kernel().fail_at(nth, Errno::EPERM);
        dataplane.ensure(&after, &netns).await.unwrap_err();
        assert!(dataplane.is_in_sync(&before, &netns).await.unwrap(), "{nth}");
        assert_eq!(tables(&dataplane).len(), rules, "{nth}");
    }
}

#[tokio::test]
async fn policy_routes_take_the_first_tables_that_nobody_has_and_keep_them() {
    let (dataplane, at_hand) = (dataplane(), Namespaces::default());
    let foreign = |table| {
        let selector = local("c1").ends[1].policies[0].selector;
        Rule { tag: 1, mark: 0, priority: 100, selector, table }
    };
    dataplane.kernel().add_rule(netns(1), foreign(2));
    dataplane.ensure(&local("c1"), &at_hand).await.unwrap();
    assert_eq!(tables(&dataplane)[1..], [(1, Some(6), 1), (1, Some(17), 3)]);
    let made = dataplane.kernel().operations().len();
    assert_eq!(dataplane.ensure(&local("c1"), &at_hand).await.unwrap(), Applied::Adopted);
    assert_eq!(dataplane.kernel().operations().len(), made);
    // Somebody takes one of them: there is no telling whose routes are in it.
    dataplane.kernel().add_rule(netns(1), foreign(3));
    assert!(matches!(dataplane.ensure(&local("c1"), &at_hand).await.unwrap(), Applied::Changed(_)));
    assert!(tables(&dataplane).contains(&(1, Some(17), 4)));
    assert_eq!(dataplane.ensure(&local("c1"), &at_hand).await.unwrap(), Applied::Adopted);
    dataplane.remove(&local("c1").footprint(), &at_hand).await.unwrap();
    assert_eq!(dataplane.kernel().rules(), [(netns(1), foreign(2)), (netns(1), foreign(3))]);
}

#[tokio::test]
async fn rules_whose_link_went_with_the_other_pod_are_found_and_removed() {
    let (dataplane, at_hand) = (dataplane(), Namespaces::default());
    dataplane.ensure(&local("c1"), &at_hand).await.unwrap();
    dataplane.kernel().end_netns(netns(2));
    assert_eq!((dataplane.kernel().links(), tables(&dataplane).len()), (vec![], 2));
    assert_eq!(dataplane.remove(&local("c1").footprint(), &at_hand).await.unwrap(), Removed::Deleted);
    assert_eq!(dataplane.kernel().rules(), []);
}

#[tokio::test]
async fn a_policy_too_many_is_refused_before_anything_is_made() {
    let (dataplane, at_hand) = (dataplane(), Namespaces::default());
    let protocols: Vec<String> = (1..=253).map(|proto: u32| proto.to_string()).collect();
    let protocols: Vec<&str> = protocols.iter().map(String::as_str).collect();
    let too_many = with_policies("c1", &[], &protocols);
    let error = dataplane.ensure(&too_many, &at_hand).await.unwrap_err();
    assert!(error.to_string().contains("no table left for 253 policy routes"), "{error}");
    assert_eq!(dataplane.kernel().operations(), []);
    dataplane.ensure(&with_policies("c1", &[], &protocols[1..]), &at_hand).await.unwrap();
}

#[tokio::test]
async fn an_index_that_is_taken_is_replaced_by_another() {
    let (dataplane, netns) = (dataplane(), Namespaces::default());
    dataplane.kernel().fail_at(2, Errno::EBUSY);
    assert_eq!(dataplane.ensure(&local("c1"), &netns).await.unwrap(), Applied::Created);
    assert_eq!(dataplane.ensure(&local("c1"), &netns).await.unwrap(), Applied::Adopted);
}

#[tokio::test]
async fn a_vni_that_is_taken_is_told_apart() {
    let (dataplane, netns) = (dataplane(), Namespaces::default());
    let to = |id, ino| plan(&connection(id, &[]), &pod(ino), &tunnel(7)).unwrap();
    dataplane.ensure(&to("c1", 1), &netns).await.unwrap();
    let error = dataplane.ensure(&to("c2", 2), &netns).await.unwrap_err();
    assert!(matches!(error, Error::VniTaken { vni: 7 }), "{error}");
    assert_eq!(dataplane.kernel().links().len(), 1);
}

#[tokio::test]
async fn a_pod_that_dies_takes_its_links_and_removal_is_content() {
    let (dataplane, at_hand) = (dataplane(), Namespaces::default());
    let plain = plan(&connection("c1", &[]), &pod(1), &pod(2)).unwrap();
    dataplane.ensure(&plain, &at_hand).await.unwrap();
    dataplane.kernel().end_netns(netns(2));
    assert_eq!(dataplane.kernel().links(), []);
    assert_eq!(dataplane.remove(&plain.footprint(), &at_hand).await.unwrap(), Removed::Nothing);
    let error = dataplane.ensure(&plain, &at_hand).await.unwrap_err();
    assert!(matches!(error, Error::Conflict(Conflict::Unreachable(_))), "{error}");
}

#[tokio::test]
async fn a_foreign_interface_survives_everything() {
    let (dataplane, at_hand) = (dataplane(), Namespaces::default());
    dataplane.kernel().add_foreign(netns(1), "nsm-1");
    dataplane.ensure(&local("c1"), &at_hand).await.unwrap_err();
    dataplane.remove(&local("c1").footprint(), &at_hand).await.unwrap();
    assert_eq!(dataplane.kernel().links(), [(netns(1), "nsm-1".into())]);
}

/// One thing that may happen to a connection.
#[derive(Debug, Clone)]
enum Step {
    Local { client: u64, endpoint: u64, routes: Vec<String>, policies: Vec<u8> },
    Remote { client: u64, vni: u32 },
    Fail(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let route = (0u8..4).prop_map(|n| format!("10.{n}.0.0/16"));
    let routes = proptest::collection::vec(route, 0..4);
    prop_oneof![
        4 => (1u64..3, 3u64..5, routes, proptest::collection::vec(1u8..5, 0..3)).prop_map(
            |(client, endpoint, routes, policies)| Step::Local { client, endpoint, routes, policies }
        ),
        2 => (1u64..3, 1u32..4).prop_map(|(client, vni)| Step::Remote { client, vni }),
        1 => (0usize..20).prop_map(Step::Fail),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_a_repeated_ensure_changes_nothing_and_removal_leaves_nothing(
        steps in proptest::collection::vec(step(), 1..8)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (dataplane, at_hand) = (dataplane(), Namespaces::default());
            // As a forwarder does: it knows where the connection was before it moves it.
            let mut places: Vec<Footprint> = Vec::new();
            for step in steps {
                let desired = match step {
                    Step::Local { client, endpoint, routes, policies } => {
                        let mut connection = connection("c1", &routes);
                        let policy = |proto: &u8| PolicyRoute { proto: proto.to_string(), ..PolicyRoute::default() };
                        let ip = connection.context.as_mut().unwrap().ip_context.as_mut().unwrap();
                        ip.policies = policies.iter().map(policy).collect();
                        plan(&connection, &pod(client), &pod(endpoint)).unwrap()
                    }
                    Step::Remote { client, vni } => plan(&connection("c1", &[]), &pod(client), &tunnel(vni)).unwrap(),
                    Step::Fail(nth) => {
                        dataplane.kernel().fail_at(nth, Errno::EPERM);
                        continue;
                    }
                };
                let mut desired = desired;
                desired.has_policies |= places.iter().any(|place| place.has_policies);
                places.push(desired.footprint());
                let before = (dataplane.kernel().links(), dataplane.kernel().rules());
                if dataplane.ensure(&desired, &at_hand).await.is_ok() {
                    dataplane.kernel().clear_failure();
                    let again = dataplane.ensure(&desired, &at_hand).await.unwrap();
                    prop_assert_eq!(again, Applied::Adopted);
                } else {
                    let after = (dataplane.kernel().links(), dataplane.kernel().rules());
                    let old = after.0 == before.0 && after.1.len() == before.1.len();
                    let nothing = after.0.iter().all(|link| before.0.contains(link)) && after.1.iter().all(|rule| before.1.contains(rule));
                    prop_assert!(old || nothing, "{:?} became {:?}", before, after);
                }
            }
            dataplane.kernel().clear_failure();
            for place in places {
                dataplane.remove(&place, &at_hand).await.unwrap();
            }
            prop_assert_eq!(dataplane.kernel().links(), []);
            prop_assert_eq!(dataplane.kernel().rules(), []);
            Ok(())
        })?;
    }
}

#[tokio::test(start_paused = true)]
async fn links_that_end_are_out_of_use_at_once_and_deleted_together_later() {
    let dataplane = dataplane().deleting_later();
    for id in ["c1", "c2"] {
        let desired = local(id);
        // The second has the names of the first.
        assert_eq!(dataplane.ensure(&desired, &Namespaces::default()).await.unwrap(), Applied::Created);
        let removed = dataplane.remove(&desired.footprint(), &Namespaces::default()).await.unwrap();
        assert_eq!(removed, Removed::Deleted);
    }
    let links = dataplane.kernel().links();
    assert_eq!(links.len(), 4);

    let worker = tokio::spawn(dataplane.clone().delete_retired());
    dataplane.emptied().await;
    assert_eq!(dataplane.kernel().links(), []);
    let deletions = dataplane.kernel().operations();
    let deletions = deletions.iter().filter(|operation| matches!(operation, Operation::DeleteRetired(_)));
    assert_eq!(deletions.count(), 1, "one for all links of an endpoint's namespace");
    worker.abort();
}

#[tokio::test]
async fn a_link_that_makes_room_for_the_next_of_its_connection_is_out_of_its_way_before_it_is_deleted() {
    let dataplane = dataplane().deleting_later();
    let at_hand = Namespaces::default();
    dataplane.ensure(&local("c1"), &at_hand).await.unwrap();
    let elsewhere = plan(&connection("c1", &[]), &pod(1), &pod(3)).unwrap();
    assert_eq!(dataplane.ensure(&elsewhere, &at_hand).await.unwrap(), Applied::Created);
    let moved = dataplane.kernel().operations();
    let created = moved.iter().filter(|operation| matches!(operation, Operation::Create(_)));
    assert_eq!(created.count(), 2, "no number was taken");
    let tunnel = |vni| plan(&connection("c1", &[]), &pod(1), &tunnel(vni)).unwrap();
    for vni in [1, 2, 3] {
        assert_eq!(dataplane.ensure(&tunnel(vni), &at_hand).await.unwrap(), Applied::Created);
    }
    let elsewhere = tunnel(3);
    let deleted =
        |operation: &Operation| matches!(operation, Operation::Delete(_) | Operation::DeleteRetired(_));
    assert!(!dataplane.kernel().operations().iter().any(deleted), "nothing is deleted on the way");
    assert!(dataplane.is_in_sync(&elsewhere, &at_hand).await.unwrap());
}

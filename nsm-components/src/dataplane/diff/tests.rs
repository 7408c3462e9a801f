use super::*;
use crate::{
    api::{
        Connection,
        connectioncontext::{ConnectionContext, IpContext},
    },
    dataplane::{Distant, Side, VxlanLink, plan},
};

const NOBODY: &dyn Fn(&ConnectionId) -> bool = &|_| false;

fn netns(ino: u64) -> NetnsKey {
    NetnsKey { dev: 4, ino }
}

fn desired() -> Desired {
    let ip = IpContext {
        src_ip_addrs: vec!["172.16.0.1/32".into()],
        dst_ip_addrs: vec!["172.16.0.0/32".into()],
        ..IpContext::default()
    };
    let context = ConnectionContext { ip_context: Some(ip), ..ConnectionContext::default() };
    let connection = Connection { id: "c1".into(), context: Some(context), ..Connection::default() };
    let pod = |ino| Side::Kernel { netns: netns(ino), ifname: "nsm-1".into() };
    plan(&connection, &pod(1), &pod(2)).unwrap()
}

/// Everything as `desired` wants it.
fn in_sync(desired: &Desired) -> Observed {
    let link = |(at, end): (usize, &End)| {
        let peer = desired.ends[1 - at].index;
        let link = ObservedLink {
            has_altname: true,
            kind: ObservedKind::Veth { peer },
            mtu: 1500,
            up: true,
            ipv6_disabled: false,
            addresses: end.addresses.clone(),
            routes: end.routes.clone(),
            ..newborn(end)
        };
        reachable(Some(link), None)
    };
    Observed { ends: desired.ends.iter().enumerate().map(link).collect() }
}

fn reachable(own: Option<ObservedLink>, occupant: Option<OwnedLink>) -> ObservedEnd {
    ObservedEnd::Reachable { own: own.map(Box::new), occupant, policies: Policies::default() }
}

fn own(observed: &mut Observed, at: usize) -> &mut ObservedLink {
    match &mut observed.ends[at] {
        ObservedEnd::Reachable { own: Some(own), .. } => own,
        other => panic!("no link in {other:?}"),
    }
}

fn occupied(by: Owner) -> Observed {
    let occupant = OwnedLink { netns: netns(2), index: 5, name: "nsm-1".into(), owner: by, forwarder: None };
    Observed { ends: vec![reachable(None, Some(occupant)), reachable(None, None)] }
}

/// Where links are taken out of use.
fn retired(operations: &[Operation]) -> Vec<NetnsKey> {
    let retired = |operation: &Operation| match operation {
        Operation::Retire(at) => Some(at.netns),
        _ => None,
    };
    operations.iter().filter_map(retired).collect()
}

#[test]
fn what_is_in_sync_needs_nothing() {
    let desired = desired();
    assert_eq!(diff(&desired, &in_sync(&desired), NOBODY), Ok(vec![]));
}

#[test]
fn only_what_differs_is_changed() {
    let desired = desired();
    let mut observed = in_sync(&desired);
    let extra = "10.0.0.1/24".parse().unwrap();
    own(&mut observed, 1).addresses.push(extra);
    own(&mut observed, 1).routes.clear();
    let operations = diff(&desired, &observed, NOBODY).unwrap();
    let [Operation::RemoveAddress(at, removed), Operation::AddRoute(_, MAIN, added)] = operations.as_slice()
    else {
        panic!("{operations:?}");
    };
    assert_eq!((at.netns, *removed, *added), (netns(1), extra, desired.ends[1].routes[0]));
}

#[test]
fn half_of_a_pair_makes_room_and_the_pair_is_made_anew() {
    let desired = desired();
    let mut observed = in_sync(&desired);
    observed.ends[0] = reachable(None, None);
    let operations = diff(&desired, &observed, NOBODY).unwrap();
    assert_eq!(retired(&operations), [netns(1)]);
    assert!(matches!(&operations[3], Operation::Create(_)), "{operations:?}");
    assert_eq!(operations.last(), Some(&Operation::DeleteRetired(netns(1))));
}

#[test]
fn two_ends_that_are_not_each_others_peers_are_both_deleted() {
    let desired = desired();
    let mut observed = in_sync(&desired);
    own(&mut observed, 0).kind = ObservedKind::Veth { peer: 99 };
    let operations = diff(&desired, &observed, NOBODY).unwrap();
    assert_eq!(retired(&operations), [netns(2), netns(1)]);
    let [.., Operation::DeleteRetired(first), Operation::DeleteRetired(second)] = &operations[..] else {
        panic!("{operations:?}")
    };
    assert_eq!((*first, *second), (netns(2), netns(1)));
}

#[test]
fn another_kind_of_link_is_made_anew() {
    let mut desired = desired();
    let mut observed = in_sync(&desired);
    let (local, remote) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
    let tunnel = |vni| VxlanLink { local, remote, vni, port: 4789 };
    desired.ends.truncate(1);
    desired.link = Link::Vxlan(tunnel(5));
    observed.ends.truncate(1);
    own(&mut observed, 0).kind = ObservedKind::Vxlan(tunnel(5));
    assert_eq!(diff(&desired, &observed, NOBODY), Ok(vec![]));
    own(&mut observed, 0).kind = ObservedKind::Vxlan(tunnel(6));
    let operations = diff(&desired, &observed, NOBODY).unwrap();
    assert_eq!(retired(&operations), [netns(2)]);
    let mut elsewhere = tunnel(5);
    elsewhere.remote = "10.0.0.3".parse().unwrap();
    own(&mut observed, 0).kind = ObservedKind::Vxlan(elsewhere);
    let operations = diff(&desired, &observed, NOBODY).unwrap();
    // Out of use it would still have the number.
    assert!(matches!(operations[..2], [Operation::Delete(_), Operation::Create(_)]), "{operations:?}");
}

#[test]
fn a_name_is_taken_from_the_unfinished_and_the_abandoned_but_not_from_others() {
    let desired = desired();
    let other = || Owner::Connection(ConnectionId::new("c2").unwrap());
    for owner in [Owner::Unfinished, other()] {
        let operations = diff(&desired, &occupied(owner), NOBODY).unwrap();
        let Operation::Retire(at) = &operations[0] else { panic!("{operations:?}") };
        assert_eq!(at.index, 5);
        assert_eq!(operations[1], Operation::Rename(at.clone(), "nsx5".into()));
        assert_eq!(operations.last(), Some(&Operation::DeleteRetired(netns(2))));
    }
    let refused = diff(&desired, &occupied(other()), &|id| id.as_str() == "c2");
    assert!(matches!(refused, Err(Conflict::InUse { .. })));
    let refused = diff(&desired, &occupied(Owner::Foreign), NOBODY);
    assert_eq!(refused, Err(Conflict::Foreign { netns: netns(2), name: "nsm-1".into() }));
}

#[test]
fn a_pod_that_cannot_be_entered_is_named() {
    let desired = desired();
    let observed = Observed { ends: vec![reachable(None, None), ObservedEnd::Unreachable] };
    assert_eq!(diff(&desired, &observed, NOBODY), Err(Conflict::Unreachable(netns(1))));
}

#[test]
fn a_pair_is_deleted_by_one_end_and_what_is_unreachable_by_none() {
    let desired = desired();
    let places = desired.footprint();
    let mut observed = in_sync(&desired);
    let operations = removal(&places, None, &observed);
    assert_eq!(retired(&operations), [netns(1)]);
    assert!(matches!(&operations[3], Operation::MarkRetired(at) if at.netns == netns(2)), "{operations:?}");
    assert_eq!(operations[5..], [Operation::DeleteRetired(netns(2))]);
    observed.ends[0] = ObservedEnd::Unreachable;
    let operations = removal(&places, None, &observed);
    assert_eq!(retired(&operations), [netns(1)]);
    assert_eq!(operations[3..], [Operation::DeleteRetired(netns(1))]);
    assert_eq!(removal(&places, None, &occupied(Owner::Foreign)), []);
}

fn forwarder(ino: u64) -> ForwarderId {
    ForwarderId::new("forwarder-1", netns(ino), std::path::Path::new("/journal"))
}

#[test]
fn a_link_that_names_another_forwarder_is_never_removed_whatever_its_connection() {
    let desired = desired();
    let places = desired.footprint();
    let mut observed = in_sync(&desired);
    for at in [0, 1] {
        own(&mut observed, at).forwarder = Some(forwarder(7));
    }
    assert_eq!(removal(&places, Some(&forwarder(8)), &observed), []);
    assert_eq!(retired(&removal(&places, Some(&forwarder(7)), &observed)), [netns(1)]);
    let distant = |of| {
        let distant = Distant { nsid: 3, index: 5, name: "nsm-1".into(), forwarder: Some(of) };
        Observed { ends: vec![ObservedEnd::Distant(distant), ObservedEnd::Unreachable] }
    };
    assert_eq!(removal(&places, Some(&forwarder(8)), &distant(forwarder(7))), []);
    assert_eq!(removal(&places, Some(&forwarder(7)), &distant(forwarder(7))).len(), 1);

    let taken = occupied(Owner::Connection(ConnectionId::new("c2").unwrap()));
    let mut wanted = desired;
    wanted.forwarder = Some(forwarder(8));
    assert!(diff(&wanted, &taken, NOBODY).is_ok(), "of an earlier version, and of nobody");
    let mut taken = taken;
    let ObservedEnd::Reachable { occupant: Some(other), .. } = &mut taken.ends[0] else { panic!() };
    other.forwarder = Some(forwarder(7));
    let refused = diff(&wanted, &taken, NOBODY).unwrap_err();
    assert!(matches!(refused, Conflict::OtherForwarder { .. }), "{refused}");
}

#[test]
fn a_link_of_this_connection_becomes_this_forwarders_and_one_that_says_nothing_stays_as_it_is() {
    let mut desired = desired();
    let mut observed = in_sync(&desired);
    desired.forwarder = Some(forwarder(8));
    assert_eq!(diff(&desired, &observed, NOBODY), Ok(Vec::new()));
    own(&mut observed, 0).forwarder = Some(forwarder(7));
    own(&mut observed, 1).forwarder = Some(forwarder(8));
    let operations = diff(&desired, &observed, NOBODY).unwrap();
    let [Operation::Raise(at, alias)] = &operations[..] else { panic!("{operations:?}") };
    assert_eq!((at.netns, alias.ends_with(forwarder(8).as_str())), (netns(2), true));
}

#[test]
fn an_unfinished_link_is_removed_with_the_connection_whose_number_it_has() {
    let desired = desired();
    let unfinished = |index| {
        let mut observed = occupied(Owner::Unfinished);
        let ObservedEnd::Reachable { occupant: Some(link), .. } = &mut observed.ends[0] else { panic!() };
        link.index = index;
        observed
    };
    for try_ in [0, 1] {
        let observed = unfinished(desired.reindexed(try_).ends[0].index);
        assert_eq!(removal(&desired.footprint(), None, &observed).len(), 1);
    }
    assert_eq!(removal(&desired.footprint(), None, &unfinished(5)), []);
}

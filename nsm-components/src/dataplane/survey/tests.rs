use std::path::Path;

use super::{
    Kind::{Link, Rule as PolicyRule, Unfinished, Unnamed},
    *,
};
use crate::{
    api::policies::Selector,
    dataplane::desired::{Place, index},
};

fn netns(ino: u64) -> NetnsKey {
    NetnsKey { dev: 4, ino }
}

fn forwarder(ino: u64) -> ForwarderId {
    ForwarderId::new("forwarder-1", netns(ino), Path::new("/journal"))
}

fn id(id: &str) -> ConnectionId {
    ConnectionId::new(id).unwrap()
}

/// A connection with policy routes, whose client is in namespace 1 and whose endpoint in 2.
fn known() -> HashMap<ConnectionId, Footprint> {
    let place = |role, ino| Place { role, netns: netns(ino), name: "nsm-1".into() };
    let places = vec![place(Role::Endpoint, 2), place(Role::Client, 1)];
    let footprint = Footprint { id: id("c1"), places, has_policies: true };
    [(footprint.id.clone(), footprint)].into()
}

fn link(at: Whereabouts, owner: Owner, forwarder: Option<ForwarderId>) -> Found {
    Found::Link { at, index: 5, name: "nsm-1".into(), owner, forwarder }
}

fn rule(ino: u64, of: &str, mark: u32) -> Found {
    let selector = Selector { ipv6: false, from: None, proto: Some(6), src_ports: None, dst_ports: None };
    let rule = Rule { tag: tag(&id(of)), mark, priority: 7, selector, table: 1 };
    Found::Rule { netns: netns(ino), rule }
}

fn kinds(found: &[Found]) -> Vec<Kind> {
    orphans(found, Some(&forwarder(9)), &known()).iter().map(|orphan| orphan.kind).collect()
}

#[test]
fn what_a_connection_has_is_no_orphan_and_what_others_made_is_none_of_this_forwarders() {
    let (here, own, of) = (Whereabouts::Netns(netns(1)), Some(forwarder(9)), |of| Owner::Connection(id(of)));
    let other = Some(forwarder(8));
    let (own_mark, other_mark) = (forwarder(9).mark(), forwarder(8).mark());
    assert_eq!(
        kinds(&[
            link(here, of("c1"), own.clone()),
            link(here, of("c1"), None),
            link(Whereabouts::Nsid(3), of("c1"), own),
            link(here, of("c1"), other.clone()),
            link(here, of("c2"), other.clone()),
            link(Whereabouts::Nsid(3), of("c2"), other),
            link(here, Owner::Foreign, None),
            link(here, Owner::Retired, Some(forwarder(8))),
            link(here, Owner::Retired, None),
            rule(1, "c1", own_mark),
            rule(1, "c1", 0),
            rule(1, "c2", other_mark),
        ]),
        []
    );
}

#[test]
fn links_and_rules_of_unknown_connections_are_orphans_and_own_ones_are_removed() {
    let (here, own, of) = (Whereabouts::Netns(netns(1)), Some(forwarder(9)), |of| Owner::Connection(id(of)));
    let found = [
        link(here, of("c2"), own.clone()),
        link(Whereabouts::Nsid(3), of("c2"), own.clone()),
        // The connection has moved on.
        link(Whereabouts::Netns(netns(7)), of("c1"), own),
        link(here, of("c2"), None),
        link(here, Owner::Unfinished, None),
        // What a process left that was killed before it deleted it.
        link(here, Owner::Retired, Some(forwarder(9))),
        rule(1, "c2", forwarder(9).mark()),
        rule(2, "c1", forwarder(9).mark()),
        rule(1, "c2", 0),
    ];

    assert_eq!(kinds(&found), [Link, Link, Link, Unnamed, Unfinished, Link, PolicyRule, PolicyRule, Unnamed]);
    let orphans = orphans(&found, Some(&forwarder(9)), &known());
    let own: Vec<_> = orphans.iter().map(Orphan::is_own).collect();
    assert_eq!(own, [true, true, true, false, false, true, true, true, false]);
    assert_eq!(orphans[0].owner, format!("connection c2 of {}", forwarder(9)));
    assert!(orphans[1].to_string().contains("nsid 3"), "{}", orphans[1]);
}

#[test]
fn a_link_that_is_just_being_made_is_its_connections() {
    let number = index(&id("c1"), Role::Client, netns(1), Some(netns(2)), 1);
    let begun = Found::Link {
        at: Whereabouts::Netns(netns(1)),
        index: number,
        name: "nsm-1".into(),
        owner: Owner::Unfinished,
        forwarder: None,
    };
    assert_eq!(kinds(&[begun]), []);
}

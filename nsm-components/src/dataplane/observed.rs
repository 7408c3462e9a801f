//! What is in the kernel now.

use ipnet::IpNet;

use super::{
    desired::{Neighbour, VxlanLink},
    ids::{ConnectionId, ForwarderId, NetnsKey},
    policy::Policies,
    traffic::Traffic,
    wireguard::WireguardLink,
};
use crate::api::{
    context::Hop,
    names::{LINK_ALIAS_FORWARDER, LINK_ALIAS_PREFIX, LINK_GROUP, RETIRED_LINK_GROUP},
};

/// What was found at the places of a connection, in their order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Observed {
    /// One for each place.
    pub ends: Vec<ObservedEnd>,
}

/// What was found at one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ObservedEnd {
    /// The namespace is gone, or this process has no way into it.
    Unreachable,
    /// No way in either, but the link was found from the underlay's namespace.
    Distant(Distant),
    /// The namespace was looked at.
    Reachable {
        /// The connection's own link, under whatever name.
        own: Option<Box<ObservedLink>>,
        /// Another link that has the wanted name.
        occupant: Option<OwnedLink>,
        /// Policy routes, where they were to be looked for.
        policies: Policies,
    },
}

/// A link of the connection in a namespace that is known by a number alone. The kernel gives such
/// a number (nsid) to the namespace of every peer of a local link, as the CNI's; by it links can
/// be read and deleted, and nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Distant {
    /// The number that the underlay's namespace has for the other one.
    pub nsid: i32,
    /// Interface index there.
    pub index: u32,
    /// Interface name there.
    pub name: String,
    /// Who made it, if it says so.
    pub forwarder: Option<ForwarderId>,
}

/// A link of the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedLink {
    /// Interface index.
    pub index: u32,
    /// Interface name.
    pub name: String,
    /// Whether its second name is set.
    pub has_altname: bool,
    /// Its kind with what cannot be changed later.
    pub kind: ObservedKind,
    /// Hardware address; zeros where the kind of link has none.
    pub mac: [u8; 6],
    /// MTU in bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// Whether IPv6 is switched off on it (`disable_ipv6`).
    pub ipv6_disabled: bool,
    /// Addresses but those of link scope, which are the kernel's own.
    pub addresses: Vec<IpNet>,
    /// Routes of ours over this link.
    pub routes: Vec<Hop>,
    /// Permanent neighbours on this link.
    pub neighbours: Vec<Neighbour>,
    /// What it has counted, where that was asked for.
    pub traffic: Traffic,
    /// Who made it, if it says so: links of earlier versions do not.
    pub forwarder: Option<ForwarderId>,
}

/// Kind of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObservedKind {
    /// One end of a pair.
    Veth {
        /// Interface index of the other end, in its namespace.
        peer: u32,
    },
    /// A tunnel.
    Vxlan(VxlanLink),
    /// An encrypted tunnel; `None` where it is none that is made here, such as one without a peer yet, or
    /// was not asked for.
    Wireguard(Option<WireguardLink>),
    /// Anything else.
    Other,
}

/// Whose a link is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// A finished link of this connection.
    Connection(ConnectionId),
    /// Ours by its mark, but never finished.
    Unfinished,
    /// Ours, taken out of use and to be deleted.
    Retired,
    /// Not ours.
    Foreign,
}

/// A link and whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnedLink {
    /// Where it is.
    pub netns: NetnsKey,
    /// Interface index.
    pub index: u32,
    /// Interface name.
    pub name: String,
    /// Whose it is.
    pub owner: Owner,
    /// Who made it, if it says so.
    pub forwarder: Option<ForwarderId>,
}

// === impl Owner ===

impl Owner {
    /// Reads the tag. The group alone is set at birth; the alias follows.
    pub fn of(group: u32, alias: Option<&str>) -> Self {
        match alias.filter(|alias| !alias.is_empty()) {
            _ if group == RETIRED_LINK_GROUP => Self::Retired,
            _ if group != LINK_GROUP => Self::Foreign,
            None => Self::Unfinished,
            Some(alias) => alias
                .strip_prefix(LINK_ALIAS_PREFIX)
                .map(|rest| rest.split(LINK_ALIAS_FORWARDER).next().unwrap_or_default())
                .and_then(|id| ConnectionId::new(id).ok())
                .map_or(Self::Foreign, Self::Connection),
        }
    }

    /// Who made a link, as its alias says.
    pub fn forwarder(alias: Option<&str>) -> Option<ForwarderId> {
        let (_, forwarder) = alias?.strip_prefix(LINK_ALIAS_PREFIX)?.split_once(LINK_ALIAS_FORWARDER)?;
        ForwarderId::parse(forwarder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_ours_by_its_mark_and_named_by_its_alias() {
        let id = ConnectionId::new("c1").unwrap();
        assert_eq!(Owner::of(LINK_GROUP, Some("nsm:c1")), Owner::Connection(id));
        assert_eq!(Owner::of(LINK_GROUP, None), Owner::Unfinished);
        assert_eq!(Owner::of(RETIRED_LINK_GROUP, Some("nsm:c1")), Owner::Retired);
        assert_eq!(Owner::of(0, Some("nsm:c1")), Owner::Foreign);
        assert_eq!(Owner::of(LINK_GROUP, Some("uplink")), Owner::Foreign);
    }

    #[test]
    fn a_link_names_its_forwarder_and_one_of_an_earlier_version_is_its_connections_all_the_same() {
        let id = ConnectionId::new("c1").unwrap();
        let forwarder =
            ForwarderId::new("forwarder-1", NetnsKey { dev: 4, ino: 1 }, std::path::Path::new("/a"));
        for (forwarder, start) in [(None, "nsm:c1"), (Some(forwarder), "nsm:c1 of forwarder-1#")] {
            let alias = crate::dataplane::desired::alias(&id, forwarder.as_ref());
            assert!(alias.starts_with(start), "{alias}");
            assert_eq!(Owner::of(LINK_GROUP, Some(&alias)), Owner::Connection(id.clone()));
            assert_eq!(Owner::forwarder(Some(&alias)), forwarder);
        }
    }
}

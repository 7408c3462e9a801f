//! Single changes of the kernel's state.

use std::fmt;

use ipnet::IpNet;

use super::{
    desired::{Desired, Link, Neighbour},
    ids::NetnsKey,
    observed::Distant,
    policy::{MAIN, Rule},
    wireguard::WireguardLink,
};
use crate::api::context::Hop;

/// A link in a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct At {
    /// The namespace.
    pub netns: NetnsKey,
    /// Interface index there.
    pub index: u32,
    /// Interface name there.
    pub name: String,
}

/// One change. Those on an existing link name it by index, which the kernel does not give again
/// while anyone could still mean the old one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Makes the link with all its ends in place, marked as ours.
    Create(Box<Desired>),
    /// Deletes a link, and with it its peer; one that is gone already counts as deleted.
    Delete(At),
    /// Deletes a link in a namespace that cannot be entered.
    DeleteDistant(Distant),
    /// Takes a link out of use: lowers it and marks it as one to be deleted.
    Retire(At),
    /// The same without lowering it: its peer is lowered.
    MarkRetired(At),
    /// Gives a lowered link another name.
    Rename(At, String),
    /// Deletes all links of a namespace that were taken out of use, together: the kernel waits once for
    /// all of them, as long as for a single one.
    DeleteRetired(NetnsKey),
    /// Adds the second name.
    AddAltname(At, String),
    /// Removes a second name; one that the link has not is removed already.
    RemoveAltname(At, String),
    /// Sets the hardware address.
    SetMac {
        /// The link.
        at: At,
        /// Before.
        from: [u8; 6],
        /// After.
        to: [u8; 6],
    },
    /// Sets the MTU, in bytes.
    SetMtu {
        /// The link.
        at: At,
        /// Before.
        from: u32,
        /// After.
        to: u32,
    },
    /// Gives a WireGuard device its key, port and peer.
    SetWireguard {
        /// The link.
        at: At,
        /// Before.
        from: Option<WireguardLink>,
        /// After.
        to: WireguardLink,
    },
    /// Raises the link and writes its alias: from here on it is finished.
    Raise(At, String),
    /// Adds an address; an IPv6 one without duplicate address detection.
    AddAddress(At, IpNet),
    /// Removes an address.
    RemoveAddress(At, IpNet),
    /// Adds a route of ours to a table; routes of others stay beneath it.
    AddRoute(At, u8, Hop),
    /// Removes a route of ours from a table.
    RemoveRoute(At, u8, Hop),
    /// Adds a rule that leads to a table of ours.
    AddRule(NetnsKey, Rule),
    /// Removes a rule of ours.
    RemoveRule(NetnsKey, Rule),
    /// Adds or replaces a permanent neighbour.
    SetNeighbour(At, Neighbour),
    /// Removes a permanent neighbour.
    RemoveNeighbour(At, Neighbour),
    /// Tells a new link where a neighbour is; the kernel asks again when that is old.
    Acquaint(At, Neighbour),
    /// Switches IPv6 on for the link, where the kernel has IPv6.
    EnableIpv6(At),
    /// Opens ICMP sockets to all groups of the namespace.
    AllowPing(NetnsKey),
}

// === impl Operation ===

impl Operation {
    /// The change that takes this one back. `None` for what cannot be taken back (a deleted link)
    /// or what stays useful (sysctls, tags).
    pub fn inverse(&self) -> Option<Self> {
        Some(match self {
            Self::Create(desired) => {
                let end = desired.ends.first()?;
                Self::Delete(At { netns: end.netns, index: end.index, name: end.name.clone() })
            }
            Self::SetMac { at, from, to } => Self::SetMac { at: at.clone(), from: *to, to: *from },
            Self::SetMtu { at, from, to } => Self::SetMtu { at: at.clone(), from: *to, to: *from },
            Self::SetWireguard { at, from: Some(from), to } => {
                Self::SetWireguard { at: at.clone(), from: Some(*to), to: *from }
            }
            Self::AddAddress(at, net) => Self::RemoveAddress(at.clone(), *net),
            Self::RemoveAddress(at, net) => Self::AddAddress(at.clone(), *net),
            Self::AddRoute(at, table, hop) => Self::RemoveRoute(at.clone(), *table, *hop),
            Self::RemoveRoute(at, table, hop) => Self::AddRoute(at.clone(), *table, *hop),
            Self::AddRule(netns, rule) => Self::RemoveRule(*netns, *rule),
            Self::RemoveRule(netns, rule) => Self::AddRule(*netns, *rule),
            Self::SetNeighbour(at, neighbour) => Self::RemoveNeighbour(at.clone(), *neighbour),
            Self::RemoveNeighbour(at, neighbour) => Self::SetNeighbour(at.clone(), *neighbour),
            Self::Delete(_)
            | Self::DeleteDistant(_)
            | Self::Retire(_)
            | Self::MarkRetired(_)
            | Self::Rename(..)
            | Self::DeleteRetired(_)
            | Self::RemoveAltname(..)
            | Self::AddAltname(..)
            | Self::SetWireguard { from: None, .. }
            | Self::Raise(..)
            | Self::Acquaint(..)
            | Self::EnableIpv6(_)
            | Self::AllowPing(_) => return None,
        })
    }

    /// The namespace it is sent to; `None` is the underlay's.
    pub fn netns(&self) -> Option<NetnsKey> {
        match self {
            // A tunnel's socket is the underlay's.
            Self::Create(desired) if desired.link == Link::Veth => desired.ends.first().map(|end| end.netns),
            Self::Create(_) | Self::DeleteDistant(_) => None,
            Self::AllowPing(netns)
            | Self::DeleteRetired(netns)
            | Self::AddRule(netns, _)
            | Self::RemoveRule(netns, _) => Some(*netns),
            Self::Delete(at)
            | Self::Retire(at)
            | Self::MarkRetired(at)
            | Self::Rename(at, _)
            | Self::RemoveAltname(at, _)
            | Self::AddAltname(at, _)
            | Self::SetMac { at, .. }
            | Self::SetMtu { at, .. }
            | Self::SetWireguard { at, .. }
            | Self::Raise(at, _)
            | Self::AddAddress(at, _)
            | Self::RemoveAddress(at, _)
            | Self::AddRoute(at, ..)
            | Self::RemoveRoute(at, ..)
            | Self::SetNeighbour(at, _)
            | Self::RemoveNeighbour(at, _)
            | Self::Acquaint(at, _)
            | Self::EnableIpv6(at) => Some(at.netns),
        }
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {}", self.name, self.netns)
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create(desired) => create(f, desired),
            Self::Delete(at) => write!(f, "delete link {at}"),
            Self::DeleteDistant(d) => {
                write!(f, "delete link {} in the namespace with nsid {}", d.name, d.nsid)
            }
            Self::MarkRetired(at) => write!(f, "mark {at} as out of use"),
            Self::Retire(at) => write!(f, "take {at} out of use"),
            Self::Rename(at, name) => write!(f, "rename {at} to {name}"),
            Self::DeleteRetired(netns) => write!(f, "delete the links in {netns} that are out of use"),
            Self::RemoveAltname(at, name) => write!(f, "remove altname {name} from {at}"),
            Self::AddAltname(at, name) => write!(f, "add altname {name} to {at}"),
            Self::SetMac { at, to, .. } => write!(f, "set hardware address {to:02x?} on {at}"),
            Self::SetMtu { at, to, .. } => write!(f, "set mtu {to} on {at}"),
            Self::SetWireguard { at, to, .. } => {
                write!(f, "set port {} and peer {} at {} on {at}", to.port, to.peer, to.endpoint)
            }
            Self::Raise(at, alias) => write!(f, "raise {at} as {alias}"),
            Self::AddAddress(at, net) => write!(f, "add address {net} to {at}"),
            Self::RemoveAddress(at, net) => write!(f, "remove address {net} from {at}"),
            Self::AddRoute(at, table, hop) => route(f, "add", at, *table, hop),
            Self::RemoveRoute(at, table, hop) => route(f, "remove", at, *table, hop),
            Self::AddRule(netns, r) => write!(f, "add {r} in {netns}"),
            Self::RemoveRule(netns, r) => write!(f, "remove {r} in {netns}"),
            Self::SetNeighbour(at, n) => write!(f, "set neighbour {} on {at}", n.ip),
            Self::RemoveNeighbour(at, n) => write!(f, "remove neighbour {} from {at}", n.ip),
            Self::Acquaint(at, n) => write!(f, "tell {at} of {}", n.ip),
            Self::EnableIpv6(at) => write!(f, "switch IPv6 on for {at}"),
            Self::AllowPing(netns) => write!(f, "open ICMP sockets in {netns}"),
        }
    }
}

fn create(f: &mut fmt::Formatter<'_>, desired: &Desired) -> fmt::Result {
    match desired.link {
        Link::Veth => f.write_str("create veth"),
        Link::Vxlan(t) => {
            write!(f, "create vxlan {} from {} to {} port {}", t.vni, t.local, t.remote, t.port)
        }
        Link::Wireguard(t) => write!(f, "create wireguard port {} to {}", t.port, t.endpoint),
    }?;
    for (i, end) in desired.ends.iter().enumerate() {
        let word = if i == 0 { "" } else { " and" };
        write!(f, "{word} {} in {}", end.name, end.netns)?;
    }
    Ok(())
}

fn route(f: &mut fmt::Formatter<'_>, verb: &str, at: &At, table: u8, hop: &Hop) -> fmt::Result {
    write!(f, "{verb} route {}", hop.prefix)?;
    if let Some(via) = hop.via {
        write!(f, " via {via}")?;
    }
    if table != MAIN {
        write!(f, " table {table}")?;
    }
    write!(f, " on {at}")
}

//! What a connection should look like in the kernel.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{
    ids::{ConnectionId, ForwarderId, NetnsKey},
    wireguard::WireguardLink,
};
use crate::api::{
    context::Hop,
    mechanism::fnv1a,
    names::{LINK_ALIAS_FORWARDER, LINK_ALIAS_PREFIX},
    policies::Policy,
};

/// All kernel objects of one connection on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    /// The connection; its tag is on every link.
    pub id: ConnectionId,
    /// What carries the packets.
    pub link: Link,
    /// Interfaces in pods: two of a veth, the endpoint's first; one of a tunnel.
    pub ends: Vec<End>,
    /// Whether to look for its policy routes: it has some, or may have had some before. Their rules
    /// outlive the link, and looking takes time.
    pub has_policies: bool,
    /// Who makes it; stands on every link.
    pub forwarder: Option<ForwarderId>,
}

/// What carries the packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// Both pods are on this node; each has one end.
    Veth,
    /// The far pod is on another node. The device is made in the underlay's namespace, where its
    /// UDP socket stays, and born in the pod.
    Vxlan(VxlanLink),
    /// The same, encrypted, for IP packets alone.
    Wireguard(WireguardLink),
}

/// Identity of a VXLAN tunnel (RFC 7348 §5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VxlanLink {
    /// Source address of outer packets: what was advertised to the peer.
    pub local: IpAddr,
    /// The peer's tunnel address, of the same family.
    pub remote: IpAddr,
    /// VXLAN network identifier, 1 to 2^24 - 1.
    pub vni: u32,
    /// UDP port on both sides: the kernel has one for both directions.
    pub port: u16,
}

/// Whom an end serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The client (nsc); in the context it is "src".
    Client,
    /// The endpoint (nse); in the context it is "dst".
    Endpoint,
}

/// One interface in a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// Whom it serves.
    pub role: Role,
    /// The pod's namespace.
    pub netns: NetnsKey,
    /// Interface name in the pod.
    pub name: String,
    /// Interface index when it is made here. Chosen, so that nobody has to ask for it; a number
    /// far above those the kernel counts up from 1.
    pub index: u32,
    /// Hardware address; zeros where the kind of link has none.
    pub mac: [u8; 6],
    /// Largest packet in bytes; `None` leaves the kernel's default.
    pub mtu: Option<u32>,
    /// Addresses with their prefix lengths.
    pub addresses: Vec<IpNet>,
    /// Routes in the main table, in the order in which they can be added.
    pub routes: Vec<Hop>,
    /// Neighbours that need no resolution.
    pub neighbours: Vec<Neighbour>,
    /// Policy routes; a client's alone.
    pub policies: Vec<Policy>,
}

/// A permanent neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Neighbour {
    /// Its address.
    pub ip: IpAddr,
    /// Its hardware address.
    pub mac: [u8; 6],
}

/// Where the objects of a connection are: enough to find and remove them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Footprint {
    /// The connection.
    pub id: ConnectionId,
    /// Its interfaces, in the order of [`Desired::ends`].
    pub places: Vec<Place>,
    /// Whether the client's namespace may have policy routes of it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_policies: bool,
}

/// Where one interface is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Whom it serves.
    pub role: Role,
    /// The pod's namespace.
    pub netns: NetnsKey,
    /// Interface name in the pod.
    pub name: String,
}

/// Alias of every finished link of a connection.
pub(super) fn alias(id: &ConnectionId, forwarder: Option<&ForwarderId>) -> String {
    let forwarder = forwarder.map(|forwarder| format!("{LINK_ALIAS_FORWARDER}{forwarder}"));
    format!("{LINK_ALIAS_PREFIX}{id}{}", forwarder.unwrap_or_default())
}

/// Second name of a connection's link, by which it is found under whatever first name. The two
/// ends may be in one namespace, where names are unique.
pub(super) fn altname(id: &ConnectionId, role: Role) -> String {
    match role {
        Role::Client => format!("nsm-src:{id}"),
        Role::Endpoint => format!("nsm-dst:{id}"),
    }
}

/// A hardware address that a repeated Request finds again: locally administered, unicast.
pub(super) fn mac(id: &ConnectionId, role: Role) -> [u8; 6] {
    let hash = fnv1a(altname(id, role).as_bytes()).to_be_bytes();
    let mut mac = [0x02; 6];
    mac[1..].copy_from_slice(&hash[..5]);
    mac
}

/// Numbers that an interface may get: the next one when the last was taken, such as by a link out of use.
pub(super) const INDEX_TRIES: u32 = 4;

/// An interface index between 2^30 and 2^31 from the connection and both namespaces. Two pairs of
/// one connection in other namespaces so differ, and ends of different pairs are not taken for peers.
pub(super) fn index(id: &ConnectionId, role: Role, own: NetnsKey, peer: Option<NetnsKey>, try_: u32) -> u32 {
    let seed = format!("{} {own} {peer:?} {try_}", altname(id, role));
    // The high half of FNV mixes better than the low one; 30 bits fit.
    (1 << 30) | u32::try_from(fnv1a(seed.as_bytes()) >> 34).unwrap_or_default()
}

// === impl Footprint ===

impl Footprint {
    /// Whether a link at this place has the number that this connection's gets there: so an unfinished
    /// one is told to be its own.
    pub(super) fn has_index(&self, place: &Place, found: u32) -> bool {
        let other = self.places.iter().find(|other| other.role != place.role).map(|other| other.netns);
        (0..INDEX_TRIES).any(|try_| index(&self.id, place.role, place.netns, other, try_) == found)
    }
}

// === impl Desired ===

impl Desired {
    /// Where the objects are.
    pub fn footprint(&self) -> Footprint {
        let place = |end: &End| Place { role: end.role, netns: end.netns, name: end.name.clone() };
        let places = self.ends.iter().map(place).collect();
        Footprint { id: self.id.clone(), places, has_policies: self.has_policies }
    }

    /// The same with other interface indexes, for when one of them was taken.
    #[must_use]
    pub fn reindexed(&self, try_: u32) -> Self {
        let keys: Vec<NetnsKey> = self.ends.iter().map(|end| end.netns).collect();
        let mut other = self.clone();
        for (at, end) in other.ends.iter_mut().enumerate() {
            let peer = keys.iter().enumerate().find(|(i, _)| *i != at).map(|(_, key)| *key);
            end.index = index(&self.id, end.role, end.netns, peer, try_);
        }
        other
    }
}

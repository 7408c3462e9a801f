//! Netlink messages as what was observed.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
    link::{
        AfSpecInet6, AfSpecUnspec, InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkInfo, LinkMessage, Prop,
        State,
    },
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourState},
    nsid::NsidAttribute,
    route::{RouteAddress, RouteAttribute},
};

use super::message::ROUTE_PROTOCOL;
use crate::{
    api::context::Hop,
    dataplane::{
        desired::{Neighbour, VxlanLink},
        ids::{ForwarderId, NetnsKey},
        observed::{ObservedKind, OwnedLink, Owner},
        traffic::Traffic,
    },
};

pub(super) fn as_link(message: &RouteNetlinkMessage) -> Option<&LinkMessage> {
    if let RouteNetlinkMessage::NewLink(link) = message { Some(link) } else { None }
}

pub(super) fn as_address(message: &RouteNetlinkMessage) -> Option<&AddressMessage> {
    if let RouteNetlinkMessage::NewAddress(address) = message { Some(address) } else { None }
}

pub(super) fn name(link: &LinkMessage) -> Option<&str> {
    link.attributes
        .iter()
        .find_map(|a| if let LinkAttribute::IfName(name) = a { Some(name.as_str()) } else { None })
}

pub(super) fn mac(link: &LinkMessage) -> Option<[u8; 6]> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Address(bytes) => bytes.as_slice().try_into().ok(),
        _ => None,
    })
}

pub(super) fn mtu(link: &LinkMessage) -> Option<u32> {
    link.attributes.iter().find_map(|a| if let LinkAttribute::Mtu(mtu) = a { Some(*mtu) } else { None })
}

/// `disable_ipv6` of the link. A kernel without IPv6 says nothing, and has nothing to switch on.
pub(super) fn ipv6_disabled(link: &LinkMessage) -> bool {
    let disabled = |spec: &AfSpecInet6| matches!(spec, AfSpecInet6::DevConf(conf) if conf.disable_ipv6 != 0);
    let of_link =
        |spec: &AfSpecUnspec| matches!(spec, AfSpecUnspec::Inet6(specs) if specs.iter().any(disabled));
    link.attributes
        .iter()
        .any(|a| matches!(a, LinkAttribute::AfSpecUnspec(specs) if specs.iter().any(of_link)))
}

/// Whether packets pass it. Tunnels do not know of their other side.
pub(super) fn carries(link: &LinkMessage) -> bool {
    link.attributes
        .iter()
        .any(|attribute| matches!(attribute, LinkAttribute::OperState(State::Up | State::Unknown)))
}

/// What it has counted; nothing where that was not asked for.
pub(super) fn traffic(link: &LinkMessage) -> Traffic {
    let counted = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Stats64(counted) => Some(*counted),
        _ => None,
    });
    let counted = counted.unwrap_or_default();
    Traffic {
        rx_packets: counted.rx_packets,
        tx_packets: counted.tx_packets,
        rx_bytes: counted.rx_bytes,
        tx_bytes: counted.tx_bytes,
        drops: counted.rx_dropped.saturating_add(counted.tx_dropped),
    }
}

pub(super) fn owner(link: &LinkMessage) -> Owner {
    let group =
        link.attributes.iter().find_map(|a| if let LinkAttribute::Group(it) = a { Some(*it) } else { None });
    Owner::of(group.unwrap_or_default(), alias(link))
}

/// Who made it, as it says.
pub(super) fn forwarder(link: &LinkMessage) -> Option<ForwarderId> {
    Owner::forwarder(alias(link))
}

fn alias(link: &LinkMessage) -> Option<&str> {
    link.attributes
        .iter()
        .find_map(|a| if let LinkAttribute::IfAlias(alias) = a { Some(alias.as_str()) } else { None })
}

pub(super) fn owned(netns: NetnsKey, link: &LinkMessage) -> OwnedLink {
    let name = name(link).unwrap_or_default().to_owned();
    OwnedLink { netns, index: link.header.index, name, owner: owner(link), forwarder: forwarder(link) }
}

pub(super) fn has_altname(link: &LinkMessage, wanted: &str) -> bool {
    let is_wanted = |prop: &Prop| matches!(prop, Prop::AltIfName(name) if name == wanted);
    link.attributes.iter().any(|a| matches!(a, LinkAttribute::PropList(props) if props.iter().any(is_wanted)))
}

pub(super) fn kind(link: &LinkMessage) -> ObservedKind {
    let mut peer = None;
    let (mut is_veth, mut is_wireguard) = (false, false);
    let mut tunnel = None;
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::Link(index) => peer = Some(*index),
            LinkAttribute::LinkInfo(infos) => {
                is_veth |= infos.contains(&LinkInfo::Kind(InfoKind::Veth));
                is_wireguard |= infos.contains(&LinkInfo::Kind(InfoKind::Wireguard));
                tunnel = infos.iter().find_map(|info| match info {
                    LinkInfo::Data(InfoData::Vxlan(data)) => vxlan(data),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    match (is_veth, peer, tunnel) {
        (true, Some(peer), _) => ObservedKind::Veth { peer },
        (_, _, Some(tunnel)) => ObservedKind::Vxlan(tunnel),
        _ if is_wireguard => ObservedKind::Wireguard(None),
        _ => ObservedKind::Other,
    }
}

fn vxlan(data: &[InfoVxlan]) -> Option<VxlanLink> {
    let (mut local, mut remote, mut vni, mut port) = (None, None, None, None);
    for item in data {
        match item {
            InfoVxlan::Id(value) => vni = Some(*value),
            InfoVxlan::Port(value) => port = Some(*value),
            InfoVxlan::Local(ip) => local = Some(IpAddr::V4(*ip)),
            InfoVxlan::Local6(ip) => local = Some(IpAddr::V6(*ip)),
            InfoVxlan::Group(ip) => remote = Some(IpAddr::V4(*ip)),
            InfoVxlan::Group6(ip) => remote = Some(IpAddr::V6(*ip)),
            _ => {}
        }
    }
    Some(VxlanLink { local: local?, remote: remote?, vni: vni?, port: port? })
}

pub(super) fn address(message: &AddressMessage) -> Option<IpNet> {
    let mut found = None;
    for attribute in &message.attributes {
        match attribute {
            // On a point-to-point address the other one is the peer's.
            AddressAttribute::Local(ip) => found = Some(*ip),
            AddressAttribute::Address(ip) if found.is_none() => found = Some(*ip),
            _ => {}
        }
    }
    IpNet::new(found?, message.header.prefix_len).ok()
}

/// A route of ours over this link, with its table.
pub(super) fn hop(message: &RouteNetlinkMessage, family: AddressFamily, index: u32) -> Option<(u8, Hop)> {
    let RouteNetlinkMessage::NewRoute(route) = message else { return None };
    let mut destination = None;
    let mut via = None;
    let mut over = None;
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = ip(address),
            RouteAttribute::Gateway(address) => via = ip(address),
            RouteAttribute::Oif(oif) => over = Some(*oif),
            _ => {}
        }
    }
    let ours = route.header.protocol == ROUTE_PROTOCOL
        && route.header.address_family == family
        && over == Some(index);
    let unspecified = || match family {
        AddressFamily::Inet => IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
        _ => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
    };
    let prefix =
        IpNet::new(destination.unwrap_or_else(unspecified), route.header.destination_prefix_length).ok()?;
    ours.then_some((route.header.table, Hop { prefix, via }))
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some(IpAddr::V4(*ip)),
        RouteAddress::Inet6(ip) => Some(IpAddr::V6(*ip)),
        _ => None,
    }
}

/// The number of a namespace; the kernel lists only those that have one.
pub(super) fn nsid(message: &RouteNetlinkMessage) -> Option<i32> {
    let RouteNetlinkMessage::NewNsId(message) = message else { return None };
    message.attributes.iter().find_map(|a| if let NsidAttribute::Id(nsid) = a { Some(*nsid) } else { None })
}

pub(super) fn neighbour(message: &RouteNetlinkMessage, index: u32) -> Option<Neighbour> {
    let RouteNetlinkMessage::NewNeighbour(entry) = message else { return None };
    if entry.header.ifindex != index || entry.header.state != NeighbourState::Permanent {
        return None;
    }
    let ip = entry.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => Some(IpAddr::V4(*ip)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => Some(IpAddr::V6(*ip)),
        _ => None,
    })?;
    let mac = entry.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(bytes) => bytes.as_slice().try_into().ok(),
        _ => None,
    })?;
    Some(Neighbour { ip, mac })
}

//! Operations as netlink messages.

use std::{
    net::IpAddr,
    os::fd::{AsFd, AsRawFd},
};

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope},
    link::{InfoData, InfoKind, InfoVeth, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, Prop},
    neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
    route::{RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteProtocol, RouteScope, RouteType},
};

use super::{rule::rule, socket::Request};
use crate::{
    api::{
        context::Hop,
        names::{LINK_GROUP, RETIRED_LINK_GROUP},
    },
    dataplane::{
        desired::{End, Link, Neighbour, VxlanLink},
        netns::Netns,
        operation::{At, Operation},
    },
};

/// `rtm_protocol` of our routes, a number nobody has in iproute2's `rt_protos`.
pub(super) const ROUTE_PROTOCOL: RouteProtocol = RouteProtocol::Other(0x4e);

/// Metric of our IPv6 routes. Two IPv6 routes of one prefix and metric share the traffic; this one
/// is before the kernel's own (256) and those of routers (1024), which so stay beneath.
const IPV6_METRIC: u32 = 100;

/// One message that makes the link with every end in its final place. `None` when the number of
/// ends is not the kind's.
pub(super) fn create(link: Link, ends: &[(&End, Netns)]) -> Option<Request> {
    let (mut message, data, kind) = match (link, ends) {
        (Link::Veth, [a, b]) => (born(a.0, &a.1), Some(veth(b.0, &b.1)), InfoKind::Veth),
        (Link::Vxlan(tunnel), [a]) => (born(a.0, &a.1), Some(vxlan(tunnel)), InfoKind::Vxlan),
        // Its keys and its peer come by another family.
        (Link::Wireguard(_), [a]) => (born(a.0, &a.1), None, InfoKind::Wireguard),
        _ => return None,
    };
    let info = [LinkInfo::Kind(kind)].into_iter().chain(data.map(LinkInfo::Data));
    message.attributes.push(LinkAttribute::LinkInfo(info.collect()));
    Some(Request { message: RouteNetlinkMessage::NewLink(message), flags: NLM_F_CREATE | NLM_F_EXCL })
}

fn born(end: &End, netns: &Netns) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = end.index;
    message.attributes = vec![
        LinkAttribute::IfName(end.name.clone()),
        LinkAttribute::NetNsFd(netns.as_fd().as_raw_fd()),
        LinkAttribute::Group(LINK_GROUP),
    ];
    if end.mac != [0; 6] {
        message.attributes.push(LinkAttribute::Address(end.mac.to_vec()));
    }
    message.attributes.extend(end.mtu.map(LinkAttribute::Mtu));
    message
}

fn veth(peer: &End, netns: &Netns) -> InfoData {
    InfoData::Veth(InfoVeth::Peer(born(peer, netns)))
}

fn vxlan(tunnel: VxlanLink) -> InfoData {
    let local = match tunnel.local {
        IpAddr::V4(ip) => InfoVxlan::Local(ip),
        IpAddr::V6(ip) => InfoVxlan::Local6(ip),
    };
    let remote = match tunnel.remote {
        IpAddr::V4(ip) => InfoVxlan::Group(ip),
        IpAddr::V6(ip) => InfoVxlan::Group6(ip),
    };
    let port = InfoVxlan::Port(tunnel.port);
    // Learning off: there is one peer, and frames of others do not redirect us.
    InfoData::Vxlan(vec![InfoVxlan::Id(tunnel.vni), local, remote, port, InfoVxlan::Learning(false)])
}

/// The message of an operation on a link that exists; `None` for the others.
pub(super) fn of(operation: &Operation) -> Option<Request> {
    let set = |at: &At, attributes| request(RouteNetlinkMessage::SetLink(link(at, attributes)), 0);
    Some(match operation {
        Operation::Delete(at) => request(RouteNetlinkMessage::DelLink(link(at, vec![])), 0),
        Operation::AddAltname(at, name) => {
            let names = LinkAttribute::PropList(vec![Prop::AltIfName(name.clone())]);
            request(RouteNetlinkMessage::NewLinkProp(link(at, vec![names])), NLM_F_CREATE | NLM_F_EXCL)
        }
        Operation::DeleteDistant(distant) => {
            let mut message = LinkMessage::default();
            message.header.index = distant.index;
            message.attributes.push(LinkAttribute::IfNetnsId(distant.nsid));
            request(RouteNetlinkMessage::DelLink(message), 0)
        }
        Operation::Retire(at) => {
            let mut message = link(at, vec![LinkAttribute::Group(RETIRED_LINK_GROUP)]);
            message.header.change_mask = LinkFlags::Up;
            request(RouteNetlinkMessage::SetLink(message), 0)
        }
        Operation::MarkRetired(at) => set(at, vec![LinkAttribute::Group(RETIRED_LINK_GROUP)]),
        Operation::Rename(at, name) => set(at, vec![LinkAttribute::IfName(name.clone())]),
        Operation::RemoveAltname(at, name) => {
            let names = LinkAttribute::PropList(vec![Prop::AltIfName(name.clone())]);
            request(RouteNetlinkMessage::DelLinkProp(link(at, vec![names])), 0)
        }
        Operation::DeleteRetired(_) => {
            let mut message = LinkMessage::default();
            message.attributes.push(LinkAttribute::Group(RETIRED_LINK_GROUP));
            request(RouteNetlinkMessage::DelLink(message), 0)
        }
        Operation::SetMac { at, to, .. } => set(at, vec![LinkAttribute::Address(to.to_vec())]),
        Operation::SetMtu { at, to, .. } => set(at, vec![LinkAttribute::Mtu(*to)]),
        Operation::Raise(at, alias) => {
            let mut message = link(at, vec![LinkAttribute::IfAlias(alias.clone())]);
            message.header.flags = LinkFlags::Up;
            message.header.change_mask = LinkFlags::Up;
            request(RouteNetlinkMessage::SetLink(message), 0)
        }
        Operation::AddAddress(at, net) => {
            request(RouteNetlinkMessage::NewAddress(address(at, *net)), NLM_F_CREATE | NLM_F_EXCL)
        }
        Operation::RemoveAddress(at, net) => request(RouteNetlinkMessage::DelAddress(address(at, *net)), 0),
        // Neither exclusive nor replacing: IPv4 puts it before an equal one of someone else.
        Operation::AddRoute(at, table, hop) => {
            request(RouteNetlinkMessage::NewRoute(route(at, *table, *hop)), NLM_F_CREATE)
        }
        Operation::RemoveRoute(at, table, hop) => {
            request(RouteNetlinkMessage::DelRoute(route(at, *table, *hop)), 0)
        }
        Operation::AddRule(_, it) => {
            request(RouteNetlinkMessage::NewRule(rule(it)), NLM_F_CREATE | NLM_F_EXCL)
        }
        Operation::RemoveRule(_, it) => request(RouteNetlinkMessage::DelRule(rule(it)), 0),
        Operation::SetNeighbour(at, neighbour) => {
            request(RouteNetlinkMessage::NewNeighbour(entry(at, *neighbour)), NLM_F_CREATE | NLM_F_REPLACE)
        }
        Operation::Acquaint(at, neighbour) => {
            let mut message = entry(at, *neighbour);
            message.header.state = NeighbourState::Reachable;
            // Such entries age as others do, but none of them counts towards the bound that all namespaces of
            // the machine share (`gc_thresh3`, 1,024): the node itself would find nobody any more.
            message.header.flags = NeighbourFlags::ExtLearned;
            request(RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE)
        }
        Operation::RemoveNeighbour(at, neighbour) => {
            request(RouteNetlinkMessage::DelNeighbour(entry(at, *neighbour)), 0)
        }
        Operation::Create(_)
        | Operation::EnableIpv6(_)
        | Operation::SetWireguard { .. }
        | Operation::AllowPing(_) => return None,
    })
}

/// Makes the kernel search for an address of its own, and forget that it did.
pub(super) fn announcement(index: u32, own: IpAddr) -> [Request; 2] {
    let mut message = NeighbourMessage::default();
    message.header.family = family(own);
    message.header.ifindex = index;
    message.attributes = vec![NeighbourAttribute::Destination(own.into())];
    let forgotten = RouteNetlinkMessage::DelNeighbour(message.clone());
    // As with those that are learned, not one of them counts towards the bound of all.
    message.header.flags = NeighbourFlags::Use | NeighbourFlags::ExtLearned;
    message.header.state = NeighbourState::None;
    [request(RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE), request(forgotten, 0)]
}

fn request(message: RouteNetlinkMessage, flags: u16) -> Request {
    Request { message, flags }
}

fn link(at: &At, attributes: Vec<LinkAttribute>) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = at.index;
    message.attributes = attributes;
    message
}

fn address(at: &At, net: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(net.addr());
    message.header.prefix_len = net.prefix_len();
    message.header.index = at.index;
    message.header.scope = AddressScope::Universe;
    message.attributes = vec![AddressAttribute::Local(net.addr()), AddressAttribute::Address(net.addr())];
    if net.addr().is_ipv6() {
        // The endpoint gave it to this connection alone, and duplicate detection takes seconds.
        message.header.flags = AddressHeaderFlags::Nodad;
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    message
}

fn route(at: &At, table: u8, hop: Hop) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(hop.prefix.addr());
    message.header.destination_prefix_length = hop.prefix.prefix_len();
    message.header.table = table;
    message.header.protocol = ROUTE_PROTOCOL;
    message.header.kind = RouteType::Unicast;
    message.attributes = vec![RouteAttribute::Oif(at.index)];
    if hop.prefix.prefix_len() != 0 {
        message.attributes.push(RouteAttribute::Destination(route_address(hop.prefix.addr())));
    }
    if hop.prefix.addr().is_ipv6() {
        message.attributes.push(RouteAttribute::Priority(IPV6_METRIC));
    }
    match hop.via {
        Some(via) => {
            message.attributes.push(RouteAttribute::Gateway(route_address(via)));
            // The next hop is on this link even where no subnet says so.
            message.header.flags = RouteFlags::Onlink;
        }
        // Universe scope would make it useless for routes whose next hop lies in it.
        None => message.header.scope = RouteScope::Link,
    }
    message
}

fn entry(at: &At, neighbour: Neighbour) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(neighbour.ip);
    message.header.ifindex = at.index;
    message.header.state = NeighbourState::Permanent;
    message.attributes = vec![
        NeighbourAttribute::Destination(neighbour.ip.into()),
        NeighbourAttribute::LinkLayerAddress(neighbour.mac.to_vec()),
    ];
    message
}

pub(super) fn route_address(ip: IpAddr) -> RouteAddress {
    match ip {
        IpAddr::V4(ip) => RouteAddress::Inet(ip),
        IpAddr::V6(ip) => RouteAddress::Inet6(ip),
    }
}

pub(super) fn family(ip: IpAddr) -> AddressFamily {
    if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

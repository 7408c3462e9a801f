//! Looking: links, addresses, routes and neighbours.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage, AddressScope},
    link::{
        InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage, Prop,
    },
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
    route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage},
};
use nix::errno::Errno;

use super::{message::ROUTE_PROTOCOL, session::Session};
use crate::{
    api::context::Hop,
    dataplane::{
        desired::{Footprint, Neighbour, Place, VxlanLink, altname},
        ids::{ConnectionId, NetnsKey},
        observed::{Observed, ObservedEnd, ObservedKind, ObservedLink, OwnedLink, Owner},
        port::{Depth, KernelError},
    },
};

// === impl Session ===

impl Session {
    pub(super) fn observe(&mut self, footprint: &Footprint, depth: Depth) -> Result<Observed, KernelError> {
        let look = |place| self.end(&footprint.id, place, depth);
        Ok(Observed { ends: footprint.places.iter().map(look).collect::<Result<_, _>>()? })
    }

    pub(super) fn list_owned(&mut self, netns: NetnsKey) -> Result<Vec<OwnedLink>, KernelError> {
        let mut all = LinkMessage::default();
        all.attributes.push(no_statistics());
        let links = self.dump(netns, &RouteNetlinkMessage::GetLink(all))?;
        let owned = links.iter().filter_map(as_link).map(|link| owned(netns, link));
        Ok(owned.filter(|link| link.owner != Owner::Foreign).collect())
    }

    pub(super) fn underlay_mtu(&mut self, local: IpAddr) -> Result<Option<u32>, KernelError> {
        let underlay = self.underlay();
        let addresses = self.dump(underlay, &RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
        let holds = |message: &&AddressMessage| address(message).is_some_and(|net| net.addr() == local);
        let Some(index) = addresses.iter().filter_map(as_address).find(holds).map(|m| m.header.index) else {
            return Ok(None);
        };
        let mut asked = LinkMessage::default();
        asked.header.index = index;
        let found = self.get(underlay, RouteNetlinkMessage::GetLink(asked))?;
        Ok(found.as_ref().and_then(as_link).and_then(mtu))
    }

    fn end(&mut self, id: &ConnectionId, place: &Place, depth: Depth) -> Result<ObservedEnd, KernelError> {
        if self.find(place.netns).is_none() {
            return Ok(ObservedEnd::Unreachable);
        }
        let is_own = |link: &LinkMessage| owner(link) == Owner::Connection(id.clone());
        let by_tag = self.link(place.netns, altname_attribute(altname(id, place.role)))?.filter(is_own);
        let settled = by_tag.as_ref().is_some_and(|link| name(link) == Some(&place.name));
        let by_name =
            if settled { None } else { self.link(place.netns, LinkAttribute::IfName(place.name.clone()))? };
        let (own, occupant) = match (by_tag, by_name) {
            (None, Some(link)) if is_own(&link) => (Some(link), None),
            (own, occupant) => (own, occupant),
        };
        let own = match own {
            Some(link) => self.details(id, place, &link, depth)?.map(Box::new),
            None => None,
        };
        let occupant = occupant.map(|link| owned(place.netns, &link));
        Ok(ObservedEnd::Reachable { own, occupant, ping_allowed: self.ping_allowed(place.netns)? })
    }

    fn link(&mut self, netns: NetnsKey, by: LinkAttribute) -> Result<Option<LinkMessage>, KernelError> {
        let mut asked = LinkMessage::default();
        asked.attributes = vec![by, no_statistics()];
        match self.get(netns, RouteNetlinkMessage::GetLink(asked))? {
            Some(RouteNetlinkMessage::NewLink(link)) => Ok(Some(link)),
            _ => Ok(None),
        }
    }

    /// Everything that hangs on a link; `None` for one without a name or hardware address, which
    /// is none that this module makes.
    fn details(
        &mut self,
        id: &ConnectionId,
        place: &Place,
        link: &LinkMessage,
        depth: Depth,
    ) -> Result<Option<ObservedLink>, KernelError> {
        let netns = place.netns;
        let index = link.header.index;
        let (Some(name), Some(mac)) = (name(link), mac(link)) else { return Ok(None) };
        let (addresses, routes) = if depth >= Depth::Routes {
            (self.addresses(netns, index)?, self.routes(netns, index)?)
        } else {
            (Vec::new(), Vec::new())
        };
        let neighbours = if depth >= Depth::Neighbours { self.neighbours(netns, index)? } else { Vec::new() };
        Ok(Some(ObservedLink {
            index,
            name: name.to_owned(),
            has_altname: has_altname(link, &altname(id, place.role)),
            kind: kind(link),
            mac,
            mtu: mtu(link).unwrap_or_default(),
            up: link.header.flags.contains(LinkFlags::Up),
            ipv6_disabled: self.ipv6_disabled(netns, name)?,
            addresses,
            routes,
            neighbours,
        }))
    }

    fn addresses(&mut self, netns: NetnsKey, index: u32) -> Result<Vec<IpNet>, KernelError> {
        let mut asked = AddressMessage::default();
        asked.header.index = index;
        let found = self.dump(netns, &RouteNetlinkMessage::GetAddress(asked))?;
        let of_link = |message: &&AddressMessage| {
            message.header.index == index && message.header.scope != AddressScope::Link
        };
        Ok(found.iter().filter_map(as_address).filter(of_link).filter_map(address).collect())
    }

    fn routes(&mut self, netns: NetnsKey, index: u32) -> Result<Vec<Hop>, KernelError> {
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut asked = RouteMessage::default();
            asked.header.address_family = family;
            asked.header.table = RouteHeader::RT_TABLE_MAIN;
            asked.header.protocol = ROUTE_PROTOCOL;
            asked.attributes.push(RouteAttribute::Oif(index));
            let found = match self.dump(netns, &RouteNetlinkMessage::GetRoute(asked)) {
                // A namespace without routes has no main table yet, and a kernel without IPv6 none at all.
                Err(error) if matches!(error.errno(), Some(Errno::ENOENT | Errno::EOPNOTSUPP)) => continue,
                found => found?,
            };
            routes.extend(found.iter().filter_map(|message| hop(message, family, index)));
        }
        Ok(routes)
    }

    fn neighbours(&mut self, netns: NetnsKey, index: u32) -> Result<Vec<Neighbour>, KernelError> {
        let mut asked = NeighbourMessage::default();
        asked.attributes.push(NeighbourAttribute::IfIndex(index));
        let found = self.dump(netns, &RouteNetlinkMessage::GetNeighbour(asked))?;
        Ok(found.iter().filter_map(|message| neighbour(message, index)).collect())
    }
}

fn no_statistics() -> LinkAttribute {
    LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])
}

fn altname_attribute(name: String) -> LinkAttribute {
    use netlink_packet_core::DefaultNla;
    /// `IFLA_ALT_IFNAME` of linux/if_link.h.
    const ALT_IFNAME: u16 = 53;
    let mut text = name.into_bytes();
    text.push(0);
    LinkAttribute::Other(DefaultNla::new(ALT_IFNAME, text))
}

fn as_link(message: &RouteNetlinkMessage) -> Option<&LinkMessage> {
    if let RouteNetlinkMessage::NewLink(link) = message { Some(link) } else { None }
}

fn as_address(message: &RouteNetlinkMessage) -> Option<&AddressMessage> {
    if let RouteNetlinkMessage::NewAddress(address) = message { Some(address) } else { None }
}

fn name(link: &LinkMessage) -> Option<&str> {
    link.attributes
        .iter()
        .find_map(|a| if let LinkAttribute::IfName(name) = a { Some(name.as_str()) } else { None })
}

fn mac(link: &LinkMessage) -> Option<[u8; 6]> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Address(bytes) => bytes.as_slice().try_into().ok(),
        _ => None,
    })
}

fn mtu(link: &LinkMessage) -> Option<u32> {
    link.attributes.iter().find_map(|a| if let LinkAttribute::Mtu(mtu) = a { Some(*mtu) } else { None })
}

fn owner(link: &LinkMessage) -> Owner {
    let (mut group, mut alias) = (0, None);
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::Group(value) => group = *value,
            LinkAttribute::IfAlias(value) => alias = Some(value.as_str()),
            _ => {}
        }
    }
    Owner::of(group, alias)
}

fn owned(netns: NetnsKey, link: &LinkMessage) -> OwnedLink {
    let name = name(link).unwrap_or_default().to_owned();
    OwnedLink { netns, index: link.header.index, name, owner: owner(link) }
}

fn has_altname(link: &LinkMessage, wanted: &str) -> bool {
    let is_wanted = |prop: &Prop| matches!(prop, Prop::AltIfName(name) if name == wanted);
    link.attributes.iter().any(|a| matches!(a, LinkAttribute::PropList(props) if props.iter().any(is_wanted)))
}

fn kind(link: &LinkMessage) -> ObservedKind {
    let mut peer = None;
    let mut is_veth = false;
    let mut tunnel = None;
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::Link(index) => peer = Some(*index),
            LinkAttribute::LinkInfo(infos) => {
                is_veth |= infos.contains(&LinkInfo::Kind(InfoKind::Veth));
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

fn address(message: &AddressMessage) -> Option<IpNet> {
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

fn hop(message: &RouteNetlinkMessage, family: AddressFamily, index: u32) -> Option<Hop> {
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
        && route.header.table == RouteHeader::RT_TABLE_MAIN
        && route.header.address_family == family
        && over == Some(index);
    let unspecified = || match family {
        AddressFamily::Inet => IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
        _ => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
    };
    let prefix =
        IpNet::new(destination.unwrap_or_else(unspecified), route.header.destination_prefix_length).ok()?;
    ours.then_some(Hop { prefix, via })
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some(IpAddr::V4(*ip)),
        RouteAddress::Inet6(ip) => Some(IpAddr::V6(*ip)),
        _ => None,
    }
}

fn neighbour(message: &RouteNetlinkMessage, index: u32) -> Option<Neighbour> {
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

//! Looking: links, addresses, routes and neighbours.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::DefaultNla;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressMessage, AddressScope},
    link::{LinkAttribute, LinkExtentMask, LinkFlags, LinkMessage},
    neighbour::{NeighbourAttribute, NeighbourMessage},
    nsid::NsidMessage,
    route::{RouteAttribute, RouteHeader, RouteMessage},
};
use nix::errno::Errno;

use super::{
    message::ROUTE_PROTOCOL,
    parse::{
        address, as_address, as_link, carries, forwarder, has_altname, hop, ipv6_disabled, kind, mac, mtu,
        name, neighbour, nsid, owned, owner, traffic,
    },
    session::Session,
};
use crate::{
    api::context::Hop,
    dataplane::{
        desired::{Footprint, Neighbour, Place, Role, altname},
        ids::{ConnectionId, NetnsKey},
        observed::{Distant, Observed, ObservedEnd, ObservedKind, ObservedLink, OwnedLink, Owner},
        operation::At,
        policy::{MAIN, Policies},
        port::{Depth, KernelError},
    },
};

// === impl Session ===

impl Session {
    pub(super) fn observe(&mut self, footprint: &Footprint, depth: Depth) -> Result<Observed, KernelError> {
        let look = |place| self.end(footprint, place, depth);
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

    /// Whether IPv6 is switched off on a link. Asked by netlink: a path below /proc/sys/net takes
    /// the kernel the longer the more namespaces there are.
    pub(super) fn ipv6_disabled(&mut self, at: &At) -> Result<bool, KernelError> {
        let mut asked = LinkMessage::default();
        asked.header.index = at.index;
        asked.attributes.push(no_statistics());
        let found = self.get(at.netns, RouteNetlinkMessage::GetLink(asked))?;
        Ok(found.as_ref().and_then(as_link).is_some_and(ipv6_disabled))
    }

    /// Whether packets pass a link; of one that is gone there is nothing to wait for. The question for
    /// a single link makes the kernel catch up with it first, since Linux 6.8.
    pub(super) fn carries(&mut self, at: &At) -> Result<bool, KernelError> {
        let mut asked = LinkMessage::default();
        asked.header.index = at.index;
        asked.attributes.push(no_statistics());
        let found = self.get(at.netns, RouteNetlinkMessage::GetLink(asked))?;
        Ok(found.as_ref().and_then(as_link).is_none_or(carries))
    }

    fn end(
        &mut self,
        footprint: &Footprint,
        place: &Place,
        depth: Depth,
    ) -> Result<ObservedEnd, KernelError> {
        let id = &footprint.id;
        if self.find(place.netns).is_none() {
            // Only a removal can do something with it.
            let found = if depth == Depth::Links { self.distant(id, place)? } else { None };
            return Ok(found.map_or(ObservedEnd::Unreachable, ObservedEnd::Distant));
        }
        let is_own = |link: &LinkMessage| owner(link) == Owner::Connection(id.clone());
        let mut tag = vec![altname_attribute(altname(id, place.role))];
        // Counting costs the kernel a look at every processor.
        if depth == Depth::Links {
            tag.push(no_statistics());
        }
        let by_tag = self.link(place.netns, tag)?.filter(is_own);
        let settled = by_tag.as_ref().is_some_and(|link| name(link) == Some(&place.name));
        let by_name = if settled {
            None
        } else {
            let by = vec![LinkAttribute::IfName(place.name.clone()), no_statistics()];
            self.link(place.netns, by)?
        };
        let (own, occupant) = match (by_tag, by_name) {
            (None, Some(link)) if is_own(&link) => (Some(link), None),
            (own, occupant) => (own, occupant),
        };
        let policies = if footprint.has_policies && place.role == Role::Client {
            self.policies(id, place.netns, own.as_ref().map(|link| link.header.index), depth)?
        } else {
            Policies::default()
        };
        let own = match own {
            Some(link) => self.details(id, place, &link, depth)?.map(Box::new),
            None => None,
        };
        let occupant = occupant.map(|link| owned(place.netns, &link));
        Ok(ObservedEnd::Reachable { own, occupant, policies })
    }

    /// Looks for the link in every namespace that the underlay's has a number for.
    fn distant(&mut self, id: &ConnectionId, place: &Place) -> Result<Option<Distant>, KernelError> {
        let underlay = self.underlay();
        let numbered = self.dump(underlay, &RouteNetlinkMessage::GetNsId(NsidMessage::default()))?;
        for nsid in numbered.iter().filter_map(nsid) {
            let mut asked = LinkMessage::default();
            let tag = altname_attribute(altname(id, place.role));
            asked.attributes = vec![tag, LinkAttribute::IfNetnsId(nsid), no_statistics()];
            let found = match self.get(underlay, RouteNetlinkMessage::GetLink(asked)) {
                // The namespace ended meanwhile.
                Err(error) if error.errno() == Some(Errno::EINVAL) => continue,
                found => found?,
            };
            let is_own = |link: &&LinkMessage| owner(link) == Owner::Connection(id.clone());
            if let Some(link) = found.as_ref().and_then(as_link).filter(is_own) {
                let name = name(link).unwrap_or_default().to_owned();
                let forwarder = forwarder(link);
                return Ok(Some(Distant { nsid, index: link.header.index, name, forwarder }));
            }
        }
        Ok(None)
    }

    fn link(&mut self, netns: NetnsKey, by: Vec<LinkAttribute>) -> Result<Option<LinkMessage>, KernelError> {
        let mut asked = LinkMessage::default();
        asked.attributes = by;
        match self.get(netns, RouteNetlinkMessage::GetLink(asked))? {
            Some(RouteNetlinkMessage::NewLink(link)) => Ok(Some(link)),
            _ => Ok(None),
        }
    }

    /// Everything that hangs on a link; `None` for one without a name, which is none that this module makes.
    fn details(
        &mut self,
        id: &ConnectionId,
        place: &Place,
        link: &LinkMessage,
        depth: Depth,
    ) -> Result<Option<ObservedLink>, KernelError> {
        let netns = place.netns;
        let index = link.header.index;
        let Some(name) = name(link) else { return Ok(None) };
        let kind = match kind(link) {
            ObservedKind::Wireguard(_) if depth >= Depth::Routes => {
                ObservedKind::Wireguard(self.wireguard(netns, index)?)
            }
            kind => kind,
        };
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
            kind,
            mac: mac(link).unwrap_or_default(),
            mtu: mtu(link).unwrap_or_default(),
            up: link.header.flags.contains(LinkFlags::Up),
            ipv6_disabled: ipv6_disabled(link),
            addresses,
            routes,
            neighbours,
            traffic: traffic(link),
            forwarder: forwarder(link),
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
            let hops = found.iter().filter_map(|message| hop(message, family, index));
            routes.extend(hops.filter(|(table, _)| *table == MAIN).map(|(_, hop)| hop));
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

pub(super) fn no_statistics() -> LinkAttribute {
    LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])
}

fn altname_attribute(name: String) -> LinkAttribute {
    /// `IFLA_ALT_IFNAME` of linux/if_link.h.
    const ALT_IFNAME: u16 = 53;
    let mut text = name.into_bytes();
    text.push(0);
    LinkAttribute::Other(DefaultNla::new(ALT_IFNAME, text))
}

//! Policy routes: rules as messages, and what there is of them and of other tables.

use ipnet::IpNet;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::RouteMessage,
    rule::{RuleAction, RuleAttribute, RuleMessage, RulePortRange},
};
use nix::errno::Errno;

use super::{message::ROUTE_PROTOCOL, parse::hop, session::Session};
use crate::{
    api::{
        context::Hop,
        policies::{Ports, Selector},
    },
    dataplane::{
        ids::{ConnectionId, NetnsKey},
        policy::{Policies, Rule, tag},
        port::{Depth, KernelError},
    },
};

/// A rule as a message, with all that tells it from others: deleting takes the one that is meant.
pub(super) fn rule(rule: &Rule) -> RuleMessage {
    let Selector { ipv6, from, proto, src_ports, dst_ports } = rule.selector;
    let range = |ports: Ports| RulePortRange { start: ports.first, end: ports.last };
    let mut message = RuleMessage::default();
    message.header.family = if ipv6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
    message.header.action = RuleAction::ToTable;
    message.header.table = rule.table;
    message.attributes = vec![
        RuleAttribute::Priority(rule.priority),
        RuleAttribute::Table(rule.table.into()),
        RuleAttribute::Protocol(ROUTE_PROTOCOL),
        RuleAttribute::SuppressIfGroup(rule.tag),
    ];
    if rule.mark != 0 {
        // No bit of it is compared.
        message.attributes.extend([RuleAttribute::FwMark(rule.mark), RuleAttribute::FwMask(0)]);
    }
    if let Some(from) = from.filter(|from| from.prefix_len() != 0) {
        message.header.src_len = from.prefix_len();
        message.attributes.push(RuleAttribute::Source(from.addr()));
    }
    message.attributes.extend(proto.map(|proto| RuleAttribute::IpProtocol(proto.into())));
    message.attributes.extend(src_ports.map(|ports| RuleAttribute::SourcePortRange(range(ports))));
    message.attributes.extend(dst_ports.map(|ports| RuleAttribute::DestinationPortRange(range(ports))));
    message
}

/// The table a rule leads to, and the rule if it is of the mesh. Tables above 255 are nobody's here.
pub(super) fn parse(message: &RouteNetlinkMessage) -> Option<(u8, Option<Rule>)> {
    let RouteNetlinkMessage::NewRule(message) = message else { return None };
    let ports = |range: &RulePortRange| Some(Ports { first: range.start, last: range.end });
    let ipv6 = message.header.family == AddressFamily::Inet6;
    let mut selector = Selector { ipv6, from: None, proto: None, src_ports: None, dst_ports: None };
    let (mut priority, mut table, mut suppressed, mut is_mesh) = (0, None, None, false);
    let (mut mark, mut compared) = (0, 0);
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(value) => priority = *value,
            RuleAttribute::Table(value) => table = u8::try_from(*value).ok(),
            RuleAttribute::SuppressIfGroup(value) => suppressed = Some(*value),
            RuleAttribute::FwMark(value) => mark = *value,
            RuleAttribute::FwMask(value) => compared = *value,
            RuleAttribute::Protocol(value) => is_mesh = *value == ROUTE_PROTOCOL,
            RuleAttribute::Source(ip) => selector.from = IpNet::new(*ip, message.header.src_len).ok(),
            RuleAttribute::IpProtocol(value) => selector.proto = Some(u8::from(*value)),
            RuleAttribute::SourcePortRange(range) => selector.src_ports = ports(range),
            RuleAttribute::DestinationPortRange(range) => selector.dst_ports = ports(range),
            _ => {}
        }
    }
    let table = table.or((message.header.table != 0).then_some(message.header.table))?;
    let is_own = is_mesh && compared == 0 && message.header.action == RuleAction::ToTable;
    let rule = suppressed.filter(|_| is_own).map(|tag| Rule { tag, mark, priority, selector, table });
    Some((table, rule))
}

// === impl Session ===

impl Session {
    /// The connection's rules, and tables in use. Routes are left out where links alone are asked for.
    pub(super) fn policies(
        &mut self,
        id: &ConnectionId,
        netns: NetnsKey,
        link: Option<u32>,
        depth: Depth,
    ) -> Result<Policies, KernelError> {
        let found = self.dump(netns, &RouteNetlinkMessage::GetRule(RuleMessage::default()))?;
        let rules: Vec<_> = found
            .iter()
            .filter_map(parse)
            .map(|(table, rule)| (table, rule.filter(|rule| rule.tag == tag(id))))
            .collect();
        let routes = if depth >= Depth::Routes { self.all_routes(netns, link)? } else { Vec::new() };
        Ok(Policies::new(&rules, &routes))
    }

    /// The table of every route, and the route if it is ours over `link`.
    fn all_routes(
        &mut self,
        netns: NetnsKey,
        link: Option<u32>,
    ) -> Result<Vec<(u8, Option<Hop>)>, KernelError> {
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut asked = RouteMessage::default();
            asked.header.address_family = family;
            let found = match self.dump(netns, &RouteNetlinkMessage::GetRoute(asked)) {
                Err(error) if matches!(error.errno(), Some(Errno::ENOENT | Errno::EOPNOTSUPP)) => continue,
                found => found?,
            };
            routes.extend(found.iter().filter_map(|message| {
                let RouteNetlinkMessage::NewRoute(route) = message else { return None };
                let own = link.and_then(|link| hop(message, family, link)).map(|(_, hop)| hop);
                Some((route.header.table, own))
            }));
        }
        Ok(routes)
    }
}

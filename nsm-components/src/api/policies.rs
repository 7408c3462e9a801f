//! Policy routes of a context: packets of the client that go by routes of their own.
//!
//! As elsewhere in a context, what cannot be read is skipped. A policy is skipped whole when it
//! cannot be told which packets it means: taking more of them than asked for would be worse.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{
    connectioncontext::{IpContext, PolicyRoute, Route},
    context::{Hop, net, nets},
};

/// Packets of the client that have routes of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Which packets.
    pub selector: Selector,
    /// Their routes; never empty, and all of the selector's family.
    pub hops: Vec<Hop>,
}

/// Which packets a policy means: those that have all that is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Selector {
    /// Their family.
    pub ipv6: bool,
    /// Where they come from, host bits cleared.
    pub from: Option<IpNet>,
    /// Their protocol's number, such as 6 for TCP.
    pub proto: Option<u8>,
    /// Their source port.
    pub src_ports: Option<Ports>,
    /// Their destination port.
    pub dst_ports: Option<Ports>,
}

/// Ports from the first to the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ports {
    /// At least 1.
    pub first: u16,
    /// At least the first and at most 65534, as the kernel has it.
    pub last: u16,
}

/// The policies of a context that can be read, in order.
pub fn policies(context: &IpContext) -> Vec<Policy> {
    let own = nets(&context.src_ip_addrs);
    let ipv6_only = !own.is_empty() && own.iter().all(|net| net.addr().is_ipv6());
    context.policies.iter().filter_map(|route| policy(route, ipv6_only)).collect()
}

/// The family is that of `from`, else of the routes, else the client's.
fn policy(route: &PolicyRoute, ipv6_only: bool) -> Option<Policy> {
    let from = given(&route.from, |text| net(text).map(|net| net.trunc())).ok()?;
    let readable: Vec<Hop> = route.routes.iter().filter_map(hop).collect();
    let family = from.or_else(|| readable.first().map(|hop| hop.prefix));
    let ipv6 = family.map_or(ipv6_only, |net| net.addr().is_ipv6());
    let mut hops: Vec<Hop> = Vec::new();
    for hop in readable {
        if hop.prefix.addr().is_ipv6() == ipv6 && hops.iter().all(|known| known.prefix != hop.prefix) {
            hops.push(hop);
        }
    }
    if route.routes.is_empty() {
        let all = if ipv6 { "::/0" } else { "0.0.0.0/0" };
        hops.push(Hop { prefix: net(all)?, via: None });
    }
    let selector = Selector {
        ipv6,
        from,
        proto: given(&route.proto, |text| text.parse::<u8>().ok()).ok()?.filter(|proto| *proto != 0),
        src_ports: given(&route.src_port, ports).ok()?,
        dst_ports: given(&route.dst_port, ports).ok()?,
    };
    (!hops.is_empty()).then_some(Policy { selector, hops })
}

/// Something was given and cannot be read.
struct Unreadable;

fn given<T>(text: &str, read: impl Fn(&str) -> Option<T>) -> Result<Option<T>, Unreadable> {
    let text = text.trim();
    if text.is_empty() { Ok(None) } else { read(text).map(Some).ok_or(Unreadable) }
}

/// `80` or `1000-2000`.
fn ports(text: &str) -> Option<Ports> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let ports = Ports { first: first.trim().parse().ok()?, last: last.trim().parse().ok()? };
    (ports.first > 0 && ports.first <= ports.last && ports.last < u16::MAX).then_some(ports)
}

/// Without a next hop the prefix is on the link: there is no gateway by itself here.
fn hop(route: &Route) -> Option<Hop> {
    let prefix = net(&route.prefix)?.trunc();
    let via = given(&route.next_hop, |text| text.parse::<IpAddr>().ok()).ok()?;
    let fits = via.is_none_or(|via| via.is_ipv4() == prefix.addr().is_ipv4());
    fits.then_some(Hop { prefix, via })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(from: &str, proto: &str, src: &str, dst: &str, hops: &[(&str, &str)]) -> PolicyRoute {
        let hop = |(prefix, next_hop): &(&str, &str)| Route {
            prefix: (*prefix).into(),
            next_hop: (*next_hop).into(),
        };
        PolicyRoute {
            from: from.into(),
            proto: proto.into(),
            src_port: src.into(),
            dst_port: dst.into(),
            routes: hops.iter().map(hop).collect(),
        }
    }

    fn read(own: &[&str], policy: PolicyRoute) -> Option<Policy> {
        let src_ip_addrs = own.iter().map(ToString::to_string).collect();
        policies(&IpContext { src_ip_addrs, policies: vec![policy], ..IpContext::default() }).pop()
    }

    #[test]
    fn what_is_given_is_read_and_host_bits_do_not_count() {
        let hops = [("172.16.3.9/24", "172.16.2.200"), ("2001:db8::/32", ""), ("x", "")];
        let read = read(&[], route("172.16.2.201/24", "6", "5555", "6666-6668", &hops)).unwrap();
        let selector = Selector {
            ipv6: false,
            from: Some("172.16.2.0/24".parse().unwrap()),
            proto: Some(6),
            src_ports: Some(Ports { first: 5555, last: 5555 }),
            dst_ports: Some(Ports { first: 6666, last: 6668 }),
        };
        let hop = Hop { prefix: "172.16.3.0/24".parse().unwrap(), via: "172.16.2.200".parse().ok() };
        assert_eq!(read, Policy { selector, hops: vec![hop] });
    }

    #[test]
    fn without_routes_all_goes_over_the_link_in_the_family_that_is_meant() {
        let default = |own: &[&str], from: &str| {
            let policy = read(own, route(from, "", "", "", &[])).unwrap();
            (policy.selector.ipv6, policy.hops[0].prefix.to_string(), policy.hops[0].via)
        };
        assert_eq!(default(&[], "10.0.0.1"), (false, "0.0.0.0/0".into(), None));
        assert_eq!(default(&["10.0.0.1"], "2004::3/120"), (true, "::/0".into(), None));
        assert_eq!(default(&["10.0.0.1", "fd00::1"], ""), (false, "0.0.0.0/0".into(), None));
        assert_eq!(default(&["fd00::1"], ""), (true, "::/0".into(), None));
        let of_routes = read(&["10.0.0.1"], route("", "17", "", "", &[("2004::/64", "")])).unwrap();
        assert!(of_routes.selector.ipv6);
    }

    #[test]
    fn a_policy_that_cannot_be_read_takes_no_packets_at_all() {
        let bad = [
            route("10.0.0.0/33", "", "", "", &[]),
            route("", "tcp", "", "", &[]),
            route("", "256", "", "", &[]),
            route("", "6", "0", "", &[]),
            route("", "6", "", "7-6", &[]),
            route("", "6", "", "65535", &[]),
            route("", "6", "", "", &[("10.0.0.0/8", "fd00::1")]),
            route("10.0.0.1", "6", "", "", &[("2004::/64", "")]),
        ];
        for policy in bad {
            assert_eq!(read(&[], policy.clone()), None, "{policy:?}");
        }
    }
}

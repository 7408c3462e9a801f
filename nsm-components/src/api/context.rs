//! What a connection's context means to an interface: addresses, and where packets go.
//!
//! The context is text on the wire and comes from other people's processes. Text that cannot be
//! read is skipped, never an error (protocol §1.7).

use std::net::IpAddr;

use ipnet::IpNet;

use super::connectioncontext::{IpContext, IpNeighbor, Route};

/// Where packets to `prefix` go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hop {
    /// Destination, host bits cleared.
    pub prefix: IpNet,
    /// The next hop, of the prefix's family; without one the prefix is on the link.
    pub via: Option<IpAddr>,
}

/// The addresses that `texts` name. An address without a mask is a /32 or /128.
pub fn nets(texts: &[String]) -> Vec<IpNet> {
    texts.iter().filter_map(|text| net(text)).collect()
}

/// One address or prefix, as [`nets`] reads it.
pub(super) fn net(text: &str) -> Option<IpNet> {
    let text = text.trim();
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

/// Routes of the client's interface: to every address of the endpoint that its own subnets do not
/// hold, then `src_routes`. In order, each once.
pub fn client_hops(context: &IpContext) -> Vec<Hop> {
    hops(&nets(&context.src_ip_addrs), &nets(&context.dst_ip_addrs), &context.src_routes)
}

/// Routes of the endpoint's interface, the mirror of [`client_hops`]; but where the endpoint names
/// routes, these are all of their family. The client may bring addresses of its own choice, and a route
/// to each of them would draw the endpoint's packets to it.
pub fn endpoint_hops(context: &IpContext) -> Vec<Hop> {
    let mut hops = hops(&nets(&context.dst_ip_addrs), &nets(&context.src_ip_addrs), &context.dst_routes);
    let named: Vec<_> = context.dst_routes.iter().filter_map(|route| net(&route.prefix)).collect();
    let through: Vec<_> = hops.iter().filter_map(|hop| hop.via).collect();
    hops.retain(|hop| {
        let ip = hop.prefix.addr();
        let mut of_family = named.iter().filter(|net| net.addr().is_ipv4() == ip.is_ipv4()).peekable();
        of_family.peek().is_none() || of_family.any(|net| net.trunc() == hop.prefix) || through.contains(&ip)
    });
    hops
}

/// Link routes come first: later next hops are reached through them.
fn hops(own: &[IpNet], peer: &[IpNet], routes: &[Route]) -> Vec<Hop> {
    let implicit = peer
        .iter()
        .filter(|peer| !contained(own, peer.addr()))
        .map(|peer| Hop { prefix: peer.addr().into(), via: None });
    let mut hops: Vec<Hop> = Vec::new();
    for hop in implicit.chain(routes.iter().filter_map(|route| explicit(route, peer))) {
        match hops.iter().find(|known| known.prefix == hop.prefix) {
            Some(_) => {}
            None => hops.push(hop),
        }
    }
    hops
}

/// A route as asked for. Without a next hop, what none of the peer's subnets holds goes through
/// the peer's first address of the family.
fn explicit(route: &Route, peer: &[IpNet]) -> Option<Hop> {
    let prefix = net(&route.prefix)?.trunc();
    let same_family = |ip: &IpAddr| ip.is_ipv4() == prefix.addr().is_ipv4();
    let via = if !route.next_hop.is_empty() {
        Some(route.next_hop.trim().parse().ok().filter(same_family)?)
    } else if contained(peer, prefix.addr()) {
        None
    } else {
        peer.iter().map(IpNet::addr).find(same_family)
    };
    Some(Hop { prefix, via })
}

fn contained(nets: &[IpNet], address: IpAddr) -> bool {
    nets.iter().any(|net| net.contains(&address))
}

/// Address and hardware address of every neighbour that can be read.
pub fn neighbours(neighbours: &[IpNeighbor]) -> Vec<(IpAddr, [u8; 6])> {
    neighbours
        .iter()
        .filter_map(|neighbour| Some((neighbour.ip.trim().parse().ok()?, mac(&neighbour.hardware_address)?)))
        .collect()
}

/// A unicast hardware address: six bytes in hexadecimal with colons.
pub fn mac(text: &str) -> Option<[u8; 6]> {
    let mut bytes = [0; 6];
    let mut parts = text.trim().split(':');
    for byte in &mut bytes {
        *byte = u8::from_str_radix(parts.next().filter(|part| part.len() == 2)?, 16).ok()?;
    }
    let unicast = bytes[0] & 1 == 0 && bytes != [0; 6];
    (parts.next().is_none() && unicast).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(list: &[&str]) -> Vec<String> {
        list.iter().map(ToString::to_string).collect()
    }

    fn route(prefix: &str, next_hop: &str) -> Route {
        Route { prefix: prefix.into(), next_hop: next_hop.into() }
    }

    fn hop(prefix: &str, via: Option<&str>) -> Hop {
        Hop { prefix: prefix.parse().unwrap(), via: via.map(|ip| ip.parse().unwrap()) }
    }

    #[test]
    fn unreadable_addresses_are_skipped_and_bare_ones_are_hosts() {
        let read = nets(&texts(&["10.0.0.1", "fd00::1", "10.0.0.0/33", "", "x", "10.1.2.3/24"]));
        let wanted = ["10.0.0.1/32", "fd00::1/128", "10.1.2.3/24"].map(|net| net.parse().unwrap());
        assert_eq!(read, wanted);
    }

    #[test]
    fn a_peer_outside_of_the_own_subnets_gets_a_link_route() {
        let context = IpContext {
            src_ip_addrs: texts(&["172.16.0.1/32", "10.0.0.2/24"]),
            dst_ip_addrs: texts(&["172.16.0.0/32", "10.0.0.1/24"]),
            src_routes: vec![route("172.16.0.0/32", "")],
            ..IpContext::default()
        };
        assert_eq!(client_hops(&context), [hop("172.16.0.0/32", None)]);
        assert_eq!(endpoint_hops(&context), [hop("172.16.0.1/32", None)]);
    }

    #[test]
    fn addresses_that_a_client_brings_draw_nothing_of_the_endpoints_to_it() {
        let mut context = IpContext {
            src_ip_addrs: texts(&["172.16.0.1/32", "1.0.0.1/1", "10.96.0.1"]),
            dst_ip_addrs: texts(&["172.16.0.0/32"]),
            dst_routes: vec![route("172.16.0.1/32", ""), route("192.168.0.0/16", "")],
            ..IpContext::default()
        };
        let wanted = [hop("172.16.0.1/32", None), hop("192.168.0.0/16", Some("172.16.0.1"))];
        assert_eq!(endpoint_hops(&context), wanted);
        // Without a word of the endpoint there is a route to each address, never to a whole network.
        context.dst_routes.clear();
        let wanted = ["172.16.0.1/32", "1.0.0.1/32", "10.96.0.1/32"].map(|prefix| hop(prefix, None));
        assert_eq!(endpoint_hops(&context), wanted);
    }

    #[test]
    fn a_route_beyond_the_peer_goes_through_its_first_address_of_the_family() {
        let context = IpContext {
            src_ip_addrs: texts(&["172.16.0.1/32", "fd00::1/128"]),
            dst_ip_addrs: texts(&["172.16.0.0/32", "fd00::/128"]),
            src_routes: vec![
                route("192.168.7.9/16", ""),
                route("2001:db8::/32", ""),
                route("10.9.0.0/16", "172.16.0.77"),
                route("10.8.0.0/16", "fd00::7"),
                route("nonsense", ""),
            ],
            ..IpContext::default()
        };
        let wanted = [
            hop("172.16.0.0/32", None),
            hop("fd00::/128", None),
            hop("192.168.0.0/16", Some("172.16.0.0")),
            hop("2001:db8::/32", Some("fd00::")),
            hop("10.9.0.0/16", Some("172.16.0.77")),
        ];
        assert_eq!(client_hops(&context), wanted);
    }

    #[test]
    fn only_unicast_hardware_addresses_are_read() {
        assert_eq!(mac("02:00:0a:FF:00:01"), Some([2, 0, 10, 255, 0, 1]));
        for text in ["", "02:00:0a:ff:00", "02:00:0a:ff:00:01:02", "01:00:5e:00:00:01", "0:0:0:0:0:1", "zz"] {
            assert_eq!(mac(text), None, "{text}");
        }
    }
}

//! Tells everybody on a link where its addresses are, once it was made: gratuitous ARP (RFC 5227 §3) and
//! unsolicited Neighbour Advertisements (RFC 4861 §7.2.6). Who knew them elsewhere would go on to send there
//! until its entry expires.
//!
//! Those for IPv4 the kernel sends: who searches for its own address asks everybody for it, in its own name.

use std::{
    io,
    net::{Ipv6Addr, SocketAddrV6},
};

use ipnet::IpNet;
use rustix::net::{
    AddressFamily, SendFlags, SocketFlags, SocketType, bind, ipproto, sendto, socket_with, sockopt,
};

use super::desired::{Desired, End, Link};

/// All nodes on the link (RFC 4291 §2.7.1).
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Hops that such messages have to come with (RFC 4861 §7.1.2): so they were sent on this link.
const HOPS: u32 = 255;

/// Ends whose addresses others may know elsewhere: those of tunnels, whose far ends stay. Both ends of a pair are
/// new, and nobody is behind them yet. WireGuard knows no hardware addresses.
pub(super) fn ends(desired: &Desired) -> impl Iterator<Item = &End> {
    let is_tunnel = matches!(desired.link, Link::Vxlan(_));
    desired.ends.iter().filter(move |_| is_tunnel)
}

/// Its addresses of IPv4, and those of IPv6.
pub(super) fn addresses(end: &End) -> (impl Iterator<Item = IpNet> + '_, Vec<Ipv6Addr>) {
    let four = end.addresses.iter().copied().filter(|net| net.addr().is_ipv4());
    let six =
        end.addresses.iter().filter_map(|net| if let IpNet::V6(net) = net { Some(net.addr()) } else { None });
    (four, six.collect())
}

/// Sends those of IPv6, from a thread in the namespace of the end.
pub(super) fn advertise(end: &End, own: &[Ipv6Addr]) -> io::Result<()> {
    for ip in own {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::INET6, SocketType::RAW, flags, Some(ipproto::ICMPV6))?;
        sockopt::set_ipv6_multicast_hops(&socket, HOPS)?;
        bind(&socket, &SocketAddrV6::new(*ip, 0, 0, end.index))?;
        let everybody = SocketAddrV6::new(ALL_NODES, 0, 0, end.index);
        sendto(&socket, &advertisement(end.mac, *ip), SendFlags::empty(), &everybody)?;
    }
    Ok(())
}

/// One that overrides what others know, with the target's hardware address. The kernel writes the sum.
fn advertisement(mac: [u8; 6], ip: Ipv6Addr) -> Vec<u8> {
    let head = [136, 0, 0, 0, 0x20, 0, 0, 0];
    [head.as_slice(), &ip.octets(), &[2, 1], &mac].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_advertisement_overrides_entries() {
        let (mac, ip) = ([2, 0, 0, 0, 0, 7], "fd00::1".parse::<Ipv6Addr>().unwrap());
        let message = advertisement(mac, ip);
        assert_eq!((message.len(), message[0], message[4]), (32, 136, 0x20));
        assert_eq!((&message[8..24], &message[26..]), (ip.octets().as_slice(), mac.as_slice()));
    }
}

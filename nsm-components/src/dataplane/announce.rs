//! Tells everybody on a link where its addresses are, once it was made: gratuitous ARP (RFC 5227 §3) and
//! unsolicited Neighbour Advertisements (RFC 4861 §7.2.6). Who knew them elsewhere would go on to send there
//! until its entry expires.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr},
    os::fd::AsRawFd,
};

use ipnet::IpNet;
use nix::{
    ifaddrs::getifaddrs,
    sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, bind, send, socket},
};

use super::desired::{Desired, End, Link, Role};
use crate::api::checksum::checksum;

const BROADCAST: [u8; 6] = [0xff; 6];

/// All nodes on the link, ff02::1 (RFC 2464 §7).
const ALL_NODES: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];

const ARP: [u8; 2] = [0x08, 0x06];
const IPV6: [u8; 2] = [0x86, 0xdd];
const ICMPV6: u8 = 58;

/// Ends whose addresses others may know elsewhere. A payload of IP has permanent neighbours on both ends of a
/// pair; an endpoint's end of a pair has nobody behind the other one but its client, who is new there too. WireGuard
/// knows no hardware addresses.
pub(super) fn ends(desired: &Desired) -> impl Iterator<Item = &End> {
    let is_tunnel = matches!(desired.link, Link::Vxlan(_));
    desired.ends.iter().filter(move |end| {
        is_tunnel || desired.link == Link::Veth && end.role == Role::Client && end.neighbours.is_empty()
    })
}

/// Sends them, from a thread in the namespace of the end.
pub(super) fn announce(end: &End) -> io::Result<()> {
    if end.addresses.is_empty() {
        return Ok(());
    }
    let all = getifaddrs()?.filter(|found| found.interface_name == end.name);
    let link = all.filter_map(|found| found.address).find_map(|address| address.as_link_addr().copied());
    let link: LinkAddr = link.ok_or(io::ErrorKind::NotFound)?;
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
    bind(socket.as_raw_fd(), &link)?;
    for net in &end.addresses {
        let frame = match net {
            IpNet::V4(net) => arp(end.mac, net.addr()),
            IpNet::V6(net) => advertisement(end.mac, net.addr()),
        };
        send(socket.as_raw_fd(), &frame, MsgFlags::MSG_DONTWAIT)?;
    }
    Ok(())
}

fn ethernet(to: [u8; 6], from: [u8; 6], kind: [u8; 2]) -> Vec<u8> {
    [to.as_slice(), &from, &kind].concat()
}

/// A request for the own address: hosts update the entries that they have.
fn arp(mac: [u8; 6], ip: Ipv4Addr) -> Vec<u8> {
    let mut frame = ethernet(BROADCAST, mac, ARP);
    // Ethernet, IPv4, lengths of their addresses, request.
    frame.extend([0, 1, 0x08, 0, 6, 4, 0, 1]);
    frame.extend(mac);
    frame.extend(ip.octets());
    frame.extend([0; 6]);
    frame.extend(ip.octets());
    frame
}

fn advertisement(mac: [u8; 6], ip: Ipv6Addr) -> Vec<u8> {
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    // Neighbour advertisement that overrides entries, with the target's hardware address.
    let mut message = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
    message.extend(ip.octets());
    message.extend([2, 1]);
    message.extend(mac);
    let length = u8::try_from(message.len()).unwrap_or(u8::MAX);
    let pseudo = [ip.octets().as_slice(), &all_nodes.octets(), &[0, 0, 0, length, 0, 0, 0, ICMPV6]].concat();
    let sum = checksum(&[&pseudo, &message]);
    message[2..4].copy_from_slice(&sum);
    let mut frame = ethernet(ALL_NODES, mac, IPV6);
    frame.extend([0x60, 0, 0, 0, 0, length, ICMPV6, 255]);
    frame.extend(ip.octets());
    frame.extend(all_nodes.octets());
    frame.extend(message);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];

    #[test]
    fn a_gratuitous_arp_asks_everybody_for_the_own_address() {
        let frame = arp(MAC, Ipv4Addr::new(10, 0, 0, 1));
        assert_eq!(frame.len(), 42);
        assert_eq!((&frame[..6], &frame[12..14]), (BROADCAST.as_slice(), ARP.as_slice()));
        assert_eq!((&frame[22..28], &frame[28..32]), (MAC.as_slice(), [10, 0, 0, 1].as_slice()));
        assert_eq!(frame[38..42], [10, 0, 0, 1]);
    }

    #[test]
    fn an_advertisement_overrides_entries_and_has_a_right_sum() {
        let ip: Ipv6Addr = "fd00::1".parse().unwrap();
        let frame = advertisement(MAC, ip);
        assert_eq!((frame.len(), frame[14 + 7], frame[54], frame[58]), (86, 255, 136, 0x20));
        assert_eq!((&frame[62..78], &frame[80..86]), (ip.octets().as_slice(), MAC.as_slice()));
        // Source and destination, length, next header, message.
        let summed = [&frame[22..54], &[0, 0, 0, 32, 0, 0, 0, 58], &frame[54..]].concat();
        assert_eq!(checksum(&[&summed]), [0, 0]);
    }
}

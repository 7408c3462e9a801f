//! Echo requests of a size, with headers of our own: so "do not fragment" is in them, and no size that the kernel
//! has learnt stands in their way.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsRawFd, OwnedFd},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, recv, sendto, socket,
    },
};
use rustix::net::sockopt::{Timeout, set_socket_timeout};

use super::Answer;
use crate::api::checksum::checksum;

/// Longest wait for an answer; twice what a way around the world takes.
const PATIENCE: Duration = Duration::from_millis(500);

/// How often a packet that nothing came back for is sent.
const SENDS: usize = 2;

/// Room for any packet that comes.
const ROOM: usize = 65_536;

const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
const ICMP_HEADER: usize = 8;

/// Types of messages (RFC 792, RFC 4443).
const ECHO_REPLY: u8 = 0;
const UNREACHABLE: u8 = 3;
const FRAGMENTATION_NEEDED: u8 = 4;
const ECHO: u8 = 8;
const PACKET_TOO_BIG_V6: u8 = 2;
const ECHO_V6: u8 = 128;
const ECHO_REPLY_V6: u8 = 129;

/// Sockets to ask one other node by.
pub(super) struct Echo {
    local: IpAddr,
    peer: IpAddr,
    out: OwnedFd,
    back: OwnedFd,
    id: [u8; 2],
    number: u16,
}

// === impl Echo ===

impl Echo {
    /// Needs the right to open raw sockets (`CAP_NET_RAW`).
    pub(super) fn open(local: IpAddr, peer: IpAddr) -> io::Result<Self> {
        let (family, icmp) = match local {
            IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp),
            IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6),
        };
        let raw = |protocol| socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol);
        // Of this protocol the kernel takes whole packets.
        let (out, back) = (raw(SockProtocol::Raw)?, raw(icmp)?);
        let id = uuid::Uuid::new_v4().into_bytes();
        Ok(Self { local, peer, out, back, id: [id[0], id[1]], number: 0 })
    }

    /// Sends a packet of `size` bytes in all.
    pub(super) fn ask(&mut self, size: u32) -> Answer {
        for _ in 0..SENDS {
            self.number = self.number.wrapping_add(1);
            let packet = packet(self.local, self.peer, self.id, self.number, size as usize);
            let to = SockaddrStorage::from(SocketAddr::new(self.peer, 0));
            match sendto(self.out.as_raw_fd(), &packet, &to, MsgFlags::empty()) {
                // The interface became smaller meanwhile.
                Err(Errno::EMSGSIZE) => return Answer::Silence,
                Err(_) => continue,
                Ok(_) => {}
            }
            match self.answer() {
                Answer::Silence => {}
                answer => return answer,
            }
        }
        Answer::Silence
    }

    /// What comes back for the last packet.
    fn answer(&self) -> Answer {
        let end = Instant::now() + PATIENCE;
        let mut received = vec![0; ROOM];
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || set_socket_timeout(&self.back, Timeout::Recv, Some(left)).is_err() {
                return Answer::Silence;
            }
            let Ok(length) = recv(self.back.as_raw_fd(), &mut received, MsgFlags::empty()) else {
                return Answer::Silence;
            };
            let message = received.get(..length).unwrap_or_default();
            // Of IPv4 the header comes along.
            let message = if self.local.is_ipv4() { body_v4(message) } else { Some(message) };
            if let Some(answer) = message.and_then(|message| self.read(message)) {
                return answer;
            }
        }
    }

    fn read(&self, message: &[u8]) -> Option<Answer> {
        let (kind, code) = (*message.first()?, *message.get(1)?);
        let rest = message.get(ICMP_HEADER..)?;
        let is_own = |icmp: &[u8]| {
            icmp.get(4..6) == Some(&self.id[..]) && icmp.get(6..8) == Some(&self.number.to_be_bytes()[..])
        };
        match (self.local.is_ipv4(), kind, code) {
            (true, ECHO_REPLY, 0) | (false, ECHO_REPLY_V6, 0) if is_own(message) => Some(Answer::Passed),
            (true, UNREACHABLE, FRAGMENTATION_NEEDED) if body_v4(rest).is_some_and(is_own) => {
                let size = u16::from_be_bytes(message.get(6..8)?.try_into().ok()?);
                Some(Answer::TooBig(size.into()))
            }
            (false, PACKET_TOO_BIG_V6, _) if rest.get(IPV6_HEADER..).is_some_and(is_own) => {
                let size = u32::from_be_bytes(message.get(4..8)?.try_into().ok()?);
                Some(Answer::TooBig(size))
            }
            _ => None,
        }
    }
}

/// What follows an IPv4 header.
fn body_v4(packet: &[u8]) -> Option<&[u8]> {
    let length = usize::from(packet.first()? & 0x0f) * 4;
    packet.get(length.max(IPV4_HEADER)..)
}

/// A whole echo request, `size` bytes long.
fn packet(local: IpAddr, peer: IpAddr, id: [u8; 2], number: u16, size: usize) -> Vec<u8> {
    match (local, peer) {
        (IpAddr::V6(local), IpAddr::V6(peer)) => packet_v6(local, peer, id, number, size),
        (IpAddr::V4(local), IpAddr::V4(peer)) => packet_v4(local, peer, id, number, size),
        _ => Vec::new(),
    }
}

fn echo(kind: u8, id: [u8; 2], number: u16, length: usize) -> Vec<u8> {
    let mut icmp = vec![0; length.max(ICMP_HEADER)];
    icmp[0] = kind;
    icmp[4..6].copy_from_slice(&id);
    icmp[6..8].copy_from_slice(&number.to_be_bytes());
    icmp
}

fn packet_v4(local: Ipv4Addr, peer: Ipv4Addr, id: [u8; 2], number: u16, size: usize) -> Vec<u8> {
    let mut icmp = echo(ECHO, id, number, size.saturating_sub(IPV4_HEADER));
    let sum = checksum(&[&icmp]);
    icmp[2..4].copy_from_slice(&sum);
    // Version and length, then "do not fragment", hops and protocol; lengths and sums are the kernel's.
    let mut packet = vec![0; IPV4_HEADER];
    packet[0] = 0x45;
    packet[6] = 0x40;
    packet[8] = 64;
    packet[9] = 1;
    packet[12..16].copy_from_slice(&local.octets());
    packet[16..20].copy_from_slice(&peer.octets());
    packet.extend(icmp);
    packet
}

fn packet_v6(local: Ipv6Addr, peer: Ipv6Addr, id: [u8; 2], number: u16, size: usize) -> Vec<u8> {
    let mut icmp = echo(ECHO_V6, id, number, size.saturating_sub(IPV6_HEADER));
    let length = u32::try_from(icmp.len()).unwrap_or_default().to_be_bytes();
    // The pseudo-header of RFC 8200 §8.1.
    let sum = checksum(&[&local.octets(), &peer.octets(), &length, &[0, 0, 0, 58], &icmp]);
    icmp[2..4].copy_from_slice(&sum);
    let mut packet = vec![0; IPV6_HEADER];
    packet[0] = 0x60;
    packet[4..6].copy_from_slice(&length[2..4]);
    packet[6] = 58;
    packet[7] = 64;
    packet[8..24].copy_from_slice(&local.octets());
    packet[24..40].copy_from_slice(&peer.octets());
    packet.extend(icmp);
    packet
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_have_the_size_asked_for_and_a_sum_that_adds_up() {
        let (a, b) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        let packet = packet_v4(a, b, [1, 2], 7, 1501);
        assert_eq!((packet.len(), packet[6]), (1501, 0x40), "nobody may fragment it");
        assert_eq!(checksum(&[body_v4(&packet).unwrap()]), [0, 0]);
        let (a, b): (Ipv6Addr, Ipv6Addr) = ("fd00::1".parse().unwrap(), "fd00::2".parse().unwrap());
        let packet = packet_v6(a, b, [1, 2], 7, 1400);
        assert_eq!((packet.len(), &packet[4..6]), (1400, &1360_u16.to_be_bytes()[..]));
        let length = 1360_u32.to_be_bytes();
        let sum = checksum(&[&packet[8..24], &packet[24..40], &length, &[0, 0, 0, 58], &packet[40..]]);
        assert_eq!(sum, [0, 0]);
    }
}

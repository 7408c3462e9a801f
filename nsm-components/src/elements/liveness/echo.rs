//! ICMP echoes from one address to another.
//!
//! Sockets for echoes alone need no privilege where the namespace allows them (`ping_group_range`, which
//! forwarders set); elsewhere raw ones need `CAP_NET_RAW`.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicU16, Ordering},
};

use rustix::{
    io::Errno,
    net::{AddressFamily, SendFlags, SocketFlags, SocketType, ipproto},
};
use tokio::net::UdpSocket;

use crate::api::checksum::checksum;

/// Types of ICMP (RFC 792) and ICMPv6 (RFC 4443).
const REQUEST: (u8, u8) = (8, 128);
const REPLY: (u8, u8) = (0, 129);

/// Type, code, checksum, identifier, sequence number.
const HEADER: usize = 8;

/// Length of what tells our echoes from those of others.
const COOKIE: usize = 8;

/// A socket that asks one address.
#[derive(Debug)]
pub(super) struct Echo {
    socket: UdpSocket,
    to: IpAddr,
    cookie: [u8; COOKIE],
    sequence: AtomicU16,
}

fn of(to: IpAddr, types: (u8, u8)) -> u8 {
    if to.is_ipv4() { types.0 } else { types.1 }
}

fn request(to: IpAddr, cookie: [u8; COOKIE], sequence: u16) -> [u8; HEADER + COOKIE] {
    let mut packet = [0; HEADER + COOKIE];
    packet[0] = of(to, REQUEST);
    packet[4..6].copy_from_slice(&cookie[..2]);
    packet[6..8].copy_from_slice(&sequence.to_be_bytes());
    packet[HEADER..].copy_from_slice(&cookie);
    if to.is_ipv4() {
        // That of ICMPv6 the kernel writes.
        let sum = checksum(&[&packet]);
        packet[2..4].copy_from_slice(&sum);
    }
    packet
}

/// Whether this is an answer with our cookie; raw sockets show IPv4's header before it.
fn is_answer(to: IpAddr, cookie: [u8; COOKIE], packet: &[u8]) -> bool {
    let matches = |packet: &[u8]| {
        packet.first() == Some(&of(to, REPLY)) && packet.get(HEADER..HEADER + COOKIE) == Some(&cookie)
    };
    let header = packet.first().map_or(0, |first| usize::from(first & 0x0f) * 4);
    matches(packet) || to.is_ipv4() && packet.get(header..).is_some_and(matches)
}

fn open(to: IpAddr) -> io::Result<std::net::UdpSocket> {
    let (family, protocol) = if to.is_ipv4() {
        (AddressFamily::INET, ipproto::ICMP)
    } else {
        (AddressFamily::INET6, ipproto::ICMPV6)
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = |kind| rustix::net::socket_with(family, kind, flags, Some(protocol));
    let opened = match socket(SocketType::DGRAM) {
        // Who may open neither hears of the first.
        Err(refused) => socket(SocketType::RAW).map_err(|_| refused),
        opened => opened,
    };
    Ok(opened?.into())
}

// === impl Echo ===

impl Echo {
    /// A socket that asks `to` from `from`, on the way that the pod's other packets take: bound to the
    /// interface, it would find its way without a route.
    pub(super) fn open(from: IpAddr, to: IpAddr) -> io::Result<Self> {
        let socket = open(to)?;
        rustix::net::bind(&socket, &SocketAddr::new(from, 0))?;
        let socket = UdpSocket::from_std(socket)?;
        rustix::net::connect(&socket, &SocketAddr::new(to, 0))?;
        let random = uuid::Uuid::new_v4().into_bytes();
        let cookie = *random.first_chunk().unwrap_or(&[0; COOKIE]);
        Ok(Self { socket, to, cookie, sequence: AtomicU16::new(0) })
    }

    /// Asks.
    pub(super) fn ask(&self) -> io::Result<()> {
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
        let packet = request(self.to, self.cookie, sequence);
        // The runtime knows a new socket as writable only later.
        Ok(rustix::net::send(&self.socket, &packet, SendFlags::empty()).map(drop)?)
    }

    /// The next answer.
    pub(super) async fn answer(&self) -> io::Result<()> {
        let mut packet = [0; 128];
        loop {
            let length = self.socket.recv(&mut packet).await?;
            if is_answer(self.to, self.cookie, &packet[..length]) {
                return Ok(());
            }
        }
    }
}

/// Whether this process may not open such sockets at all.
pub(super) fn is_not_allowed(error: &io::Error) -> bool {
    let not_allowed = [Errno::ACCESS, Errno::PERM, Errno::PROTONOSUPPORT, Errno::AFNOSUPPORT];
    not_allowed.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// Whether an own address or the route to the other one is missing.
pub(super) fn has_no_way(error: &io::Error) -> bool {
    let missing = [Errno::NETUNREACH, Errno::NETDOWN, Errno::ADDRNOTAVAIL, Errno::NODEV];
    missing.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_echo_has_a_sum_that_receivers_find_right() {
        let to = "10.0.0.1".parse().unwrap();
        let packet = request(to, [1, 2, 3, 4, 5, 6, 7, 8], 9);
        assert_eq!(checksum(&[&packet]), [0, 0]);
        assert_eq!((packet[0], &packet[6..8]), (8, [0, 9].as_slice()));
    }

    #[test]
    fn only_answers_with_the_own_cookie_count_also_behind_a_header() {
        let (four, six): (IpAddr, IpAddr) = ("10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap());
        let cookie = [7; COOKIE];
        let mut reply = request(four, cookie, 0).to_vec();
        assert!(!is_answer(four, cookie, &reply), "a request is no answer");
        reply[0] = 0;
        assert!(is_answer(four, cookie, &reply));
        assert!(!is_answer(four, [8; COOKIE], &reply));
        let raw = [[0x45].as_slice(), &[0; 19], &reply].concat();
        assert!(is_answer(four, cookie, &raw));
        reply[0] = 129;
        assert!(is_answer(six, cookie, &reply) && !is_answer(six, cookie, &reply[..10]));
    }

    #[tokio::test]
    async fn the_own_host_answers() {
        for own in ["127.0.0.1", "::1"] {
            let own: IpAddr = own.parse().unwrap();
            let echo = match Echo::open(own, own) {
                Err(error) if is_not_allowed(&error) || !nix::unistd::geteuid().is_root() => {
                    println!("SKIPPED: this user may open no ICMP socket: {error}");
                    continue;
                }
                echo => echo.unwrap(),
            };
            echo.ask().unwrap();
            tokio::time::timeout(Duration::from_secs(5), echo.answer()).await.unwrap().unwrap();
        }
    }
}

//! Addresses that connections of a former incarnation of this endpoint still have: its interfaces
//! outlive it, so the kernel knows. The clients' addresses are where its host routes lead.

use std::{
    collections::BTreeSet,
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use nix::ifaddrs::getifaddrs;

/// Addresses of all interfaces of this network namespace, and of hosts that it has routes to.
/// Blocking, for a moment.
pub(super) fn addresses() -> io::Result<BTreeSet<IpAddr>> {
    let mut held = BTreeSet::new();
    for interface in getifaddrs()? {
        let Some(address) = interface.address else { continue };
        held.extend(address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip())));
        held.extend(address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())));
    }
    held.extend(hosts_v4(&fs::read_to_string("/proc/thread-self/net/route")?));
    // A kernel without IPv6 has none.
    held.extend(hosts_v6(&fs::read_to_string("/proc/thread-self/net/ipv6_route").unwrap_or_default()));
    Ok(held)
}

/// Host routes of `/proc/net/route`: destination and mask are hexadecimal in the byte order of the
/// machine (`fib_route_seq_show` of net/ipv4/fib_trie.c).
fn hosts_v4(text: &str) -> impl Iterator<Item = IpAddr> {
    text.lines().skip(1).filter_map(|line| {
        let mut columns = line.split_whitespace();
        let destination = u32::from_str_radix(columns.nth(1)?, 16).ok()?;
        let mask = columns.nth(5)?;
        (mask == "FFFFFFFF").then(|| Ipv4Addr::from(destination.to_ne_bytes()).into())
    })
}

/// Host routes of `/proc/net/ipv6_route` (`rt6_info_route` of net/ipv6/route.c).
fn hosts_v6(text: &str) -> impl Iterator<Item = IpAddr> {
    text.lines().filter_map(|line| {
        let mut columns = line.split_whitespace();
        let destination = u128::from_str_radix(columns.next()?, 16).ok()?;
        (columns.next()? == "80").then(|| Ipv6Addr::from(destination).into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_routes_are_found_among_others() {
        let text = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
            eth0\t00000000\t0101A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
            nsm-1\t010110AC\t00000000\t0001\t0\t0\t0\tFFFFFFFF\t0\t0\t0\n\
            eth0\t000010AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n";
        assert_eq!(hosts_v4(text).collect::<Vec<_>>(), ["172.16.1.1".parse::<IpAddr>().unwrap()]);
        let text = "fd000000000000000000000000000001 80 00000000000000000000000000000000 00 0 nsm-1\n\
            fd000000000000000000000000000000 40 00000000000000000000000000000000 00 0 eth0\n";
        assert_eq!(hosts_v6(text).collect::<Vec<_>>(), ["fd00::1".parse::<IpAddr>().unwrap()]);
        assert_eq!(hosts_v4("\nnonsense").count() + hosts_v6("\nx y").count(), 0);
    }

    #[test]
    fn this_machine_has_its_loopback_address() {
        assert!(addresses().unwrap().contains(&IpAddr::V4(Ipv4Addr::LOCALHOST)));
    }
}

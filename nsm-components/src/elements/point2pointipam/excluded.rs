//! Prefixes that a client does not want, as ranges without overlap: where each ends is found at once.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// Most prefixes one connection may exclude.
pub(super) const MAX_EXCLUDED: usize = 1000;

/// First and last addresses, sorted.
#[derive(Debug)]
pub(super) struct Excluded(Vec<(IpAddr, IpAddr)>);

/// First and last address of a prefix.
pub(super) fn range(prefix: IpNet) -> (IpAddr, IpAddr) {
    (prefix.network(), prefix.broadcast())
}

/// The address after this one, where there is one in its family.
pub(super) fn next(ip: IpAddr) -> Option<IpAddr> {
    match ip {
        IpAddr::V4(ip) => u32::from(ip).checked_add(1).map(|bits| Ipv4Addr::from(bits).into()),
        IpAddr::V6(ip) => u128::from(ip).checked_add(1).map(|bits| Ipv6Addr::from(bits).into()),
    }
}

impl Excluded {
    pub(super) fn new(prefixes: impl IntoIterator<Item = IpNet>) -> Self {
        let mut ranges: Vec<_> =
            IpNet::aggregate(&prefixes.into_iter().collect()).into_iter().map(range).collect();
        ranges.sort_unstable();
        Self(ranges)
    }

    /// The last address of the range around this one, if it is excluded. Of two prefixes that
    /// touch, the other is met next.
    pub(super) fn end_of(&self, ip: IpAddr) -> Option<IpAddr> {
        // All of IPv4 is sorted before IPv6.
        let before = self.0.partition_point(|(first, _)| *first <= ip);
        let (_, last) = self.0.get(before.checked_sub(1)?)?;
        (*last >= ip).then_some(*last)
    }
}

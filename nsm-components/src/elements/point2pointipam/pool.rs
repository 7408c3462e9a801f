//! Pairs of addresses of one group of prefixes. Pure: no clock, no I/O.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;

use super::excluded::{Excluded, next, range};

/// The two addresses of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) endpoint: IpAddr,
    pub(super) client: IpAddr,
}

/// Addresses that a connection brings along, from before.
#[derive(Clone, Debug, Default)]
pub(super) struct Brought {
    pub(super) endpoint: Vec<IpAddr>,
    pub(super) client: Vec<IpAddr>,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct Pool {
    pub(super) prefixes: Vec<IpNet>,
    /// One a prefix: what lies before it there is taken, so that a search need not begin at the start.
    from: Vec<IpAddr>,
    /// Of pairs that are settled, and of those that wait for it.
    pub(super) taken: BTreeSet<IpAddr>,
    /// Settled pairs by connection.
    pub(super) pairs: BTreeMap<String, Pair>,
}

impl Pool {
    /// Addresses of these prefixes, all of them.
    pub(super) fn new(prefixes: Vec<IpNet>) -> Self {
        let from = prefixes.iter().map(|prefix| range(*prefix).0).collect();
        Self { prefixes, from, ..Self::default() }
    }

    /// Whether an address is of these prefixes.
    pub(super) fn contains(&self, ip: IpAddr) -> bool {
        self.prefixes.iter().any(|prefix| prefix.contains(&ip))
    }

    /// The pair of a connection: what it has, else what it brings if that is free, else the two
    /// lowest free addresses that are not `held` by somebody else. Nothing when the pool is empty.
    /// It is taken from now on; what the connection had until now is so until it is settled.
    pub(super) fn choose(
        &mut self,
        connection: &str,
        brought: &Brought,
        excluded: &Excluded,
        held: &BTreeSet<IpAddr>,
    ) -> Option<Pair> {
        if let Some(pair) = self.pairs.get(connection)
            && [pair.client, pair.endpoint].into_iter().all(|ip| excluded.end_of(ip).is_none())
        {
            return Some(*pair);
        }
        let pair = self.recovered(brought, excluded).or_else(|| {
            let endpoint = self.lowest(None, excluded, held)?;
            Some(Pair { endpoint, client: self.lowest(Some(endpoint), excluded, held)? })
        })?;
        self.taken.extend([pair.endpoint, pair.client]);
        Some(pair)
    }

    /// Makes a chosen pair the connection's, in place of what it had.
    pub(super) fn settle(&mut self, connection: &str, pair: Pair) {
        if let Some(old) = self.pairs.insert(connection.to_owned(), pair).filter(|old| *old != pair) {
            self.give_back(old);
            // The two may share an address.
            self.taken.extend([pair.endpoint, pair.client]);
        }
    }

    /// Gives a chosen pair back unless it is settled.
    pub(super) fn abandon(&mut self, connection: &str, pair: Pair) {
        let kept = self.pairs.get(connection).copied();
        if kept != Some(pair) {
            self.give_back(pair);
            self.taken.extend(kept.iter().flat_map(|kept| [kept.endpoint, kept.client]));
        }
    }

    pub(super) fn release(&mut self, connection: &str) {
        if let Some(pair) = self.pairs.remove(connection) {
            self.give_back(pair);
        }
    }

    fn give_back(&mut self, pair: Pair) {
        for ip in [pair.endpoint, pair.client] {
            self.taken.remove(&ip);
            let own = self.prefixes.iter().zip(&mut self.from).filter(|(prefix, _)| prefix.contains(&ip));
            own.for_each(|(_, from)| *from = ip.min(*from));
        }
    }

    fn recovered(&self, brought: &Brought, excluded: &Excluded) -> Option<Pair> {
        let free =
            |ip: &&IpAddr| self.contains(**ip) && !self.taken.contains(ip) && excluded.end_of(**ip).is_none();
        let (endpoint, client) = (*brought.endpoint.iter().find(free)?, *brought.client.iter().find(free)?);
        (endpoint != client).then_some(Pair { endpoint, client })
    }

    fn lowest(
        &mut self,
        but: Option<IpAddr>,
        excluded: &Excluded,
        held: &BTreeSet<IpAddr>,
    ) -> Option<IpAddr> {
        let all = &self.taken;
        let taken = |ip: &IpAddr| but == Some(*ip) || all.contains(ip) || held.contains(ip);
        self.prefixes.iter().zip(&mut self.from).find_map(|(prefix, from)| {
            let last = range(*prefix).1;
            while *from < last && all.contains(from) {
                *from = next(*from)?;
            }
            lowest_of(*from, last, excluded, taken)
        })
    }
}

/// Steps over what is taken, and jumps over what is excluded: a client may exclude 2^63 addresses
/// in a word.
fn lowest_of(
    mut ip: IpAddr,
    last: IpAddr,
    excluded: &Excluded,
    taken: impl Fn(&IpAddr) -> bool,
) -> Option<IpAddr> {
    loop {
        let over = match excluded.end_of(ip) {
            Some(end) => end,
            None if taken(&ip) => ip,
            None => return Some(ip),
        };
        if over >= last {
            return None;
        }
        ip = next(over)?;
    }
}

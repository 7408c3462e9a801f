//! `point2pointipam`: hands every connection a pair of addresses, the endpoint's and the client's
//! (protocol §4.5). Addresses that a connection brings along are kept when they are free: that is
//! how addresses survive a restart of the endpoint.

mod excluded;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use async_trait::async_trait;
use ipnet::IpNet;
use parking_lot::Mutex;

use self::excluded::{Excluded, MAX_EXCLUDED, next, range};
use crate::{
    api::connectioncontext::{IpContext, Route},
    chain::{Cx, Element, Error, Kind, Next, Reply, Request, Result},
};

/// One address family's pairs. Pure: no clock, no I/O.
#[derive(Clone, Debug, Default)]
pub struct Pool {
    prefixes: Vec<IpNet>,
    taken: BTreeSet<IpAddr>,
    pairs: BTreeMap<String, Pair>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pair {
    endpoint: IpAddr,
    client: IpAddr,
}

/// See the module. One pool per group of prefixes: two groups make a dual stack.
#[derive(Debug)]
pub struct Point2PointIpam {
    pools: Mutex<Vec<Pool>>,
}

fn host(ip: IpAddr) -> IpNet {
    IpNet::from(ip)
}

fn parse(text: &str) -> Option<IpAddr> {
    text.parse::<IpNet>().map(|net| net.addr()).or_else(|_| text.parse()).ok()
}

// === impl Pool ===

impl Pool {
    /// Addresses of these prefixes, all of them.
    pub fn new(prefixes: Vec<IpNet>) -> Self {
        Self { prefixes, ..Self::default() }
    }

    fn free(&self, ip: IpAddr, excluded: &Excluded) -> bool {
        self.prefixes.iter().any(|prefix| prefix.contains(&ip))
            && !self.taken.contains(&ip)
            && excluded.end_of(ip).is_none()
    }

    /// The pair of a connection: what it has, else what it brings if that is free, else the two
    /// lowest free addresses. Nothing when the pool is empty.
    fn pair(&mut self, connection: &str, context: &IpContext, excluded: &Excluded) -> Option<Pair> {
        if let Some(pair) = self.pairs.get(connection).copied() {
            if [pair.client, pair.endpoint].into_iter().all(|ip| excluded.end_of(ip).is_none()) {
                return Some(pair);
            }
            self.release(connection);
        }
        let brought =
            |all: &[String]| all.iter().filter_map(|text| parse(text)).find(|ip| self.free(*ip, excluded));
        let recovered = brought(&context.dst_ip_addrs).zip(brought(&context.src_ip_addrs));
        let recovered = recovered.filter(|(endpoint, client)| endpoint != client);
        let (endpoint, client) = if let Some(pair) = recovered {
            pair
        } else {
            let endpoint = self.lowest(None, excluded)?;
            (endpoint, self.lowest(Some(endpoint), excluded)?)
        };
        let pair = Pair { endpoint, client };
        self.taken.extend([endpoint, client]);
        self.pairs.insert(connection.to_owned(), pair);
        Some(pair)
    }

    fn lowest(&self, but: Option<IpAddr>, excluded: &Excluded) -> Option<IpAddr> {
        self.prefixes.iter().find_map(|prefix| self.lowest_of(*prefix, but, excluded))
    }

    /// Steps over what is taken, and jumps over what is excluded: a client may exclude 2^63
    /// addresses in a word.
    fn lowest_of(&self, prefix: IpNet, but: Option<IpAddr>, excluded: &Excluded) -> Option<IpAddr> {
        let (mut ip, last) = range(prefix);
        loop {
            let over = match excluded.end_of(ip) {
                Some(end) => end,
                None if Some(ip) == but || self.taken.contains(&ip) => ip,
                None => return Some(ip),
            };
            if over >= last {
                return None;
            }
            ip = next(over)?;
        }
    }

    fn release(&mut self, connection: &str) {
        if let Some(pair) = self.pairs.remove(connection) {
            self.taken.remove(&pair.endpoint);
            self.taken.remove(&pair.client);
        }
    }
}

/// Replaces what an earlier grant set: addresses and routes to exactly these pairs.
fn grant(context: &mut IpContext, pairs: &[Pair]) {
    let route = |ip| Route { prefix: host(ip).to_string(), next_hop: String::new() };
    context.src_ip_addrs = pairs.iter().map(|pair| host(pair.client).to_string()).collect();
    context.dst_ip_addrs = pairs.iter().map(|pair| host(pair.endpoint).to_string()).collect();
    context.src_routes = pairs.iter().map(|pair| route(pair.endpoint)).collect();
    context.dst_routes = pairs.iter().map(|pair| route(pair.client)).collect();
}

// === impl Point2PointIpam ===

impl Point2PointIpam {
    /// One pair a connection from each of these groups of prefixes.
    pub fn new(groups: Vec<Vec<IpNet>>) -> Self {
        Self { pools: Mutex::new(groups.into_iter().map(Pool::new).collect()) }
    }

    fn assign(&self, connection: &str, context: &mut IpContext) -> Result<()> {
        let count = context.excluded_prefixes.len();
        if count > MAX_EXCLUDED {
            let message =
                format_args!("{count} excluded prefixes are too many: {MAX_EXCLUDED} are considered");
            return Err(Error::new(Kind::Invalid, message));
        }
        let excluded = Excluded::new(context.excluded_prefixes.iter().filter_map(|net| net.parse().ok()));
        let mut pools = self.pools.lock();
        let mut pairs = Vec::with_capacity(pools.len());
        for pool in pools.iter_mut() {
            if let Some(pair) = pool.pair(connection, context, &excluded) {
                pairs.push(pair);
                continue;
            }
            let prefixes: Vec<_> = pool.prefixes.iter().map(ToString::to_string).collect();
            pools.iter_mut().for_each(|pool| pool.release(connection));
            let message = format_args!(
                "no two free addresses are left in {}: set NSM_CIDR_PREFIX wider",
                prefixes.join(", ")
            );
            return Err(Error::new(Kind::Exhausted, message));
        }
        grant(context, &pairs);
        Ok(())
    }

    fn knows(&self, connection: &str) -> bool {
        self.pools.lock().iter().any(|pool| pool.pairs.contains_key(connection))
    }

    fn release(&self, connection: &str) {
        self.pools.lock().iter_mut().for_each(|pool| pool.release(connection));
    }
}

#[async_trait]
impl Element for Point2PointIpam {
    fn name(&self) -> &'static str {
        "point2pointipam"
    }

    async fn request(&self, cx: &Cx, mut request: Request, next: Next<'_>) -> Result<Reply> {
        let id = request.connection.id.clone();
        let known = self.knows(&id);
        let context = request.connection.context.get_or_insert_default().ip_context.get_or_insert_default();
        self.assign(&id, context)?;
        let reply = next.request(cx, request).await;
        if reply.is_err() && !known {
            self.release(&id);
        }
        reply
    }

    async fn close(&self, cx: &Cx, request: Request, next: Next<'_>) -> Result<()> {
        let id = request.connection.id.clone();
        let closed = next.close(cx, request).await;
        self.release(&id);
        closed
    }
}

#[cfg(test)]
mod tests;

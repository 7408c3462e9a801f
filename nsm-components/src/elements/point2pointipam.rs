//! `point2pointipam`: hands every connection a pair of addresses, the endpoint's and the client's
//! (protocol §4.5). Addresses that a connection brings along are kept when they are free: that is
//! how addresses survive a restart of the endpoint.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use async_trait::async_trait;
use ipnet::IpNet;
use parking_lot::Mutex;

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

    fn free(&self, ip: IpAddr, excluded: &[IpNet]) -> bool {
        self.prefixes.iter().any(|prefix| prefix.contains(&ip))
            && !self.taken.contains(&ip)
            && !excluded.iter().any(|prefix| prefix.contains(&ip))
    }

    /// The pair of a connection: what it has, else what it brings if that is free, else the two
    /// lowest free addresses. Nothing when the pool is empty.
    fn pair(&mut self, connection: &str, context: &IpContext, excluded: &[IpNet]) -> Option<Pair> {
        if let Some(pair) = self.pairs.get(connection).copied() {
            if ![pair.client, pair.endpoint]
                .iter()
                .any(|ip| excluded.iter().any(|prefix| prefix.contains(ip)))
            {
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

    fn lowest(&self, but: Option<IpAddr>, excluded: &[IpNet]) -> Option<IpAddr> {
        // What is taken and excluded is finite, so is the walk over what is not free.
        self.prefixes
            .iter()
            .flat_map(|prefix| addresses(*prefix))
            .find(|ip| Some(*ip) != but && self.free(*ip, excluded))
    }

    fn release(&mut self, connection: &str) {
        if let Some(pair) = self.pairs.remove(connection) {
            self.taken.remove(&pair.endpoint);
            self.taken.remove(&pair.client);
        }
    }
}

/// All addresses of a prefix, its first and last included.
fn addresses(prefix: IpNet) -> Box<dyn Iterator<Item = IpAddr>> {
    match prefix {
        IpNet::V4(net) => {
            let (first, last) = (u32::from(net.network()), u32::from(net.broadcast()));
            Box::new((first..=last).map(|bits| IpAddr::V4(bits.into())))
        }
        IpNet::V6(net) => {
            let (first, last) = (u128::from(net.network()), u128::from(net.broadcast()));
            Box::new((first..=last).map(|bits| IpAddr::V6(bits.into())))
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
        let excluded: Vec<IpNet> =
            context.excluded_prefixes.iter().filter_map(|prefix| prefix.parse().ok()).collect();
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
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ipam(prefixes: &[&str]) -> Point2PointIpam {
        Point2PointIpam::new(prefixes.iter().map(|prefix| vec![prefix.parse().unwrap()]).collect())
    }

    fn ask(ipam: &Point2PointIpam, connection: &str) -> IpContext {
        let mut context = IpContext::default();
        ipam.assign(connection, &mut context).unwrap();
        context
    }

    #[test]
    fn the_lowest_address_is_the_endpoints_and_the_next_the_clients() {
        let ipam = ipam(&["172.16.1.0/24", "fd00::/64"]);
        let context = ask(&ipam, "a");
        assert_eq!(context.dst_ip_addrs, ["172.16.1.0/32", "fd00::/128"]);
        assert_eq!(context.src_ip_addrs, ["172.16.1.1/32", "fd00::1/128"]);
        assert_eq!(context.src_routes[0].prefix, "172.16.1.0/32");
        assert_eq!(ask(&ipam, "b").dst_ip_addrs[0], "172.16.1.2/32");
        assert_eq!(ask(&ipam, "a"), context);
    }

    #[test]
    fn after_a_restart_a_connection_gets_back_what_it_brings_unless_it_is_taken() {
        let before = ipam(&["172.16.1.0/24"]);
        ask(&before, "a");
        let brought = ask(&before, "b");
        let after = ipam(&["172.16.1.0/24"]);
        let mut context = brought.clone();
        after.assign("b", &mut context).unwrap();
        assert_eq!(context, brought);
        let mut stranger = brought.clone();
        after.assign("c", &mut stranger).unwrap();
        assert_eq!(stranger.dst_ip_addrs, ["172.16.1.0/32"]);
    }

    #[test]
    fn addresses_of_another_endpoint_are_replaced_not_added_to() {
        let mut context = ask(&ipam(&["10.9.0.0/24"]), "a");
        ipam(&["172.16.1.0/24"]).assign("a", &mut context).unwrap();
        assert_eq!(context.dst_ip_addrs, ["172.16.1.0/32"]);
        assert_eq!(context.src_routes.len(), 1);
    }

    #[test]
    fn excluded_prefixes_are_not_handed_out_and_a_pair_in_one_is_renumbered() {
        let ipam = ipam(&["172.16.1.0/24"]);
        ask(&ipam, "a");
        let mut context =
            IpContext { excluded_prefixes: vec!["172.16.1.0/30".into()], ..IpContext::default() };
        ipam.assign("a", &mut context).unwrap();
        assert_eq!(context.dst_ip_addrs, ["172.16.1.4/32"]);
    }

    #[test]
    fn an_empty_pool_says_which_setting_to_change_and_takes_nothing() {
        let ipam = ipam(&["172.16.1.0/24", "10.0.0.0/32"]);
        let error = ipam.assign("a", &mut IpContext::default()).unwrap_err();
        assert!(error.message.contains("NSM_CIDR_PREFIX"));
        assert!(!ipam.knows("a"));
    }

    proptest! {
        #[test]
        fn no_address_is_ever_handed_out_twice(steps in prop::collection::vec((0_u8..12, any::<bool>()), 1..60)) {
            let ipam = ipam(&["172.16.1.0/27"]);
            for (connection, close) in steps {
                let id = connection.to_string();
                if close { ipam.release(&id) } else { ask(&ipam, &id); }
                let pools = ipam.pools.lock();
                let given: Vec<_> = pools[0].pairs.values().flat_map(|pair| [pair.client, pair.endpoint]).collect();
                let unique: BTreeSet<_> = given.iter().copied().collect();
                prop_assert_eq!(given.len(), unique.len());
                prop_assert_eq!(&unique, &pools[0].taken);
            }
        }
    }
}

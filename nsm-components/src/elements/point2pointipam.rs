//! `point2pointipam`: hands every connection a pair of addresses, the endpoint's and the client's
//! (protocol §4.5). With [`Keep::Nothing`] it is upstream's `strictipam` around it.
//!
//! Addresses that a connection brings along are kept when they are free: that is how addresses
//! survive a restart of the endpoint. Until everybody had the time to bring them, what this
//! endpoint's interfaces still have is handed to nobody else.

mod excluded;
mod held;
mod pool;

use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use ipnet::IpNet;
use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::warn;

use self::{
    excluded::{Excluded, MAX_EXCLUDED},
    pool::{Brought, Pair, Pool},
};
use crate::{
    api::{
        connection::State,
        connectioncontext::{IpContext, Route},
    },
    chain::{Cx, Element, Error, Kind, Next, Reply, Request, Result},
};

/// What stays of addresses and routes that a client brings along for its own interface and that
/// are not of the endpoint's prefixes. On the endpoint's side nothing does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// All, unless the Request says that it comes from another endpoint.
    Foreign,
    /// Nothing.
    Nothing,
}

/// See the module. One pool per group of prefixes: two groups make a dual stack.
#[derive(Debug)]
pub struct Point2PointIpam {
    pools: Mutex<Vec<Pool>>,
    keep: Keep,
    recovering_until: Instant,
    /// What was in use when it was last looked at: that takes the longer the more there is.
    seen: tokio::sync::Mutex<Option<(Instant, Arc<BTreeSet<IpAddr>>)>>,
}

/// How long a look at what is in use counts. Only what a former incarnation answered right before its
/// end may come up meanwhile.
const SEEN_FOR: Duration = Duration::from_secs(1);

/// Pairs of a connection, one a pool; those it did not have before go back unless they are settled.
struct Grant<'a> {
    ipam: &'a Point2PointIpam,
    connection: &'a str,
    pairs: Vec<Pair>,
}

fn parse(text: &str) -> Option<IpAddr> {
    text.parse::<IpNet>().map(|net| net.addr()).or_else(|_| text.parse()).ok()
}

// === impl Grant ===

impl Grant<'_> {
    fn settle(self) {
        let mut pools = self.ipam.pools.lock();
        pools.iter_mut().zip(&self.pairs).for_each(|(pool, pair)| pool.settle(self.connection, *pair));
    }
}

impl Drop for Grant<'_> {
    fn drop(&mut self) {
        let mut pools = self.ipam.pools.lock();
        pools.iter_mut().zip(&self.pairs).for_each(|(pool, pair)| pool.abandon(self.connection, *pair));
    }
}

// === impl Point2PointIpam ===

impl Point2PointIpam {
    /// One pair a connection from each of these groups of prefixes. For `life`, the longest that a
    /// connection stays without a Request, the pairs of a former incarnation are its connections'.
    pub fn new(groups: Vec<Vec<IpNet>>, keep: Keep, life: Duration) -> Self {
        let pools = Mutex::new(groups.into_iter().map(Pool::new).collect());
        Self { pools, keep, recovering_until: Instant::now() + life, seen: tokio::sync::Mutex::default() }
    }

    fn choose<'a>(
        &'a self,
        connection: &'a str,
        context: &IpContext,
        held: &BTreeSet<IpAddr>,
    ) -> Result<Grant<'a>> {
        let count = context.excluded_prefixes.len();
        if count > MAX_EXCLUDED {
            let message =
                format_args!("{count} excluded prefixes are too many: {MAX_EXCLUDED} are considered");
            return Err(Error::new(Kind::Invalid, message));
        }
        let excluded = Excluded::new(context.excluded_prefixes.iter().filter_map(|net| net.parse().ok()));
        let all = |texts: &[String]| texts.iter().filter_map(|text| parse(text)).collect();
        let brought = Brought { endpoint: all(&context.dst_ip_addrs), client: all(&context.src_ip_addrs) };
        let mut grant = Grant { ipam: self, connection, pairs: Vec::new() };
        // The grant locks the pools when it goes, so they are let go of first.
        let exhausted = {
            let mut pools = self.pools.lock();
            pools.iter_mut().find_map(|pool| match pool.choose(connection, &brought, &excluded, held) {
                Some(pair) => {
                    grant.pairs.push(pair);
                    None
                }
                None => Some(pool.prefixes.iter().map(ToString::to_string).collect::<Vec<_>>()),
            })
        };
        let Some(prefixes) = exhausted else { return Ok(grant) };
        let message = format_args!(
            "no two free addresses are left in {}: set NSM_CIDR_PREFIX wider, or exclude less",
            prefixes.join(", ")
        );
        Err(Error::new(Kind::Exhausted, message))
    }

    /// Replaces what an earlier grant set: addresses and routes to exactly these pairs, beside what
    /// is to be kept.
    fn write(&self, pairs: &[Pair], keep: Keep, context: &mut IpContext) {
        let host = |ip| IpNet::from(ip).to_string();
        let route = |ip| Route { prefix: host(ip), next_hop: String::new() };
        let pools = self.pools.lock();
        let foreign = |text: &str| {
            keep == Keep::Foreign && parse(text).is_some_and(|ip| !pools.iter().any(|pool| pool.contains(ip)))
        };
        context.src_ip_addrs.retain(|text| foreign(text));
        context.src_ip_addrs.splice(..0, pairs.iter().map(|pair| host(pair.client)));
        context.src_routes.retain(|route| foreign(&route.prefix));
        context.src_routes.splice(..0, pairs.iter().map(|pair| route(pair.endpoint)));
        context.dst_ip_addrs = pairs.iter().map(|pair| host(pair.endpoint)).collect();
        context.dst_routes = pairs.iter().map(|pair| route(pair.client)).collect();
    }

    fn knows(&self, connection: &str) -> bool {
        self.pools.lock().iter().any(|pool| pool.pairs.contains_key(connection))
    }

    /// What a new connection must not get though nobody asked for it yet.
    async fn held(&self, connection: &str) -> Arc<BTreeSet<IpAddr>> {
        if Instant::now() >= self.recovering_until || self.knows(connection) {
            return Arc::default();
        }
        let mut seen = self.seen.lock().await;
        if let Some((at, held)) = &*seen
            && at.elapsed() < SEEN_FOR
        {
            return held.clone();
        }
        let held = tokio::task::spawn_blocking(held::addresses).await.map_err(std::io::Error::other);
        let held = Arc::new(held.flatten().unwrap_or_else(|error| {
            warn!(%error, "cannot see which addresses are in use from before");
            BTreeSet::new()
        }));
        *seen = Some((Instant::now(), held.clone()));
        held
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
        let moved = request.connection.state() == State::ReselectRequested;
        let keep = if moved { Keep::Nothing } else { self.keep };
        let context = request.connection.context.get_or_insert_default().ip_context.get_or_insert_default();
        let grant = self.choose(&id, context, &*self.held(&id).await)?;
        self.write(&grant.pairs, keep, context);
        let reply = next.request(cx, request).await?;
        grant.settle();
        Ok(reply)
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

//! `excludedprefixes` of clients: connections of one process do not share addresses, unless they are
//! of one awareness group (protocol §4.5).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use async_trait::async_trait;
use ipnet::IpNet;
use parking_lot::Mutex;
use tracing::warn;

use crate::{
    api::{connectioncontext::IpContext, context::nets},
    chain::{Cx, Element, Error, Kind, Next, Reply, Request, Result},
};

/// What all connections of a process have. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct UsedPrefixes(Arc<Mutex<BTreeMap<String, Used>>>);

/// What one connection has.
#[derive(Clone, Debug)]
struct Used {
    group: Option<usize>,
    /// Addresses of both sides and hosts it has routes to.
    hosts: BTreeSet<IpNet>,
    /// Prefixes that are excluded for it further on, so they are for all.
    excluded: BTreeSet<IpNet>,
}

/// See the module. One for each connection, all with the same prefixes.
#[derive(Clone, Debug)]
pub struct ExcludedPrefixesClient {
    used: UsedPrefixes,
    group: Option<usize>,
}

/// Addresses of both sides.
fn addresses(context: &IpContext) -> BTreeSet<IpNet> {
    let all = nets(&context.src_ip_addrs).into_iter().chain(nets(&context.dst_ip_addrs));
    all.map(|net| IpNet::from(net.addr())).collect()
}

/// The same, and hosts that routes lead to.
fn hosts(context: &IpContext) -> BTreeSet<IpNet> {
    let routes = context.src_routes.iter().chain(&context.dst_routes);
    let routes = nets(&routes.map(|route| route.prefix.clone()).collect::<Vec<_>>());
    let mut hosts = addresses(context);
    hosts.extend(routes.into_iter().filter(|net| net.prefix_len() == net.max_prefix_len()));
    hosts
}

// === impl UsedPrefixes ===

impl UsedPrefixes {
    /// What the other connections have, but for those of the same group.
    fn of_others<'a>(
        all: &'a BTreeMap<String, Used>,
        id: &'a str,
        group: Option<usize>,
    ) -> impl Iterator<Item = &'a Used> {
        let others = all.iter().filter(move |(other, _)| other.as_str() != id);
        others.map(|(_, used)| used).filter(move |used| group.is_none() || used.group != group)
    }

    fn excluded_for(&self, id: &str, group: Option<usize>) -> BTreeSet<IpNet> {
        let all = self.0.lock();
        Self::of_others(&all, id, group)
            .flat_map(|used| used.hosts.iter().chain(&used.excluded))
            .copied()
            .collect()
    }

    /// Notes what a connection was granted, unless another has an address of it.
    fn note(&self, id: &str, group: Option<usize>, granted: &IpContext) -> std::result::Result<(), IpNet> {
        let own = addresses(granted);
        let mut all = self.0.lock();
        let of_others = Self::of_others(&all, id, group);
        if let Some(twice) = of_others.flat_map(|used| &used.hosts).find(|host| own.contains(*host)) {
            return Err(*twice);
        }
        let excluded = if group.is_some() { Vec::new() } else { nets(&granted.excluded_prefixes) };
        let used = Used { group, hosts: hosts(granted), excluded: excluded.into_iter().collect() };
        all.insert(id.to_owned(), used);
        Ok(())
    }

    fn forget(&self, id: &str) {
        self.0.lock().remove(id);
    }
}

// === impl ExcludedPrefixesClient ===

impl ExcludedPrefixesClient {
    /// For a connection of this awareness group, or of none.
    pub fn new(used: UsedPrefixes, group: Option<usize>) -> Self {
        Self { used, group }
    }
}

#[async_trait]
impl Element for ExcludedPrefixesClient {
    fn name(&self) -> &'static str {
        "excludedprefixes"
    }

    async fn request(&self, cx: &Cx, mut request: Request, next: Next<'_>) -> Result<Reply> {
        let id = request.connection.origin_id().to_owned();
        let context = request.connection.context.get_or_insert_default().ip_context.get_or_insert_default();
        let asked = context.excluded_prefixes.clone();
        let own = addresses(context);
        let others = self.used.excluded_for(&id, self.group);
        let others = others.difference(&own).map(ToString::to_string).filter(|net| !asked.contains(net));
        context.excluded_prefixes.extend(others);
        let mut reply = next.request(cx, request).await?;
        let context = reply.connection.context.get_or_insert_default().ip_context.get_or_insert_default();
        let noted = self.used.note(&id, self.group, context);
        context.excluded_prefixes = asked;
        let Err(twice) = noted else { return Ok(reply) };
        let Reply { connection, files } = reply;
        let undo = Request { connection, files, ..Request::default() };
        if let Err(error) = next.close(&cx.undo(), undo).await {
            warn!(%error, "could not close what has another connection's address");
        }
        let message = format_args!(
            "{twice} is an address of another connection of this client; \
             put both into one of NSM_AWARENESS_GROUPS if that is meant"
        );
        Err(Error::new(Kind::Unavailable, message))
    }

    async fn close(&self, cx: &Cx, request: Request, next: Next<'_>) -> Result<()> {
        let id = request.connection.origin_id().to_owned();
        let closed = next.close(cx, request).await;
        self.used.forget(&id);
        closed
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{api::Connection, chain::Chain};

    /// Grants the first two hosts of 10.0.0.0/24 that are not excluded, whoever asks, unless it is
    /// told to be deaf; and excludes a prefix of its own.
    struct Endpoint(&'static Mutex<Log>);

    #[derive(Default)]
    struct Log {
        deaf: bool,
        asked: Vec<Vec<String>>,
        closed: usize,
    }

    fn log() -> &'static Mutex<Log> {
        Box::leak(Box::default())
    }

    #[async_trait]
    impl Element for Endpoint {
        fn name(&self) -> &'static str {
            "endpoint"
        }

        async fn request(&self, _: &Cx, mut request: Request, _: Next<'_>) -> Result<Reply> {
            let mut log = self.0.lock();
            let context = request.connection.context.as_mut().unwrap().ip_context.as_mut().unwrap();
            log.asked.push(context.excluded_prefixes.clone());
            if context.src_ip_addrs.is_empty() {
                let hosts = (0..20).map(|host| format!("10.0.0.{host}/32"));
                let mut free = hosts.filter(|host| log.deaf || !context.excluded_prefixes.contains(host));
                context.dst_ip_addrs.extend(free.next());
                context.src_ip_addrs.extend(free.next());
            }
            context.excluded_prefixes.push("10.96.0.0/12".into());
            Ok(Reply { connection: request.connection, files: request.files })
        }

        async fn close(&self, _: &Cx, _: Request, _: Next<'_>) -> Result<()> {
            self.0.lock().closed += 1;
            Ok(())
        }
    }

    fn client(used: &UsedPrefixes, group: Option<usize>, log: &'static Mutex<Log>) -> Chain {
        let element = ExcludedPrefixesClient::new(used.clone(), group);
        Chain::new([Arc::new(element) as Arc<dyn Element>, Arc::new(Endpoint(log))])
    }

    async fn ask(chain: &Chain, connection: Connection) -> Result<Connection> {
        let request = Request { connection, ..Request::default() };
        chain
            .start()
            .request(&Cx::within(Duration::from_secs(1)), request)
            .await
            .map(|reply| reply.connection)
    }

    fn named(id: &str) -> Connection {
        Connection { id: id.into(), ..Connection::default() }
    }

    fn ip(connection: &Connection) -> IpContext {
        connection.context.clone().unwrap().ip_context.unwrap()
    }

    #[tokio::test]
    async fn connections_of_one_client_get_different_addresses_and_a_refresh_keeps_them() {
        let (used, log) = (UsedPrefixes::default(), log());
        let first = ask(&client(&used, None, log), named("a")).await.unwrap();
        let second = ask(&client(&used, None, log), named("b")).await.unwrap();
        assert_eq!(ip(&first).src_ip_addrs, ["10.0.0.1/32"]);
        assert_eq!(ip(&second).dst_ip_addrs, ["10.0.0.2/32"]);
        assert_eq!(ip(&second).excluded_prefixes, [""; 0], "what was added is taken back");
        let again = ask(&client(&used, None, log), first.clone()).await.unwrap();
        assert_eq!(again, first);
        let asked = &log.lock().asked;
        assert_eq!(asked[1], ["10.0.0.0/32", "10.0.0.1/32", "10.96.0.0/12"]);
        assert!(!asked[2].contains(&"10.0.0.1/32".to_owned()), "its own address: {asked:?}");
    }

    #[tokio::test]
    async fn an_address_that_another_connection_has_is_refused_and_closed() {
        let (used, log) = (UsedPrefixes::default(), log());
        ask(&client(&used, None, log), named("a")).await.unwrap();
        log.lock().deaf = true;
        let error = ask(&client(&used, None, log), named("b")).await.unwrap_err();
        assert!(error.message.contains("10.0.0.0/32") && error.message.contains("NSM_AWARENESS_GROUPS"));
        assert_eq!(log.lock().closed, 1);
    }

    #[tokio::test]
    async fn connections_of_one_awareness_group_may_share_addresses_and_others_may_not() {
        let (used, log) = (UsedPrefixes::default(), log());
        let grouped = client(&used, Some(0), log);
        let [first, second] =
            [ask(&grouped, named("a")).await.unwrap(), ask(&grouped, named("b")).await.unwrap()];
        assert_eq!(ip(&first), ip(&second));
        let other = ask(&client(&used, Some(1), log), named("c")).await.unwrap();
        assert_eq!(ip(&other).src_ip_addrs, ["10.0.0.3/32"]);
        let alone = ask(&client(&used, None, log), named("d")).await.unwrap();
        assert_eq!(ip(&alone).src_ip_addrs, ["10.0.0.5/32"]);
    }

    #[tokio::test]
    async fn a_closed_connection_excludes_nothing_any_more() {
        let (used, log) = (UsedPrefixes::default(), log());
        let chain = client(&used, None, log);
        let first = ask(&chain, named("a")).await.unwrap();
        let request = Request { connection: first, ..Request::default() };
        chain.start().close(&Cx::within(Duration::from_secs(1)), request).await.unwrap();
        let second = ask(&chain, named("b")).await.unwrap();
        assert_eq!(ip(&second).dst_ip_addrs, ["10.0.0.0/32"]);
    }
}

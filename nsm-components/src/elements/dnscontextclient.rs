//! `dnscontext` of clients: gathers the DNS servers that all connections of a process brought
//! (protocol §4.5).

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{
    api::connectioncontext::DnsConfig,
    chain::{Cx, Element, Next, Reply, Request, Result},
};

/// What all connections of a process brought, each configuration once. Clones share it.
#[derive(Clone, Debug)]
pub struct DnsConfigs {
    by_connection: Arc<Mutex<BTreeMap<String, Vec<DnsConfig>>>>,
    all: Arc<watch::Sender<Vec<DnsConfig>>>,
}

/// See the module. One for each connection, all with the same configurations.
#[derive(Clone, Debug)]
pub struct DnsContextClient {
    configs: DnsConfigs,
}

impl Default for DnsConfigs {
    fn default() -> Self {
        Self { by_connection: Arc::default(), all: Arc::new(watch::Sender::new(Vec::new())) }
    }
}

impl DnsConfigs {
    /// All of them now, and every change.
    pub fn subscribe(&self) -> watch::Receiver<Vec<DnsConfig>> {
        self.all.subscribe()
    }

    fn set(&self, connection: &str, configs: Vec<DnsConfig>) {
        let mut by_connection = self.by_connection.lock();
        if configs.is_empty() {
            by_connection.remove(connection);
        } else {
            by_connection.insert(connection.to_owned(), configs);
        }
        let mut all: Vec<DnsConfig> = Vec::new();
        for config in by_connection.values().flatten() {
            if !all.contains(config) {
                all.push(config.clone());
            }
        }
        self.all.send_if_modified(|known| {
            let changed = *known != all;
            *known = all;
            changed
        });
    }
}

impl DnsContextClient {
    /// Gathers them here.
    pub fn new(configs: DnsConfigs) -> Self {
        Self { configs }
    }
}

#[async_trait]
impl Element for DnsContextClient {
    fn name(&self) -> &'static str {
        "dnscontext"
    }

    async fn request(&self, cx: &Cx, request: Request, next: Next<'_>) -> Result<Reply> {
        let id = request.connection.origin_id().to_owned();
        let reply = next.request(cx, request).await?;
        let context = reply.connection.context.as_ref().and_then(|context| context.dns_context.as_ref());
        self.configs.set(&id, context.map(|context| context.configs.clone()).unwrap_or_default());
        Ok(reply)
    }

    async fn close(&self, cx: &Cx, request: Request, next: Next<'_>) -> Result<()> {
        self.configs.set(request.connection.origin_id(), Vec::new());
        next.close(cx, request).await
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{api::Connection, chain::Chain};

    #[tokio::test]
    async fn configurations_come_and_go_with_their_connections_and_a_refresh_changes_nothing() {
        let configs = DnsConfigs::default();
        let mut changes = configs.subscribe();
        let chain = Chain::new([Arc::new(DnsContextClient::new(configs)) as Arc<dyn Element>]);
        let cx = Cx::within(Duration::from_secs(1));
        let config = |ip: &str| DnsConfig { dns_server_ips: vec![ip.into()], ..DnsConfig::default() };
        let request = |id: &str, ips: &[&str]| {
            let mut connection = Connection { id: id.into(), ..Connection::default() };
            let context = connection.context.get_or_insert_default().dns_context.get_or_insert_default();
            context.configs = ips.iter().map(|ip| config(ip)).collect();
            Request { connection, ..Request::default() }
        };
        chain.start().request(&cx, request("a", &["10.0.0.1", "10.0.0.2"])).await.unwrap();
        chain.start().request(&cx, request("b", &["10.0.0.2"])).await.unwrap();
        assert_eq!(*changes.borrow_and_update(), [config("10.0.0.1"), config("10.0.0.2")]);
        chain.start().request(&cx, request("b", &["10.0.0.2"])).await.unwrap();
        assert!(!changes.has_changed().unwrap());
        chain.start().close(&cx, request("a", &[])).await.unwrap();
        assert_eq!(*changes.borrow_and_update(), [config("10.0.0.2")]);
        chain.start().close(&cx, request("b", &[])).await.unwrap();
        assert_eq!(*changes.borrow_and_update(), []);
    }
}

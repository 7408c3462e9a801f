//! `dnscontext`: hands the endpoint's DNS servers to its clients (protocol §4.5).

use async_trait::async_trait;

use crate::{
    api::connectioncontext::DnsConfig,
    chain::{Cx, Element, Next, Reply, Request, Result},
};

/// Adds these configurations to those a connection has, each once.
#[derive(Debug)]
pub struct DnsContextServer {
    configs: Vec<DnsConfig>,
}

impl DnsContextServer {
    /// Hands these out.
    pub fn new(configs: Vec<DnsConfig>) -> Self {
        Self { configs }
    }
}

#[async_trait]
impl Element for DnsContextServer {
    fn name(&self) -> &'static str {
        "dnscontext"
    }

    async fn request(&self, cx: &Cx, mut request: Request, next: Next<'_>) -> Result<Reply> {
        if !self.configs.is_empty() {
            let context = request.connection.context.get_or_insert_default();
            let has = &mut context.dns_context.get_or_insert_default().configs;
            for config in &self.configs {
                if !has.contains(config) {
                    has.push(config.clone());
                }
            }
        }
        next.request(cx, request).await
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::*;
    use crate::chain::Chain;

    #[tokio::test]
    async fn every_configuration_is_added_once_however_often_it_is_asked_for() {
        let config = |ip: &str| DnsConfig { dns_server_ips: vec![ip.into()], ..DnsConfig::default() };
        let element = DnsContextServer::new(vec![config("10.0.0.1"), config("10.0.0.2")]);
        let chain = Chain::new([Arc::new(element) as Arc<dyn Element>]);
        let cx = Cx::within(Duration::from_secs(1));
        let mut request = Request::default();
        let context = request.connection.context.get_or_insert_default();
        context.dns_context.get_or_insert_default().configs.push(config("10.0.0.9"));
        for _ in 0..2 {
            let reply = chain.start().request(&cx, request).await.unwrap();
            request = Request { connection: reply.connection, ..Request::default() };
        }
        let configs = request.connection.context.unwrap().dns_context.unwrap().configs;
        assert_eq!(configs, ["10.0.0.9", "10.0.0.1", "10.0.0.2"].map(config));
    }
}

//! `clientinfo`: labels that say where an endpoint runs, for each service that it serves (protocol §4.2).
//! A label that is there stays.

use async_trait::async_trait;

use crate::{
    api::registry::NetworkServiceEndpoint,
    chain::{RegistryCx, RegistryElement, RegistryNext, Result},
    elements::ClientInfo,
};

#[async_trait]
impl RegistryElement<NetworkServiceEndpoint> for ClientInfo {
    fn name(&self) -> &'static str {
        "clientinfo"
    }

    async fn register(
        &self,
        cx: &RegistryCx,
        mut entry: NetworkServiceEndpoint,
        next: RegistryNext<'_, NetworkServiceEndpoint>,
    ) -> Result<NetworkServiceEndpoint> {
        if !self.is_empty() {
            for service in &entry.network_service_names {
                let labels = entry.network_service_labels.entry(service.clone()).or_default();
                self.complete(&mut labels.labels);
            }
        }
        next.register(cx, entry).await
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::*;
    use crate::{api::registry::NetworkServiceLabels, chain::RegistryChain};

    #[tokio::test]
    async fn each_service_of_an_endpoint_says_where_it_runs_unless_it_does_already() {
        let labels = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        let element = ClientInfo::new(labels(&[("nodeName", "node-1"), ("podName", "nsmgr")]));
        let chain = RegistryChain::new([Arc::new(element) as Arc<dyn RegistryElement<_>>]);
        let own = NetworkServiceLabels { labels: labels(&[("podName", "nse")]) };
        let entry = NetworkServiceEndpoint {
            network_service_names: vec!["finance".into(), "weather".into()],
            network_service_labels: [("finance".to_owned(), own)].into(),
            ..Default::default()
        };
        let cx = RegistryCx::within(Duration::from_secs(1));
        let stored = chain.start().register(&cx, entry).await.unwrap().network_service_labels;
        assert_eq!(stored["finance"].labels, labels(&[("nodeName", "node-1"), ("podName", "nse")]));
        assert_eq!(stored["weather"].labels, labels(&[("nodeName", "node-1"), ("podName", "nsmgr")]));
    }
}

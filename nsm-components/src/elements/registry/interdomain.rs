//! `interdomain`: names of other domains, `name@domain`, are the proxy registry's affair (protocol
//! §4.8).

use async_trait::async_trait;

use super::{Connect, Wire};
use crate::chain::{
    Entry, Error, Events, Kind, Query, RegistryChain, RegistryCx, RegistryElement, RegistryNext, Result,
};

/// See the module.
#[derive(Clone, Debug)]
pub struct Interdomain {
    proxy: Option<Connect>,
}

/// The name of another domain in an entry: its own, or that of a service it serves.
fn foreign<T: Entry>(entry: &T) -> Option<&str> {
    let names = [entry.name()].into_iter().chain(entry.services().iter().map(String::as_str));
    names.into_iter().find(|name| name.contains('@'))
}

impl Interdomain {
    /// Asks the proxy registry, if there is one.
    pub fn new(proxy: Option<&Connect>) -> Self {
        Self { proxy: proxy.cloned() }
    }

    /// The chain to the proxy registry, for an entry that it is asked about.
    fn proxy<T: Wire>(&self, entry: &T) -> Result<Option<RegistryChain<T>>> {
        let Some(name) = foreign(entry) else { return Ok(None) };
        let message = format_args!(
            "{} {name} is of another domain, and this registry knows none: set NSM_PROXY_REGISTRY_URL",
            T::WHAT
        );
        let proxy = self.proxy.clone().ok_or_else(|| Error::new(Kind::Invalid, message))?;
        Ok(Some(RegistryChain::new([std::sync::Arc::new(proxy) as _])))
    }
}

#[async_trait]
impl<T: Wire> RegistryElement<T> for Interdomain {
    fn name(&self) -> &'static str {
        "interdomain"
    }

    async fn register(&self, cx: &RegistryCx, entry: T, next: RegistryNext<'_, T>) -> Result<T> {
        match self.proxy(&entry)? {
            Some(proxy) => proxy.start().register(cx, entry).await,
            None => next.register(cx, entry).await,
        }
    }

    async fn unregister(&self, cx: &RegistryCx, entry: T, next: RegistryNext<'_, T>) -> Result<()> {
        match self.proxy(&entry)? {
            Some(proxy) => proxy.start().unregister(cx, entry).await,
            None => next.unregister(cx, entry).await,
        }
    }

    async fn find(&self, cx: &RegistryCx, query: Query<T>, next: RegistryNext<'_, T>) -> Result<Events<T>> {
        match self.proxy(&query.like)? {
            Some(proxy) => proxy.start().find(cx, query).await,
            None => next.find(cx, query).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use futures::StreamExt;
    use tokio_util::sync::CancellationToken;
    use tonic::transport::Server;

    use super::*;
    use crate::{
        api::registry::{
            NetworkService, NetworkServiceEndpoint,
            network_service_endpoint_registry_server::NetworkServiceEndpointRegistryServer,
        },
        elements::registry::{RegistryService, Store},
        settings::Target,
        transport::{Channels, Listener, testing::source},
    };

    const LIFE: Duration = Duration::from_mins(1);

    type Endpoints = RegistryChain<NetworkServiceEndpoint>;

    fn endpoint(name: &str, service: &str) -> NetworkServiceEndpoint {
        let network_service_names = vec![service.to_owned()];
        NetworkServiceEndpoint { name: name.into(), network_service_names, ..Default::default() }
    }

    async fn count(chain: &Endpoints, service: &str) -> usize {
        let query = Query::once(endpoint("", service));
        chain.start().find(&RegistryCx::within(LIFE), query).await.unwrap().count().await
    }

    #[tokio::test]
    async fn without_a_proxy_registry_names_of_other_domains_are_refused_and_say_what_to_set() {
        let chain = Endpoints::new([Arc::new(Interdomain::new(None)) as _, Store::in_memory() as _]);
        let cx = RegistryCx::within(LIFE);
        for entry in [endpoint("a@other", "finance"), endpoint("a", "finance@other")] {
            let refused = chain.start().register(&cx, entry.clone()).await.unwrap_err();
            assert_eq!(refused.kind, Kind::Invalid);
            assert!(refused.message.contains("@other") && refused.message.contains("NSM_PROXY_REGISTRY_URL"));
            assert!(chain.start().unregister(&cx, entry.clone()).await.is_err());
            assert!(chain.start().find(&cx, Query::once(entry)).await.is_err());
        }
        let services: RegistryChain<NetworkService> =
            RegistryChain::new([Arc::new(Interdomain::new(None)) as _, Store::in_memory() as _]);
        let service = NetworkService { name: "finance@other".into(), ..Default::default() };
        assert!(services.start().register(&cx, service).await.is_err());
        chain.start().register(&cx, endpoint("a", "finance")).await.unwrap();
    }

    #[tokio::test]
    async fn the_proxy_registry_gets_names_of_other_domains_and_no_others() {
        let (folder, source, stop) = (tempfile::tempdir().unwrap(), source(), CancellationToken::new());
        let _stop = stop.clone().drop_guard();
        let target = Target::Unix(folder.path().join("proxy.sock"));
        let there = Endpoints::new([Store::in_memory() as _]);
        let none = RegistryChain::new([]);
        let service = RegistryService::new(none, there.clone(), LIFE, stop.clone());
        let router = Server::builder().add_service(NetworkServiceEndpointRegistryServer::new(service));
        tokio::spawn(Listener::bind(&target).unwrap().serve(router, source.clone(), stop));
        let proxy = Connect::new(Channels::new(source, LIFE), target.into(), LIFE);
        let chain = Endpoints::new([
            Arc::new(Interdomain::new(Some(&proxy))) as Arc<dyn RegistryElement<_>>,
            Store::in_memory(),
        ]);
        let cx = RegistryCx::within(LIFE);
        chain.start().register(&cx, endpoint("a", "finance@other")).await.unwrap();
        chain.start().register(&cx, endpoint("b", "finance")).await.unwrap();
        assert_eq!((count(&chain, "finance@other").await, count(&chain, "finance").await), (1, 1));
        assert_eq!((count(&there, "finance@other").await, count(&there, "finance").await), (1, 0));
        chain.start().unregister(&cx, endpoint("a", "finance@other")).await.unwrap();
        assert_eq!(count(&there, "finance@other").await, 0);
    }
}

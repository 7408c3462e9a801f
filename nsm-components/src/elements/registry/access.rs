//! `access`: who may register which endpoints at the registry. Upstream takes them from everybody.
//!
//! * Endpoints are registered by nsmgrs, under the URL by which they are reached through them: whoever
//!   else did would draw Requests of the whole mesh to an address of its choice.
//! * Forwarders are processes of the mesh.
//! * A network service may name who may serve it.

use async_trait::async_trait;
use futures::StreamExt;

use crate::{
    api::{
        access::Use,
        names::FORWARDER_SERVICE,
        registry::{NetworkService, NetworkServiceEndpoint},
        trust::Trust,
    },
    chain::{Entry, Error, Kind, Query, RegistryChain, RegistryCx, RegistryElement, RegistryNext, Result},
};

/// See the module.
pub struct Access {
    services: RegistryChain<NetworkService>,
    trust: Trust,
    domain: String,
}

impl Access {
    /// Looks network services up in `services`; who is trusted is a process of the mesh, whose trust
    /// domain is `domain`.
    pub fn new(services: RegistryChain<NetworkService>, trust: Trust, domain: &str) -> Self {
        Self { services, trust, domain: domain.to_owned() }
    }

    async fn check(&self, cx: &RegistryCx, entry: &NetworkServiceEndpoint) -> Result<()> {
        let Some(caller) = &cx.caller else { return Ok(()) };
        let (id, name) = (&caller.peer.id, &entry.name);
        if !self.trust.trusts(id) {
            let message =
                format_args!("{id} is no nsmgr: endpoint {name} is to be registered through its node's");
            return Err(Error::new(Kind::Denied, message));
        }
        let owner = entry.owner();
        for service in entry.services() {
            if service == FORWARDER_SERVICE && !self.trust.trusts(owner) {
                let message =
                    format_args!("{name} of {owner} is no process of the mesh and may not offer {service}");
                return Err(Error::new(Kind::Denied, message));
            }
            let like = NetworkService { name: service.clone(), ..Default::default() };
            let mut found = self.services.start().find(cx, Query::once(like)).await?;
            while let Some(event) = found.next().await {
                let allowed = event?.entry.allows(Use::Serve, owner, &self.domain);
                allowed.map_err(|refusal| Error::caused(Kind::Denied, &refusal))?;
            }
        }
        Ok(())
    }
}

#[async_trait]
impl RegistryElement<NetworkServiceEndpoint> for Access {
    fn name(&self) -> &'static str {
        "access"
    }

    async fn register(
        &self,
        cx: &RegistryCx,
        entry: NetworkServiceEndpoint,
        next: RegistryNext<'_, NetworkServiceEndpoint>,
    ) -> Result<NetworkServiceEndpoint> {
        self.check(cx, &entry).await?;
        next.register(cx, entry).await
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::*;
    use crate::{
        api::{peer::Peer, registry::AccessRules},
        chain::Caller,
        elements::registry::Store,
    };

    const NSMGR: &str = "spiffe://d/ns/nsm-system/sa/nsmgr/node/n1";
    const FORWARDER: &str = "spiffe://d/ns/nsm-system/sa/forwarder/node/n1";
    const FRIEND: &str = "spiffe://d/ns/friends/sa/default/pod/a";
    const STRANGER: &str = "spiffe://d/ns/other/sa/default/pod/b";

    async fn register(trust: &[&str], caller: &str, owner: &str, services: &[&str]) -> Result<()> {
        let known = RegistryChain::new([Store::in_memory() as _]);
        let rules = AccessRules { clients: Vec::new(), endpoints: vec!["ns/friends".into()] };
        let finance = NetworkService { name: "finance".into(), access: Some(rules), ..Default::default() };
        known.start().register(&RegistryCx::within(Duration::from_secs(5)), finance).await.unwrap();
        let trust: Vec<_> = trust.iter().map(|id| (*id).to_owned()).collect();
        let access = Access::new(known, Trust::new(&trust, NSMGR), "d");
        let chain = RegistryChain::new([Arc::new(access) as Arc<dyn RegistryElement<_>>]);
        let peer = Peer { id: caller.into(), public_key: Vec::new(), not_after: 0 };
        let caller = Caller::test(peer);
        let cx = RegistryCx { caller: Some(Arc::new(caller)), ..RegistryCx::within(Duration::from_secs(5)) };
        let entry = NetworkServiceEndpoint {
            name: "nse".into(),
            network_service_names: services.iter().map(|service| (*service).to_owned()).collect(),
            url: "tcp://10.0.0.9:1".into(),
            path_ids: vec![owner.into()],
            ..Default::default()
        };
        chain.start().register(&cx, entry).await.map(drop)
    }

    fn refused(result: Result<()>, why: &str) {
        let error = result.unwrap_err();
        assert_eq!(error.kind, Kind::Denied);
        assert!(error.message.contains(why), "{why} in {error}");
    }

    #[tokio::test]
    async fn endpoints_are_registered_through_nsmgrs_and_forwarders_are_of_the_mesh() {
        register(&[], NSMGR, STRANGER, &["news"]).await.unwrap();
        refused(register(&[], STRANGER, STRANGER, &["news"]).await, "is no nsmgr");
        register(&[], NSMGR, FORWARDER, &["forwarder"]).await.unwrap();
        refused(register(&[], NSMGR, STRANGER, &["news", "forwarder"]).await, "may not offer forwarder");
        // Upstream's openness.
        register(&["*"], STRANGER, STRANGER, &["news", "forwarder"]).await.unwrap();
    }

    #[tokio::test]
    async fn a_service_that_names_its_endpoints_is_served_by_no_other() {
        register(&[], NSMGR, FRIEND, &["news", "finance"]).await.unwrap();
        let by_stranger = register(&[], NSMGR, STRANGER, &["news", "finance"]).await;
        refused(by_stranger, "may not serve network service finance: it allows ns/friends");
        // The service's own word, which no setting takes back.
        refused(register(&["*"], NSMGR, STRANGER, &["finance"]).await, "may not serve");
    }
}

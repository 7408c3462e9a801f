//! `access`: a network service may name who may connect to it; the others are refused.
//!
//! It stands before the session: who is refused leaves nothing. A connection that stands already ends
//! with its life when its client is struck off the list, and a Close is taken from everybody.

use async_trait::async_trait;

use super::Index;
use crate::{
    api::{Connection, trust::Trust},
    chain::{Cx, Element, Next, Reply, Request, Result},
    transport::token,
};

/// See the module.
pub struct Access {
    index: Index,
    trust: Trust,
}

impl Access {
    /// Looks services up in this index; who is trusted passes Requests of others on.
    pub fn new(index: Index, trust: Trust) -> Self {
        Self { index, trust }
    }
}

/// Who asks for a connection: the last one on the way here that is no process of the mesh, for an
/// endpoint that passes its client's Request on speaks for itself. `before` is how many segments
/// count. What strangers say of those before them does not count.
pub(super) fn client(trust: &Trust, caller: &str, connection: &Connection, before: usize) -> String {
    if !trust.trusts(caller) {
        return caller.to_owned();
    }
    let ids = || {
        let before = connection.segments().iter().take(before).rev();
        before.filter_map(|segment| token::read(&segment.token).ok()).map(|claims| claims.sub)
    };
    ids().find(|id| !trust.trusts(id)).or_else(|| ids().next_back()).unwrap_or_else(|| caller.to_owned())
}

#[async_trait]
impl Element for Access {
    fn name(&self) -> &'static str {
        "access"
    }

    async fn request(&self, cx: &Cx, request: Request, next: Next<'_>) -> Result<Reply> {
        if let Some(caller) = &cx.caller {
            // `authorize` has seen that the tokens hold.
            let before = request.connection.path.as_ref().map_or(0, |path| path.index as usize);
            let client = client(&self.trust, &caller.peer.id, &request.connection, before);
            self.index.allows(&client, &request.connection.network_service, cx.deadline).await?;
        }
        next.request(cx, request).await
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use jsonwebtoken::{Algorithm, EncodingKey, Header};

    use super::*;
    use crate::{
        api::{
            Path, PathSegment,
            peer::Peer,
            registry::{AccessRules, NetworkService},
        },
        chain::{Caller, Chain, Kind, RegistryChain, RegistryCx, SystemClock},
        elements::registry::Store,
        transport::token::Claims,
    };

    const NSMGR: &str = "spiffe://d/ns/nsm-system/sa/nsmgr/node/n1";
    const FORWARDER: &str = "spiffe://d/ns/nsm-system/sa/forwarder/node/n1";
    const FRIEND: &str = "spiffe://d/ns/friends/sa/default/pod/a";
    const STRANGER: &str = "spiffe://d/ns/other/sa/default/pod/b";

    fn token(sub: &&str) -> PathSegment {
        let key = rcgen::KeyPair::generate().unwrap();
        let claims = Claims { sub: (*sub).into(), aud: Vec::new(), exp: i64::MAX };
        let key = EncodingKey::from_ec_der(&key.serialize_der());
        let token = jsonwebtoken::encode(&Header::new(Algorithm::ES256), &claims, &key).unwrap();
        PathSegment { token, ..Default::default() }
    }

    /// A Request that took this way, the last of which called an nsmgr.
    async fn request(service: &str, way: &[&str]) -> Result<()> {
        let services = RegistryChain::new([Store::in_memory() as _]);
        let rules = AccessRules { clients: vec!["ns/friends".into()], endpoints: Vec::new() };
        let finance = NetworkService { name: "finance".into(), access: Some(rules), ..Default::default() };
        services.start().register(&RegistryCx::within(Duration::from_secs(5)), finance).await.unwrap();
        let endpoints = RegistryChain::new([Store::in_memory() as _]);
        let index = Index::new(services, endpoints, Arc::new(SystemClock), "d");
        let chain = Chain::new([Arc::new(Access::new(index, Trust::new(&[], NSMGR))) as Arc<dyn Element>]);
        let index = u32::try_from(way.len()).unwrap();
        let segments = way.iter().chain([&NSMGR]).map(token).collect();
        let connection = Connection {
            network_service: service.into(),
            path: Some(Path { index, path_segments: segments }),
            ..Connection::default()
        };
        let peer = Peer { id: (*way.last().unwrap()).into(), public_key: Vec::new(), not_after: 0 };
        let caller = Caller::test(peer);
        let cx = Cx { caller: Some(Arc::new(caller)), ..Cx::within(Duration::from_secs(5)) };
        chain.start().request(&cx, Request { connection, ..Request::default() }).await.map(drop)
    }

    #[tokio::test]
    async fn a_service_that_names_its_clients_refuses_the_others_with_the_list() {
        request("finance", &[FRIEND]).await.unwrap();
        let refused = request("finance", &[STRANGER]).await.unwrap_err();
        assert_eq!(refused.kind, Kind::Denied);
        for part in [STRANGER, "connect to network service finance", "ns/friends"] {
            assert!(refused.message.contains(part), "{refused}");
        }
        request("unheard-of", &[STRANGER]).await.unwrap();
    }

    #[tokio::test]
    async fn on_the_second_node_it_is_the_client_that_counts_and_not_who_passes_it_on() {
        request("finance", &[FRIEND, NSMGR, FORWARDER]).await.unwrap();
        assert_eq!(request("finance", &[STRANGER, NSMGR, FORWARDER]).await.unwrap_err().kind, Kind::Denied);
    }

    #[tokio::test]
    async fn an_endpoint_that_passes_a_request_on_does_not_borrow_its_clients_name() {
        let refused = request("finance", &[FRIEND, NSMGR, FORWARDER, STRANGER]).await.unwrap_err();
        assert!(refused.message.starts_with(STRANGER), "{refused}");
        let refused = request("finance", &[FRIEND, NSMGR, STRANGER, NSMGR, FORWARDER]).await.unwrap_err();
        assert!(refused.message.starts_with(STRANGER), "{refused}");
    }
}

//! `updatepath`: makes the process's own segment the current one (protocol §2.2).
//!
//! The own id of a connection is made from the segment before, and from who really called where
//! that is no process of the mesh: so a connection is its owner's alone, and a client that lost its
//! path finds it again. Into the own segment it writes the process's feature level.

use async_trait::async_trait;
use uuid::Uuid;

use crate::{
    api::{PathSegment, feature, path, trust::Trust},
    chain::{Cx, Element, Error, Kind, Next, Reply, Request, Result},
};

/// See the module.
#[derive(Debug)]
pub struct UpdatePath {
    name: String,
    trust: Trust,
}

impl UpdatePath {
    /// For the process of this name; who is trusted vouches for the segments before its own.
    pub fn new(name: &str, trust: Trust) -> Self {
        Self { name: name.to_owned(), trust }
    }

    fn id(&self, cx: &Cx, before: Option<&PathSegment>) -> String {
        let Some(before) = before else { return Uuid::new_v4().to_string() };
        let caller = cx.caller.as_ref().map_or("", |caller| caller.peer.id.as_str());
        let caller = if self.trust.trusts(caller) { "" } else { caller };
        // A separator that no part can hold keeps the parts apart.
        let seed = [self.name.as_str(), &before.name, &before.id, caller].join("\0");
        Uuid::new_v5(&Uuid::NAMESPACE_OID, seed.as_bytes()).to_string()
    }

    fn advance(&self, cx: &Cx, request: &mut Request) -> Result<path::Restore> {
        path::advance(&mut request.connection, &self.name, cx.caller.is_some(), |before| self.id(cx, before))
            .map_err(|error| Error::caused(Kind::Invalid, &error))
    }
}

#[async_trait]
impl Element for UpdatePath {
    fn name(&self) -> &'static str {
        "updatepath"
    }

    async fn request(&self, cx: &Cx, mut request: Request, next: Next<'_>) -> Result<Reply> {
        let index = self.advance(cx, &mut request)?;
        request.connection.segment_mut(0).map(feature::note);
        let mut reply = next.request(cx, request).await?;
        path::restore(&mut reply.connection, index);
        Ok(reply)
    }

    async fn close(&self, cx: &Cx, mut request: Request, next: Next<'_>) -> Result<()> {
        self.advance(cx, &mut request)?;
        next.close(cx, request).await
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::*;
    use crate::{api::peer::Peer, chain::Caller};

    fn id(caller: &str) -> String {
        let element = UpdatePath::new("nsmgr", Trust::Prefixes(vec!["spiffe://d/mesh/".into()]));
        let peer = Peer { id: caller.into(), public_key: Vec::new(), not_after: 0 };
        let caller = Caller::test(peer);
        let cx = Cx { caller: Some(Arc::new(caller)), ..Cx::within(Duration::ZERO) };
        let before = PathSegment { name: "nsc".into(), id: "nsc-0".into(), ..Default::default() };
        element.id(&cx, Some(&before))
    }

    #[test]
    fn two_pods_that_say_the_same_of_themselves_have_two_connections() {
        assert_eq!(id("spiffe://d/pod/a"), id("spiffe://d/pod/a"));
        assert_ne!(id("spiffe://d/pod/a"), id("spiffe://d/pod/b"));
    }

    /// The last step of a chain: the path as the next process would get it.
    async fn passed_on(before: PathSegment) -> Vec<PathSegment> {
        use crate::{
            api::{Connection, Path},
            chain::Chain,
        };
        let element = UpdatePath::new("nsmgr", Trust::Everybody);
        let path = Some(Path { index: 0, path_segments: vec![before] });
        let connection = Connection { id: "nsc-0".into(), path, ..Connection::default() };
        let request = Request { connection, ..Request::default() };
        let peer = Peer { id: "spiffe://d/a".into(), public_key: Vec::new(), not_after: 0 };
        let cx = Cx { caller: Some(Arc::new(Caller::test(peer))), ..Cx::within(Duration::from_secs(1)) };
        let reply = Chain::new([Arc::new(element) as Arc<dyn Element>]).start().request(&cx, request).await;
        reply.unwrap().connection.segments().to_vec()
    }

    #[tokio::test]
    async fn a_process_tells_its_own_level_and_lets_stand_what_others_tell_or_do_not() {
        let upstream = PathSegment { name: "nsc".into(), id: "nsc-0".into(), ..PathSegment::default() };
        let mut newer = upstream.clone();
        newer.metrics.insert(feature::FEATURE_LEVEL.into(), "9".into());
        for (before, level) in [(upstream, 0), (newer, 9)] {
            let path = passed_on(before.clone()).await;
            assert_eq!((&path[0], feature::level_of(&path[0])), (&before, level));
            assert_eq!(feature::level_of(&path[1]), feature::LEVEL);
        }
    }

    #[test]
    fn a_process_of_the_mesh_that_got_another_identity_still_means_the_same_connection() {
        assert_eq!(id("spiffe://d/mesh/nsmgr-1"), id("spiffe://d/mesh/nsmgr-2"));
    }
}

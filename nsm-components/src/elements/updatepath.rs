//! `updatepath`: makes the process's own segment the current one (protocol §2.2).
//!
//! The own id of a connection is made from the segment before, and from who really called where
//! that is no process of the mesh: so a connection is its owner's alone, and a client that lost its
//! path finds it again.

use async_trait::async_trait;
use uuid::Uuid;

use crate::{
    api::{PathSegment, path, trust::Trust},
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

    #[test]
    fn a_process_of_the_mesh_that_got_another_identity_still_means_the_same_connection() {
        assert_eq!(id("spiffe://d/mesh/nsmgr-1"), id("spiffe://d/mesh/nsmgr-2"));
    }
}

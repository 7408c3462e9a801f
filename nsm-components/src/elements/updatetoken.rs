//! `updatetoken`: the caller's token into its segment, the own one into ours (protocol §2.3).
//!
//! The own one is made only where the path ends: the next process replaces it by the token that this
//! one brings it, and a signature costs more than all else here.

use async_trait::async_trait;
use prost_types::Timestamp;

use crate::{
    api::Connection,
    chain::{Cx, Element, Next, Reply, Request, Result},
    transport::token,
};

/// See the module.
#[derive(Debug)]
pub struct UpdateToken;

fn end(seconds: i64) -> Timestamp {
    Timestamp { seconds, nanos: 0 }
}

fn update(cx: &Cx, connection: &mut Connection) {
    let Some(caller) = &cx.caller else { return };
    if let (Some((token, given)), Some(segment)) = (&caller.token, connection.segment_mut(-1)) {
        segment.token = token.to_string();
        // The end of life is the token's own; the caller's word can only shorten it.
        let own = token::read(token).map_or(*given, |claims| claims.exp);
        segment.expires = Some(end((*given).min(own)));
    }
    // What stands here is of the last Request.
    if let Some(segment) = connection.segment_mut(0) {
        segment.token.clear();
        segment.expires = None;
    }
}

fn complete(cx: &Cx, connection: &mut Connection) -> Result<()> {
    if let (Some(caller), Some(segment)) = (&cx.caller, connection.segment_mut(0))
        && segment.token.is_empty()
    {
        let (token, expires) = caller.link.own_token()?;
        segment.token = token.to_string();
        segment.expires = Some(end(expires));
    }
    Ok(())
}

#[async_trait]
impl Element for UpdateToken {
    fn name(&self) -> &'static str {
        "updatetoken"
    }

    async fn request(&self, cx: &Cx, mut request: Request, next: Next<'_>) -> Result<Reply> {
        update(cx, &mut request.connection);
        let mut reply = next.request(cx, request).await?;
        complete(cx, &mut reply.connection)?;
        Ok(reply)
    }

    async fn close(&self, cx: &Cx, mut request: Request, next: Next<'_>) -> Result<()> {
        update(cx, &mut request.connection);
        next.close(cx, request).await
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::*;
    use crate::{
        api::{Path, PathSegment, peer::Peer},
        chain::{Caller, Chain, Link},
    };

    /// Signs; nothing else is asked of it.
    #[derive(Debug)]
    struct Signer;

    impl Link for Signer {
        fn own_id(&self) -> &'static str {
            "own"
        }

        fn own_token(&self) -> Result<(Arc<str>, i64)> {
            Ok(("own token".into(), 60))
        }

        fn is_signed(&self, _: &str) -> bool {
            true
        }

        fn certificate(&self) -> &[u8] {
            &[]
        }
    }

    /// The next process, which puts what it was brought into this one's segment.
    struct NextProcess;

    #[async_trait]
    impl Element for NextProcess {
        fn name(&self) -> &'static str {
            "next"
        }

        async fn request(&self, cx: &Cx, mut request: Request, next: Next<'_>) -> Result<Reply> {
            let segment = request.connection.segment_mut(0).unwrap();
            assert!(segment.token.is_empty(), "{}", segment.token);
            segment.token = "brought".into();
            next.request(cx, request).await
        }
    }

    async fn tokens(rest: Vec<Arc<dyn Element>>) -> Vec<String> {
        let peer = Peer { id: "nsc".into(), public_key: Vec::new(), not_after: 0 };
        let token = Some(("of the caller".into(), 60));
        let caller = Caller { token, link: Arc::new(Signer), ..Caller::test(peer) };
        let cx = Cx { caller: Some(Arc::new(caller)), ..Cx::within(Duration::from_secs(1)) };
        let old = PathSegment { token: "old".into(), ..PathSegment::default() };
        let path = Path { index: 1, path_segments: vec![old.clone(), old] };
        let connection = Connection { path: Some(path), ..Connection::default() };
        let chain = Chain::new([Arc::new(UpdateToken) as Arc<dyn Element>].into_iter().chain(rest));
        let reply = chain.start().request(&cx, Request { connection, ..Request::default() }).await.unwrap();
        reply.connection.segments().iter().map(|segment| segment.token.clone()).collect()
    }

    #[tokio::test]
    async fn the_own_token_is_made_where_the_path_ends_and_is_else_the_one_the_next_process_was_brought() {
        assert_eq!(tokens(Vec::new()).await, ["of the caller", "own token"]);
        assert_eq!(tokens(vec![Arc::new(NextProcess)]).await, ["of the caller", "brought"]);
    }
}

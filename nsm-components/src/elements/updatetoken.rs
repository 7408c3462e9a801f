//! `updatetoken`: the caller's token into its segment, the own one into ours (protocol §2.3).

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

fn update(cx: &Cx, connection: &mut Connection) {
    let Some(caller) = &cx.caller else { return };
    let expires = |seconds| Some(Timestamp { seconds, nanos: 0 });
    if let (Some((token, end)), Some(segment)) = (&caller.token, connection.segment_mut(-1)) {
        segment.token = token.to_string();
        // The end of life is the token's own; the caller's word can only shorten it.
        let own = token::read(token).map_or(*end, |claims| claims.exp);
        segment.expires = expires((*end).min(own));
    }
    if let Some(segment) = connection.segment_mut(0) {
        segment.token = caller.own_token.0.to_string();
        segment.expires = expires(caller.own_token.1);
    }
}

#[async_trait]
impl Element for UpdateToken {
    fn name(&self) -> &'static str {
        "updatetoken"
    }

    async fn request(&self, cx: &Cx, mut request: Request, next: Next<'_>) -> Result<Reply> {
        update(cx, &mut request.connection);
        next.request(cx, request).await
    }

    async fn close(&self, cx: &Cx, mut request: Request, next: Next<'_>) -> Result<()> {
        update(cx, &mut request.connection);
        next.close(cx, request).await
    }
}

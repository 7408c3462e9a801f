//! `trimpath`: an endpoint is the end of the path; what stood behind it is stale (protocol §2.4).

use async_trait::async_trait;

use crate::chain::{Cx, Element, Next, Reply, Request, Result};

/// See the module.
#[derive(Debug)]
pub struct TrimPath;

#[async_trait]
impl Element for TrimPath {
    fn name(&self) -> &'static str {
        "trimpath"
    }

    async fn request(&self, cx: &Cx, request: Request, next: Next<'_>) -> Result<Reply> {
        let mut reply = next.request(cx, request).await?;
        if let Some(path) = &mut reply.connection.path {
            path.path_segments.truncate(path.index as usize + 1);
        }
        Ok(reply)
    }
}

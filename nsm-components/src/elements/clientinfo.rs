//! `clientinfo`: labels that say where the client runs (protocol §4.5). A label that is there stays.

use std::collections::BTreeMap;

use async_trait::async_trait;

use crate::chain::{Cx, Element, Next, Reply, Request, Result};

/// See the module.
#[derive(Debug)]
pub struct ClientInfo {
    labels: BTreeMap<String, String>,
}

impl ClientInfo {
    /// Adds these labels.
    pub fn new(labels: BTreeMap<String, String>) -> Self {
        Self { labels }
    }
}

#[async_trait]
impl Element for ClientInfo {
    fn name(&self) -> &'static str {
        "clientinfo"
    }

    async fn request(&self, cx: &Cx, mut request: Request, next: Next<'_>) -> Result<Reply> {
        for (key, value) in &self.labels {
            request.connection.labels.entry(key.clone()).or_insert_with(|| value.clone());
        }
        next.request(cx, request).await
    }
}

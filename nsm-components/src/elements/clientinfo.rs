//! `clientinfo`: labels that say where the client runs (protocol §4.5). A label that is there stays. What
//! it does for endpoints is beside the other elements of registries.

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

    /// Whether there is nothing to add.
    pub(super) fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Adds those that are missing.
    pub(super) fn complete(&self, labels: &mut BTreeMap<String, String>) {
        for (key, value) in &self.labels {
            labels.entry(key.clone()).or_insert_with(|| value.clone());
        }
    }
}

#[async_trait]
impl Element for ClientInfo {
    fn name(&self) -> &'static str {
        "clientinfo"
    }

    async fn request(&self, cx: &Cx, mut request: Request, next: Next<'_>) -> Result<Reply> {
        self.complete(&mut request.connection.labels);
        next.request(cx, request).await
    }
}

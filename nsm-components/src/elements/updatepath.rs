//! `updatepath`: makes the process's own segment the current one (protocol §2.2).

use async_trait::async_trait;

use crate::{
    api::path,
    chain::{Cx, Element, Error, Kind, Next, Reply, Request, Result},
};

/// See the module.
#[derive(Debug)]
pub struct UpdatePath {
    name: String,
}

impl UpdatePath {
    /// For the process of this name.
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned() }
    }

    fn advance(&self, request: &mut Request) -> Result<path::Restore> {
        path::advance(&mut request.connection, &self.name, || uuid::Uuid::new_v4().to_string())
            .map_err(|error| Error::caused(Kind::Invalid, &error))
    }
}

#[async_trait]
impl Element for UpdatePath {
    fn name(&self) -> &'static str {
        "updatepath"
    }

    async fn request(&self, cx: &Cx, mut request: Request, next: Next<'_>) -> Result<Reply> {
        let index = self.advance(&mut request)?;
        let mut reply = next.request(cx, request).await?;
        path::restore(&mut reply.connection, index);
        Ok(reply)
    }

    async fn close(&self, cx: &Cx, mut request: Request, next: Next<'_>) -> Result<()> {
        self.advance(&mut request)?;
        next.close(cx, request).await
    }
}

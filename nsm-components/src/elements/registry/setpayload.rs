//! `setpayload`: a network service that names no payload carries IP (protocol §4.4).

use async_trait::async_trait;

use crate::{
    api::registry::NetworkService,
    chain::{RegistryCx, RegistryElement, RegistryNext, Result},
};

/// See the module.
#[derive(Debug)]
pub struct SetPayload;

#[async_trait]
impl RegistryElement<NetworkService> for SetPayload {
    fn name(&self) -> &'static str {
        "setpayload"
    }

    async fn register(
        &self,
        cx: &RegistryCx,
        mut entry: NetworkService,
        next: RegistryNext<'_, NetworkService>,
    ) -> Result<NetworkService> {
        if entry.payload.is_empty() {
            "IP".clone_into(&mut entry.payload);
        }
        next.register(cx, entry).await
    }
}

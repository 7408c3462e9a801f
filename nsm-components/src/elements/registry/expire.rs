//! `expire`: a registration lives as long as the token that made it (protocol §4.7).

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use prost_types::Timestamp;
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use crate::{
    api::registry::NetworkServiceEndpoint,
    chain::{Clock, RegistryChain, RegistryCx, RegistryElement, RegistryNext, Result},
};

/// Limit of taking an expired entry back.
const UNREGISTER: Duration = Duration::from_secs(10);

type Timers = Mutex<HashMap<String, AbortOnDropHandle<()>>>;

/// See the module. It stands before a chain of its own, which it also calls when time is over.
pub struct Expire {
    rest: RegistryChain<NetworkServiceEndpoint>,
    clock: Clock,
    timers: Arc<Timers>,
}

impl Expire {
    /// Expires what is registered with `rest`.
    pub fn new(rest: RegistryChain<NetworkServiceEndpoint>, clock: Clock) -> Self {
        Self { rest, clock, timers: Arc::default() }
    }

    fn start_timer(&self, entry: NetworkServiceEndpoint, seconds: i64) {
        let (left, rest, name) = (self.clock.until(seconds), self.rest.clone(), entry.name.clone());
        let timers: Weak<Timers> = Arc::downgrade(&self.timers);
        let task = async move {
            tokio::time::sleep(left).await;
            info!(endpoint = %entry.name, "not refreshed in time: unregistering");
            let name = entry.name.clone();
            let done = tokio::time::timeout(UNREGISTER, async {
                rest.start().unregister(&RegistryCx::within(UNREGISTER), entry).await
            });
            if let Ok(Err(error)) = done.await {
                warn!(endpoint = %name, %error, "could not unregister an expired endpoint");
            }
            // Last: it ends this task.
            timers.upgrade().map(|timers| timers.lock().remove(&name));
        };
        self.timers.lock().insert(name, AbortOnDropHandle::new(tokio::spawn(task)));
    }
}

#[async_trait]
impl RegistryElement<NetworkServiceEndpoint> for Expire {
    fn name(&self) -> &'static str {
        "expire"
    }

    async fn register(
        &self,
        cx: &RegistryCx,
        mut entry: NetworkServiceEndpoint,
        _: RegistryNext<'_, NetworkServiceEndpoint>,
    ) -> Result<NetworkServiceEndpoint> {
        let given = entry.expiration_time.map(|time| time.seconds);
        let of_tokens = cx.caller.as_ref().map(|caller| {
            caller.token.as_ref().map_or(caller.own_token.1, |(_, end)| (*end).min(caller.own_token.1))
        });
        let end = given.into_iter().chain(of_tokens).min();
        entry.expiration_time = end.map(|seconds| Timestamp { seconds, nanos: 0 });
        let stored = self.rest.start().register(cx, entry).await?;
        if let Some(time) = stored.expiration_time {
            self.start_timer(stored.clone(), time.seconds);
        }
        Ok(stored)
    }

    async fn unregister(
        &self,
        cx: &RegistryCx,
        entry: NetworkServiceEndpoint,
        _: RegistryNext<'_, NetworkServiceEndpoint>,
    ) -> Result<()> {
        let name = entry.name.clone();
        self.rest.start().unregister(cx, entry).await?;
        self.timers.lock().remove(&name);
        Ok(())
    }

    async fn find(
        &self,
        cx: &RegistryCx,
        query: crate::chain::Query<NetworkServiceEndpoint>,
        _: RegistryNext<'_, NetworkServiceEndpoint>,
    ) -> Result<crate::chain::Events<NetworkServiceEndpoint>> {
        self.rest.start().find(cx, query).await
    }
}

//! `refresh`, `retry` and `heal` of a registration: it is kept while this value is alive
//! (protocol §4.7).

use std::time::Duration;

use futures::StreamExt;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use crate::{
    api::registry::{NetworkService, NetworkServiceEndpoint},
    chain::{Clock, Events, Query, RegistryChain, RegistryCx, Result},
};

/// Limit of one call.
const CALL: Duration = Duration::from_secs(15);

/// Pauses between tries.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// Shortest time between two refreshes: an endpoint whose clock is ahead believes all lives over.
const MIN_INTERVAL: Duration = Duration::from_secs(1);

/// Longest time between two refreshes, whatever life was granted.
const MAX_INTERVAL: Duration = Duration::from_hours(1);

/// Keeps an endpoint, and the services it brings along, registered. Dropping it stops the refresh
/// and takes nothing back.
#[derive(Debug)]
pub struct Registration {
    registered: watch::Receiver<bool>,
    keeper: Keeper,
    task: AbortOnDropHandle<()>,
}

#[derive(Clone)]
struct Keeper {
    services: RegistryChain<NetworkService>,
    endpoints: RegistryChain<NetworkServiceEndpoint>,
    clock: Clock,
    bring: Vec<NetworkService>,
    entry: NetworkServiceEndpoint,
    cx: RegistryCx,
}

impl std::fmt::Debug for Keeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keeper").field("endpoint", &self.entry.name).finish_non_exhaustive()
    }
}

// === impl Registration ===

impl Registration {
    /// Starts to register `entry`, after the services in `bring`.
    pub fn start(
        services: RegistryChain<NetworkService>,
        endpoints: RegistryChain<NetworkServiceEndpoint>,
        clock: Clock,
        bring: Vec<NetworkService>,
        entry: NetworkServiceEndpoint,
    ) -> Self {
        let keeper = Keeper { services, endpoints, clock, bring, entry, cx: RegistryCx::within(CALL) };
        let (sender, registered) = watch::channel(false);
        let task = AbortOnDropHandle::new(tokio::spawn(keeper.clone().keep(sender)));
        Self { registered, keeper, task }
    }

    /// Ends when the registration stands for the first time.
    pub fn registered(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut registered = self.registered.clone();
        async move {
            // The sender goes with the task, and then nobody waits.
            let _ = registered.wait_for(|registered| *registered).await;
        }
    }

    /// Takes the registration back.
    pub async fn unregister(self) -> Result<()> {
        let Self { keeper, task, .. } = self;
        drop(task);
        let cx = keeper.context();
        keeper.endpoints.start().unregister(&cx, keeper.entry.clone()).await
    }
}

// === impl Keeper ===

impl Keeper {
    /// The same path with a fresh deadline: it grows with the first answer and is sent again.
    fn context(&self) -> RegistryCx {
        RegistryCx { path: self.cx.path.clone(), ..RegistryCx::within(CALL) }
    }

    async fn keep(self, registered: watch::Sender<bool>) {
        let mut pause = RETRY.0;
        loop {
            // Opened first: a registry that forgets the entry right after it took it ends the watch.
            let watch = self.watch().await;
            match self.register().await {
                Ok(interval) => {
                    if !registered.send_replace(true) {
                        info!(endpoint = %self.entry.name, "registered");
                    }
                    pause = RETRY.0;
                    until_lost(watch, &self.clock, interval).await;
                }
                Err(error) => {
                    warn!(endpoint = %self.entry.name, %error, "could not register; trying again");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RETRY.1);
                }
            }
        }
    }

    /// Registers everything; answers the time to the next refresh.
    async fn register(&self) -> Result<Duration> {
        for service in &self.bring {
            let cx = RegistryCx::within(CALL);
            // Somebody's service of this name will do: it may have matches we know nothing of.
            let like = NetworkService { name: service.name.clone(), ..Default::default() };
            let mut found = self.services.start().find(&cx, Query::once(like)).await?;
            if found.next().await.transpose()?.is_none() {
                self.services.start().register(&cx, service.clone()).await?;
            }
        }
        // The expiration is the registry's to say each time anew: the old one would only shrink.
        let stored = self.endpoints.start().register(&self.context(), self.entry.clone()).await?;
        let life = stored.expiration_time.map_or(MAX_INTERVAL, |time| self.clock.until(time.seconds));
        Ok((life * 2 / 3).clamp(MIN_INTERVAL, MAX_INTERVAL))
    }

    async fn watch(&self) -> Result<Events<NetworkServiceEndpoint>> {
        let like = NetworkServiceEndpoint {
            name: self.entry.name.clone(),
            network_service_names: self.entry.network_service_names.clone(),
            ..Default::default()
        };
        self.endpoints.start().find(&self.context(), Query::changes(like)).await
    }
}

/// Until it is time to refresh, or the registry loses sight of this process: its stream ends.
async fn until_lost(watch: Result<Events<NetworkServiceEndpoint>>, clock: &Clock, interval: Duration) {
    let lost = async {
        match watch {
            Ok(mut events) => {
                while let Some(Ok(event)) = events.next().await {
                    if event.deleted {
                        break;
                    }
                }
            }
            Err(_) => tokio::time::sleep(RETRY.0).await,
        }
    };
    // A stream that ends at once must not make this a busy loop.
    let pace = tokio::time::sleep(RETRY.0);
    tokio::select! {
        () = lost => pace.await,
        () = clock.wait_until(clock.after(interval)) => {}
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use async_trait::async_trait;
    use futures::stream;
    use tokio::sync::broadcast;

    use super::*;
    use crate::chain::{RegistryElement, RegistryNext, SystemClock};

    /// A registration with a registry that is nothing but this.
    fn keep(registry: Arc<impl RegistryElement<NetworkServiceEndpoint>>) -> Registration {
        Registration::start(
            RegistryChain::new([]),
            RegistryChain::new([registry as _]),
            Arc::new(SystemClock),
            Vec::new(),
            NetworkServiceEndpoint { name: "a".into(), ..NetworkServiceEndpoint::default() },
        )
    }

    /// Loses all watches as it takes the first registration: it is started anew.
    struct Restarted {
        registrations: AtomicUsize,
        ends: broadcast::Sender<()>,
    }

    #[async_trait]
    impl RegistryElement<NetworkServiceEndpoint> for Restarted {
        fn name(&self) -> &'static str {
            "restarted"
        }

        async fn register(
            &self,
            _: &RegistryCx,
            entry: NetworkServiceEndpoint,
            _: RegistryNext<'_, NetworkServiceEndpoint>,
        ) -> Result<NetworkServiceEndpoint> {
            if self.registrations.fetch_add(1, Ordering::Relaxed) == 0 {
                let _ = self.ends.send(());
            }
            Ok(entry)
        }

        async fn find(
            &self,
            _: &RegistryCx,
            _: Query<NetworkServiceEndpoint>,
            _: RegistryNext<'_, NetworkServiceEndpoint>,
        ) -> Result<Events<NetworkServiceEndpoint>> {
            let mut ends = self.ends.subscribe();
            let end = async move { ends.recv().await.is_err() };
            Ok(Box::pin(stream::once(end).filter_map(|_| std::future::ready(None))))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_registry_that_restarts_right_after_the_registration_is_told_again_at_once() {
        let registry =
            Arc::new(Restarted { registrations: AtomicUsize::default(), ends: broadcast::channel(4).0 });
        let _registration = keep(registry.clone());
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(registry.registrations.load(Ordering::Relaxed), 2);
    }

    /// Grants lives that are over by the endpoint's clock.
    #[derive(Default)]
    struct Behind(AtomicUsize);

    #[async_trait]
    impl RegistryElement<NetworkServiceEndpoint> for Behind {
        fn name(&self) -> &'static str {
            "behind"
        }

        async fn register(
            &self,
            _: &RegistryCx,
            entry: NetworkServiceEndpoint,
            _: RegistryNext<'_, NetworkServiceEndpoint>,
        ) -> Result<NetworkServiceEndpoint> {
            self.0.fetch_add(1, Ordering::Relaxed);
            let expiration_time = Some(prost_types::Timestamp { seconds: 1, nanos: 0 });
            Ok(NetworkServiceEndpoint { expiration_time, ..entry })
        }

        async fn find(
            &self,
            _: &RegistryCx,
            _: Query<NetworkServiceEndpoint>,
            _: RegistryNext<'_, NetworkServiceEndpoint>,
        ) -> Result<Events<NetworkServiceEndpoint>> {
            Ok(stream::pending().boxed())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_endpoint_whose_clock_is_ahead_does_not_register_all_the_time() {
        let registry = Arc::new(Behind::default());
        let _registration = keep(registry.clone());
        tokio::time::sleep(Duration::from_millis(4_500)).await;
        assert_eq!(registry.0.load(Ordering::Relaxed), 5);
    }
}

//! Following one service in the registry: watches, a snapshot, and the changes since.

use std::{sync::Arc, time::Duration};

use futures::StreamExt;
use tokio::sync::watch;
use tracing::{debug, warn};

use super::{Found, State};
use crate::{
    api::registry::{NetworkService, NetworkServiceEndpoint},
    chain::{Entry, Error, Events, Kind, Query, RegistryChain, RegistryCx, Result},
};

/// Limit of one Find.
const FIND: Duration = Duration::from_secs(5);

/// Pauses between tries to watch.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Most changes that are taken in together.
const TOGETHER: usize = 1024;

/// The registries, of services and of endpoints.
pub(super) struct Registries {
    pub(super) services: RegistryChain<NetworkService>,
    pub(super) endpoints: RegistryChain<NetworkServiceEndpoint>,
}

type Opened = (Events<NetworkService>, Events<NetworkServiceEndpoint>);

fn query<T: Entry>(like: T, watch: bool) -> Query<T> {
    if watch { Query::changes(like) } else { Query::once(like) }
}

impl Registries {
    async fn open(&self, name: &str, watch: bool) -> Result<Opened> {
        let like = NetworkService { name: name.to_owned(), ..Default::default() };
        let services = self.services.start().find(&RegistryCx::within(FIND), query(like, watch)).await?;
        let like =
            NetworkServiceEndpoint { network_service_names: vec![name.to_owned()], ..Default::default() };
        let endpoints = self.endpoints.start().find(&RegistryCx::within(FIND), query(like, watch)).await?;
        Ok((services, endpoints))
    }

    /// Everything there is of the service now. Watches have no mark between what was there and what
    /// is new, and do not tell of what went away while nobody watched.
    async fn snapshot(&self, name: &str) -> Result<Found> {
        let (mut services, mut endpoints) = self.open(name, false).await?;
        let mut found = Found::default();
        while let Some(event) = services.next().await {
            found.take_service(name, event?);
        }
        while let Some(event) = endpoints.next().await {
            found.take_endpoint(event?);
        }
        Ok(found)
    }

    /// Watches and, after them, a snapshot.
    async fn begin(&self, name: &str) -> Result<(Opened, Found)> {
        let late = |_| Error::new(Kind::Unavailable, "the registry did not answer in time");
        let opened = tokio::time::timeout(FIND, self.open(name, true)).await.map_err(late)??;
        let found = tokio::time::timeout(FIND, self.snapshot(name)).await.map_err(late)??;
        Ok((opened, found))
    }
}

/// What is known of a service, and who is told of it.
struct Publisher<'a> {
    name: &'a str,
    found: Found,
    sender: &'a watch::Sender<Option<State>>,
}

impl Publisher<'_> {
    fn publish(&mut self) {
        #[cfg(test)]
        {
            let before = self.sender.borrow().as_ref().and_then(|state| Some(state.as_ref().ok()?.published));
            self.found.published = before.unwrap_or(0) + 1;
        }
        self.sender.send_replace(Some(Ok(Arc::new(self.found.clone()))));
    }

    /// Takes in changes until a watch ends. Those that are there together are published once, and
    /// what is known already not at all: a watch begins with everything there is.
    ///
    /// The watches were opened before the snapshot was taken. So everything that came, changed or
    /// went after their opening is an event of theirs, in its order, and what went before is not in
    /// the snapshot: taking all events in over the snapshot ends at what is there. Events older than
    /// the snapshot repeat what it knows, or are followed by the newer ones that undo them.
    async fn changes(&mut self, (services, endpoints): Opened) -> Result<()> {
        let mut services = services.ready_chunks(TOGETHER);
        let mut endpoints = endpoints.ready_chunks(TOGETHER);
        loop {
            let mut changed = false;
            let taken = tokio::select! {
                events = services.next() => match events {
                    Some(events) => events.into_iter().try_for_each(|event| {
                        changed |= self.found.take_service(self.name, event?);
                        Ok(())
                    }),
                    None => return Ok(()),
                },
                events = endpoints.next() => match events {
                    Some(events) => events.into_iter().try_for_each(|event| {
                        changed |= self.found.take_endpoint(event?);
                        Ok(())
                    }),
                    None => return Ok(()),
                },
            };
            if changed {
                self.publish();
            }
            taken?;
        }
    }
}

/// Follows a service for good.
pub(super) async fn follow(registries: Registries, name: &str, sender: watch::Sender<Option<State>>) {
    let mut pause = RETRY.0;
    loop {
        let followed = async {
            let (opened, found) = registries.begin(name).await?;
            pause = RETRY.0;
            let mut publisher = Publisher { name, found, sender: &sender };
            publisher.publish();
            publisher.changes(opened).await
        };
        match followed.await {
            Ok(()) => debug!(service = %name, "a watch ended"),
            Err(error) => {
                warn!(service = %name, %error, "cannot follow the registry");
                // What is known goes on to count.
                sender.send_if_modified(|state| {
                    let unknown = !matches!(state, Some(Ok(_)));
                    if unknown {
                        *state = Some(Err(error.while_doing("the registry cannot be asked")));
                    }
                    unknown
                });
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY.1);
    }
}

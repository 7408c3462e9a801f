//! What the registry says of the network services in use, kept here: a Request asks this index,
//! never the registry.
//!
//! The first use of a service opens two watches and takes a snapshot; the service leaves the index
//! some minutes after its last use, and at once when nobody registered it: clients invent names.
//! While the registry is away the last answer counts.

mod follow;
mod found;

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant};
use tokio_util::task::AbortOnDropHandle;

use self::follow::{Registries, follow};
pub use self::found::{Found, Usable};
use crate::{
    api::{
        access::Use,
        registry::{NetworkService, NetworkServiceEndpoint},
    },
    chain::{Clock, Error, Kind, RegistryChain, Result},
};

/// A service that nobody asked for in this time leaves the index: one that is registered, and one
/// that is not.
const KEPT: (Duration, Duration) = (Duration::from_mins(10), Duration::from_secs(5));

/// Most services in the index; beyond it a Request is refused rather than memory filled.
const MAX_SERVICES: usize = 10_000;

/// A service that is followed; it stays in the index as long as this is held.
#[derive(Debug)]
pub struct Watched {
    state: watch::Receiver<Option<State>>,
    _awaited: Arc<()>,
}

type State = std::result::Result<Arc<Found>, Error>;

type Services = Mutex<HashMap<String, Used>>;

struct Used {
    state: watch::Receiver<Option<State>>,
    /// Held by everybody who waits for the state.
    awaited: Arc<()>,
    last: Instant,
    _task: AbortOnDropHandle<()>,
}

/// See the module. Clones share it.
#[derive(Clone)]
pub struct Index {
    services: RegistryChain<NetworkService>,
    endpoints: RegistryChain<NetworkServiceEndpoint>,
    clock: Clock,
    domain: Arc<str>,
    used: Arc<Services>,
}

// === impl Index ===

impl Index {
    /// An index over these registries, in a mesh of this trust domain.
    pub fn new(
        services: RegistryChain<NetworkService>,
        endpoints: RegistryChain<NetworkServiceEndpoint>,
        clock: Clock,
        domain: &str,
    ) -> Self {
        Self { services, endpoints, clock, domain: domain.into(), used: Arc::default() }
    }

    /// The service of this name with its endpoints that have not expired and that it allows to serve
    /// it.
    ///
    /// # Cancel safety
    ///
    /// The service stays in the index when the future is dropped.
    pub async fn find(&self, name: &str, deadline: Instant) -> Result<Usable> {
        let found = self.state(name, deadline).await?;
        Ok(Usable { found, now: self.clock.seconds(), domain: self.domain.clone() })
    }

    /// Whether the process of this SPIFFE ID may connect to a service; nobody is refused one that is
    /// not registered.
    ///
    /// # Cancel safety
    ///
    /// As of [`Self::find`].
    pub async fn allows(&self, id: &str, name: &str, deadline: Instant) -> Result<()> {
        let found = self.state(name, deadline).await?;
        let Some(service) = &found.service else { return Ok(()) };
        service
            .allows(Use::Connect, id, &self.domain)
            .map_err(|refusal| Error::caused(Kind::Denied, &refusal))
    }

    /// How many services are in the index, and how many endpoints of them.
    pub fn size(&self) -> (usize, usize) {
        let used = self.used.lock();
        (used.len(), used.values().map(Used::endpoints).sum())
    }

    /// What is known of a service; the first answer is waited for.
    async fn state(&self, name: &str, deadline: Instant) -> Result<Arc<Found>> {
        let (mut state, _awaited) = self.follow(name)?;
        let late =
            || Error::new(Kind::Unavailable, format_args!("the registry did not tell of {name} in time"));
        let found = tokio::time::timeout_at(deadline, state.wait_for(Option::is_some)).await;
        let found = found.ok().and_then(std::result::Result::ok).and_then(|state| state.clone());
        found.ok_or_else(late)?
    }

    /// Follows a service.
    pub fn watch(&self, name: &str) -> Result<Watched> {
        let (mut state, awaited) = self.follow(name)?;
        // What is there already counts as the first change.
        state.mark_changed();
        Ok(Watched { state, _awaited: awaited })
    }

    fn follow(&self, name: &str) -> Result<(watch::Receiver<Option<State>>, Arc<()>)> {
        let now = Instant::now();
        let mut used = self.used.lock();
        if let Some(service) = used.get_mut(name) {
            service.last = now;
            return Ok((service.state.clone(), service.awaited.clone()));
        }
        if used.len() >= MAX_SERVICES {
            // Invented names make room first.
            used.retain(|_, service| service.is_registered() || service.is_awaited());
        }
        if used.len() >= MAX_SERVICES {
            let message = format_args!("{MAX_SERVICES} network services are in use on this node already");
            return Err(Error::new(Kind::Exhausted, message));
        }
        let (sender, state) = watch::channel(None);
        let registries = Registries { services: self.services.clone(), endpoints: self.endpoints.clone() };
        let (weak, owned) = (Arc::downgrade(&self.used), name.to_owned());
        let task = tokio::spawn(async move {
            tokio::select! {
                () = follow(registries, &owned, sender) => {}
                () = until_unused(weak, &owned) => {}
            }
        });
        let task = AbortOnDropHandle::new(task);
        let (awaited, kept) = (Arc::new(()), state.clone());
        used.insert(name.to_owned(), Used { state: kept, awaited: awaited.clone(), last: now, _task: task });
        Ok((state, awaited))
    }
}

/// Takes the service out of the index when its time is over.
async fn until_unused(used: Weak<Services>, name: &str) {
    loop {
        tokio::time::sleep(KEPT.1 / 2).await;
        let Some(used) = used.upgrade() else { return };
        let mut used = used.lock();
        if used.get(name).is_some_and(Used::is_unused) {
            // Ends this task.
            used.remove(name);
            return;
        }
    }
}

// === impl Watched ===

impl Watched {
    /// Waits for a change since the last call; the first is how the service is now. Ends only if the
    /// index does.
    ///
    /// # Cancel safety
    ///
    /// No change is lost when the future is dropped.
    pub async fn changed(&mut self) {
        if self.state.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// The service as it is known now, if it is.
    pub fn now(&self) -> Option<Arc<Found>> {
        self.state.borrow().as_ref()?.as_ref().ok().cloned()
    }
}

// === impl Used ===

impl Used {
    fn is_registered(&self) -> bool {
        matches!(&*self.state.borrow(), Some(Ok(found)) if !found.is_empty())
    }

    fn endpoints(&self) -> usize {
        self.state.borrow().iter().flatten().map(|found| found.endpoints.len()).sum()
    }

    /// Whether somebody waits for the first answer, or reads it just now.
    fn is_awaited(&self) -> bool {
        Arc::strong_count(&self.awaited) > 1
    }

    fn is_unused(&self) -> bool {
        let kept = if self.is_registered() { KEPT.0 } else { KEPT.1 };
        self.last.elapsed() >= kept && !self.is_awaited()
    }
}

#[cfg(test)]
mod tests;

//! What the registry says of the network services in use, kept here: a Request asks this index,
//! never the registry.
//!
//! The first use of a service takes a snapshot and opens two watches; the service leaves the index
//! some minutes after its last use. While the registry is away the last answer counts.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use futures::StreamExt;
use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant};
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, warn};

use crate::{
    api::{
        peer::{Address, FileKey},
        registry::{NetworkService, NetworkServiceEndpoint},
    },
    chain::{Clock, Entry, Error, Event, Events, Kind, Query, RegistryChain, RegistryCx, Result},
    settings::Target,
};

/// A service that nobody asked for in this time leaves the index.
const KEPT: Duration = Duration::from_mins(10);

/// Limit of one Find.
const FIND: Duration = Duration::from_secs(5);

/// Pauses between tries to watch.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Most services in the index; beyond it a Request is refused rather than memory filled.
const MAX_SERVICES: usize = 10_000;

/// A service with its endpoints.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// The service; absent when nobody registered it.
    pub service: Option<NetworkService>,
    /// Its endpoints by name, with where they are reached.
    pub endpoints: BTreeMap<String, (NetworkServiceEndpoint, Address)>,
}

type State = std::result::Result<Arc<Found>, Error>;

struct Used {
    state: watch::Receiver<Option<State>>,
    last: Instant,
    _task: AbortOnDropHandle<()>,
}

/// See the module. Clones share it.
#[derive(Clone)]
pub struct Index {
    services: RegistryChain<NetworkService>,
    endpoints: RegistryChain<NetworkServiceEndpoint>,
    clock: Clock,
    used: Arc<Mutex<HashMap<String, Used>>>,
}

// === impl Index ===

impl Index {
    /// An index over these registries.
    pub fn new(
        services: RegistryChain<NetworkService>,
        endpoints: RegistryChain<NetworkServiceEndpoint>,
        clock: Clock,
    ) -> Self {
        Self { services, endpoints, clock, used: Arc::default() }
    }

    /// The service of this name with its endpoints that have not expired.
    ///
    /// # Cancel safety
    ///
    /// The service stays in the index when the future is dropped.
    pub async fn find(&self, name: &str, deadline: Instant) -> Result<Found> {
        let mut state = self.follow(name)?;
        let late =
            || Error::new(Kind::Unavailable, format_args!("the registry did not tell of {name} in time"));
        let found = tokio::time::timeout_at(deadline, state.wait_for(Option::is_some)).await;
        let found = found.ok().and_then(std::result::Result::ok).and_then(|state| state.clone());
        let mut found = (*found.ok_or_else(late)??).clone();
        let now = self.clock.seconds();
        #[allow(clippy::cast_precision_loss)] // exact until the year 285,000,000
        found
            .endpoints
            .retain(|_, (endpoint, _)| endpoint.expiration_time.is_none_or(|time| time.seconds as f64 > now));
        Ok(found)
    }

    fn follow(&self, name: &str) -> Result<watch::Receiver<Option<State>>> {
        let now = Instant::now();
        let mut used = self.used.lock();
        if let Some(service) = used.get_mut(name) {
            service.last = now;
            return Ok(service.state.clone());
        }
        used.retain(|_, service| now - service.last < KEPT);
        if used.len() >= MAX_SERVICES {
            let message = format_args!("{MAX_SERVICES} network services are in use on this node already");
            return Err(Error::new(Kind::Exhausted, message));
        }
        let (sender, state) = watch::channel(None);
        let task = tokio::spawn(follow(self.clone_registries(), name.to_owned(), sender));
        let task = AbortOnDropHandle::new(task);
        used.insert(name.to_owned(), Used { state: state.clone(), last: now, _task: task });
        Ok(state)
    }

    fn clone_registries(&self) -> Registries {
        Registries { services: self.services.clone(), endpoints: self.endpoints.clone() }
    }
}

struct Registries {
    services: RegistryChain<NetworkService>,
    endpoints: RegistryChain<NetworkServiceEndpoint>,
}

impl Registries {
    async fn open(
        &self,
        name: &str,
        watch: bool,
    ) -> Result<(Events<NetworkService>, Events<NetworkServiceEndpoint>)> {
        let like = NetworkService { name: name.to_owned(), ..Default::default() };
        let services = self.services.start().find(&RegistryCx::within(FIND), Query { like, watch }).await?;
        let like =
            NetworkServiceEndpoint { network_service_names: vec![name.to_owned()], ..Default::default() };
        let endpoints = self.endpoints.start().find(&RegistryCx::within(FIND), Query { like, watch }).await?;
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

    /// Follows changes until a watch ends.
    async fn changes(
        &self,
        name: &str,
        mut found: Found,
        sender: &watch::Sender<Option<State>>,
    ) -> Result<()> {
        let (mut services, mut endpoints) = self.open(name, true).await?;
        loop {
            tokio::select! {
                event = services.next() => match event {
                    Some(event) => found.take_service(name, event?),
                    None => return Ok(()),
                },
                event = endpoints.next() => match event {
                    Some(event) => found.take_endpoint(event?),
                    None => return Ok(()),
                },
            }
            sender.send_replace(Some(Ok(Arc::new(found.clone()))));
        }
    }
}

async fn follow(registries: Registries, name: String, sender: watch::Sender<Option<State>>) {
    let mut pause = RETRY.0;
    loop {
        let followed = async {
            let found = tokio::time::timeout(FIND, registries.snapshot(&name)).await;
            let late = || Error::new(Kind::Unavailable, "the registry did not answer in time");
            let found = found.map_err(|_| late())??;
            sender.send_replace(Some(Ok(Arc::new(found.clone()))));
            registries.changes(&name, found, &sender).await
        };
        match followed.await {
            Ok(()) => {
                debug!(service = %name, "a watch ended");
                pause = RETRY.0;
            }
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

// === impl Found ===

impl Found {
    fn take_service(&mut self, name: &str, event: Event<NetworkService>) {
        if event.entry.name == name {
            self.service = (!event.deleted).then_some(event.entry);
        }
    }

    fn take_endpoint(&mut self, event: Event<NetworkServiceEndpoint>) {
        let name = Entry::name(&event.entry).to_owned();
        match address(&event) {
            Some(address) if !event.deleted => {
                self.endpoints.insert(name, (event.entry, address));
            }
            _ => {
                self.endpoints.remove(&name);
            }
        }
    }
}

/// Where an endpoint is reached: by the file that came beside its entry, or by its URL.
fn address(event: &Event<NetworkServiceEndpoint>) -> Option<Address> {
    let url = &event.entry.url;
    if let Ok(key) = url.parse::<FileKey>() {
        return Some(Address::File(key, event.files.get(key)?.clone()));
    }
    url.parse::<Target>().ok().map(Address::from)
}

//! What is known of a service, and what of that a Request may use.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    api::{
        access::Use,
        peer::{Address, FileKey},
        registry::{NetworkService, NetworkServiceEndpoint},
    },
    chain::{Entry, Event},
    settings::Target,
};

/// A service with its endpoints.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// The service; absent when nobody registered it.
    pub service: Option<Arc<NetworkService>>,
    /// Its endpoints by name, with where they are reached.
    pub endpoints: BTreeMap<Arc<str>, Arc<(NetworkServiceEndpoint, Address)>>,
    /// Whether the service is absent because it was deleted: a registry that was started anew does
    /// not know it either, for a time.
    pub deleted: bool,
    /// How often the service was published.
    #[cfg(test)]
    pub(super) published: usize,
}

/// A service as a Request may use it: without endpoints that have expired, and those that the service
/// does not allow to serve it. It is what the index holds, not a copy.
#[derive(Clone, Debug)]
pub struct Usable {
    pub(super) found: Arc<Found>,
    /// Seconds since the epoch.
    pub(super) now: f64,
    pub(super) domain: Arc<str>,
}

// === impl Found ===

impl Found {
    pub(super) fn is_empty(&self) -> bool {
        self.service.is_none() && self.endpoints.is_empty()
    }

    /// Takes a change in; false when it tells what is known.
    pub(super) fn take_service(&mut self, name: &str, event: Event<NetworkService>) -> bool {
        let now = (!event.deleted).then_some(&event.entry);
        if event.entry.name != name || (self.deleted, self.service.as_deref()) == (event.deleted, now) {
            return false;
        }
        self.deleted = event.deleted;
        self.service = (!event.deleted).then(|| Arc::new(event.entry));
        true
    }

    /// The same for an endpoint.
    pub(super) fn take_endpoint(&mut self, event: Event<NetworkServiceEndpoint>) -> bool {
        let name = Entry::name(&event.entry);
        let Some(address) = address(&event).filter(|_| !event.deleted) else {
            return self.endpoints.remove(name).is_some();
        };
        if self.endpoints.get(name).is_some_and(|known| known.0 == event.entry && known.1 == address) {
            return false;
        }
        self.endpoints.insert(name.into(), Arc::new((event.entry, address)));
        true
    }
}

// === impl Usable ===

impl Usable {
    /// The service; absent when nobody registered it.
    pub fn service(&self) -> Option<&NetworkService> {
        self.found.service.as_deref()
    }

    /// Its endpoint of this name, with where it is reached.
    pub fn endpoint(&self, name: &str) -> Option<&(NetworkServiceEndpoint, Address)> {
        self.found.endpoints.get(name).map(|known| &**known).filter(|(endpoint, _)| self.is_usable(endpoint))
    }

    /// All its endpoints, by name.
    pub fn endpoints(&self) -> impl Iterator<Item = &NetworkServiceEndpoint> {
        self.found.endpoints.values().map(|known| &known.0).filter(|endpoint| self.is_usable(endpoint))
    }

    #[allow(clippy::cast_precision_loss)] // exact until the year 285,000,000
    fn is_usable(&self, endpoint: &NetworkServiceEndpoint) -> bool {
        let lives = endpoint.expiration_time.is_none_or(|time| time.seconds as f64 > self.now);
        let may =
            |service: &NetworkService| service.allows(Use::Serve, endpoint.owner(), &self.domain).is_ok();
        lives && self.service().is_none_or(may)
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

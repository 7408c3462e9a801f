//! Elements of registry chains: one engine for network services and endpoints.

use std::{pin::Pin, sync::Arc};

use async_trait::async_trait;
use futures::{Stream, stream};
use prost_types::Timestamp;
use tracing::{Instrument, debug_span};

use super::{Caller, Error, Kind, Link, Result};
use crate::api::{
    peer::Files,
    registry::{NetworkService, NetworkServiceEndpoint},
    registry_path::RegistryPath,
};

/// What a registry keeps: network services or endpoints.
pub trait Entry: Clone + Send + Sync + PartialEq + std::fmt::Debug + 'static {
    /// For messages: what one of these is called.
    const WHAT: &'static str;

    /// The name it is registered under.
    fn name(&self) -> &str;

    /// SPIFFE IDs from the originator to the final registry.
    fn path_ids(&self) -> &[String];

    /// The same, to change them.
    fn path_ids_mut(&mut self) -> &mut Vec<String>;

    /// Whether `stored` is what this query looks for.
    fn finds(&self, stored: &Self) -> bool;

    /// The network services it serves; none for what is one itself.
    fn services(&self) -> &[String];

    /// When it ends; absent for what never does.
    fn expiration_mut(&mut self) -> Option<&mut Option<Timestamp>>;

    /// When it was registered first; absent where nobody asks.
    fn first_registration(&self) -> Option<Timestamp>;

    /// The same, to change it.
    fn first_registration_mut(&mut self) -> Option<&mut Option<Timestamp>>;

    /// Who registered it: the first SPIFFE ID in its path.
    fn owner(&self) -> &str {
        self.path_ids().first().map_or("", String::as_str)
    }

    /// Refuses a change by anybody but this owner.
    fn check_owner(&self, owner: &str) -> Result<()> {
        if self.owner() == owner {
            return Ok(());
        }
        let message = format_args!("{} {} belongs to {}", Self::WHAT, self.name(), self.owner());
        Err(Error::new(Kind::Denied, message))
    }
}

/// What to look for.
#[derive(Clone, Debug, Default)]
pub struct Query<T> {
    /// Pattern; empty fields match all.
    pub like: T,
    /// Whether to go on with changes after what is there.
    pub watch: bool,
    /// Whether a watch leaves out registrations that prolong a life and change nothing else. Its
    /// entries come without their ends: each lives until the watch says otherwise. Upstream does not
    /// know this and tells everything.
    pub without_refreshes: bool,
}

/// One entry found, changed or deleted.
#[derive(Clone, Debug)]
pub struct Event<T> {
    /// The entry; a deleted one as it last was.
    pub entry: T,
    /// Whether it is gone.
    pub deleted: bool,
    /// Open files the entry's URL names.
    pub files: Files,
}

/// Entries found; endless when watched.
pub type Events<T> = Pin<Box<dyn Stream<Item = Result<Event<T>>> + Send>>;

/// What travels beside a registration.
#[derive(Clone, Debug)]
pub struct RegistryCx {
    /// When the call must be done; a Find that watches goes on.
    pub deadline: tokio::time::Instant,
    /// Who called; absent for calls that begin in this process.
    pub caller: Option<Arc<Caller>>,
    /// The registration's path; changed on the way and given back to the caller.
    pub path: Arc<parking_lot::Mutex<RegistryPath>>,
    /// Open files the entry's URL names.
    pub files: Files,
    /// The TLS connection that the last answer came on; written by `connect`.
    pub server: Arc<parking_lot::Mutex<Option<Arc<dyn Link>>>>,
}

/// One link of a registry chain.
#[async_trait]
pub trait RegistryElement<T: Entry>: Send + Sync + 'static {
    /// Upstream's name of the element.
    fn name(&self) -> &'static str;

    /// Registers an entry, or refreshes it. Answers what was stored.
    async fn register(&self, cx: &RegistryCx, entry: T, next: RegistryNext<'_, T>) -> Result<T> {
        next.register(cx, entry).await
    }

    /// Takes an entry back.
    async fn unregister(&self, cx: &RegistryCx, entry: T, next: RegistryNext<'_, T>) -> Result<()> {
        next.unregister(cx, entry).await
    }

    /// Looks for entries.
    async fn find(&self, cx: &RegistryCx, query: Query<T>, next: RegistryNext<'_, T>) -> Result<Events<T>> {
        next.find(cx, query).await
    }
}

/// The rest of a registry chain. `Copy`, so one element can call it to register and again to undo.
pub struct RegistryNext<'a, T>(&'a [Arc<dyn RegistryElement<T>>]);

/// A whole registry chain.
#[derive(Clone)]
pub struct RegistryChain<T>(Arc<[Arc<dyn RegistryElement<T>>]>);

impl RegistryCx {
    /// A call that begins in this process.
    pub fn within(limit: std::time::Duration) -> Self {
        Self {
            deadline: tokio::time::Instant::now() + limit,
            caller: None,
            path: Arc::default(),
            files: Files::default(),
            server: Arc::default(),
        }
    }
}

// Derived, they would ask it of the entries.
impl<T> Copy for RegistryNext<'_, T> {}

impl<T> Clone for RegistryNext<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T: Entry> RegistryNext<'_, T> {
    /// Calls the rest of the chain; its end stores nothing.
    pub async fn register(self, cx: &RegistryCx, entry: T) -> Result<T> {
        match self.0 {
            [] => Ok(entry),
            [head, rest @ ..] => {
                let span = debug_span!("register", element = head.name());
                head.register(cx, entry, RegistryNext(rest)).instrument(span).await
            }
        }
    }

    /// Calls the rest of the chain.
    pub async fn unregister(self, cx: &RegistryCx, entry: T) -> Result<()> {
        match self.0 {
            [] => Ok(()),
            [head, rest @ ..] => {
                let span = debug_span!("unregister", element = head.name());
                head.unregister(cx, entry, RegistryNext(rest)).instrument(span).await
            }
        }
    }

    /// Calls the rest of the chain; its end finds nothing.
    pub async fn find(self, cx: &RegistryCx, query: Query<T>) -> Result<Events<T>> {
        match self.0 {
            [] => Ok(Box::pin(stream::empty())),
            [head, rest @ ..] => {
                let span = debug_span!("find", element = head.name());
                head.find(cx, query, RegistryNext(rest)).instrument(span).await
            }
        }
    }
}

impl<T: Entry> Query<T> {
    /// What there is now.
    pub fn once(like: T) -> Self {
        Self { like, watch: false, without_refreshes: false }
    }

    /// What there is, and what comes, changes and goes; see [`Self::without_refreshes`].
    pub fn changes(like: T) -> Self {
        Self { like, watch: true, without_refreshes: true }
    }
}

impl<T: Entry> RegistryChain<T> {
    /// A chain of these elements, first called first.
    pub fn new(elements: impl IntoIterator<Item = Arc<dyn RegistryElement<T>>>) -> Self {
        Self(elements.into_iter().collect())
    }

    /// All of it.
    pub fn start(&self) -> RegistryNext<'_, T> {
        RegistryNext(&self.0)
    }
}

impl Entry for NetworkService {
    const WHAT: &'static str = "network service";

    fn name(&self) -> &str {
        &self.name
    }

    fn path_ids(&self) -> &[String] {
        &self.path_ids
    }

    fn path_ids_mut(&mut self) -> &mut Vec<String> {
        &mut self.path_ids
    }

    fn finds(&self, stored: &Self) -> bool {
        Self::finds(self, stored)
    }

    fn services(&self) -> &[String] {
        &[]
    }

    fn expiration_mut(&mut self) -> Option<&mut Option<Timestamp>> {
        None
    }

    fn first_registration(&self) -> Option<Timestamp> {
        None
    }

    fn first_registration_mut(&mut self) -> Option<&mut Option<Timestamp>> {
        None
    }
}

impl Entry for NetworkServiceEndpoint {
    const WHAT: &'static str = "endpoint";

    fn name(&self) -> &str {
        &self.name
    }

    fn path_ids(&self) -> &[String] {
        &self.path_ids
    }

    fn path_ids_mut(&mut self) -> &mut Vec<String> {
        &mut self.path_ids
    }

    fn finds(&self, stored: &Self) -> bool {
        Self::finds(self, stored)
    }

    fn services(&self) -> &[String] {
        &self.network_service_names
    }

    fn expiration_mut(&mut self) -> Option<&mut Option<Timestamp>> {
        Some(&mut self.expiration_time)
    }

    fn first_registration(&self) -> Option<Timestamp> {
        self.initial_registration_time
    }

    fn first_registration_mut(&mut self) -> Option<&mut Option<Timestamp>> {
        Some(&mut self.initial_registration_time)
    }
}

/// An error for an entry without a name.
impl Error {
    /// A registration that names nothing.
    pub fn nameless<T: Entry>() -> Self {
        Self::new(Kind::Invalid, format_args!("a {} needs a name", T::WHAT))
    }
}

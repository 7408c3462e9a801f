//! `objects`: a storage in custom resources of the API server, for several registries at once (protocol
//! §7).
//!
//! * What is found and told is in memory, fed by a watch and by the answers to own writes.
//! * A registration is one server-side apply, or none where nothing but its life is new.
//! * Names are kept by the API server itself: each owner's fields have their own field manager, so what
//!   another one applies under the name is a conflict.
//! * Entries that came by a node daemon of ours end with the [Lease](Leases) of the node; others have
//!   their end in the object.
//! * Who ends entries is one registry of several: see [`Keeper`].

mod keeper;
mod known;
mod leases;
mod reach;
mod spec;
mod verdict;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::time::Instant;

pub use self::{
    keeper::Keeper,
    leases::{LeaseServer, Leases},
    reach::Reach,
    spec::Resource,
};
use self::{
    known::{Ended, Key, Known},
    spec::{Life, Said, life},
    verdict::{MANAGER, Verdict, judge},
};
use super::{Storage, table::Table};
use crate::chain::{Clock, Error, Events, Kind, Query, Result};

/// An object as the API server has it.
#[derive(Clone, Debug)]
pub struct Object {
    /// Namespace and name.
    pub key: (Arc<str>, Arc<str>),
    /// Tells it from others that had or get its name.
    pub uid: String,
    /// Grows with every change.
    pub version: u64,
    /// When it was made, in seconds since the epoch.
    pub created: i64,
    /// The entry in it, if it is one.
    pub spec: Value,
}

/// A server-side apply of one object.
#[derive(Clone, Debug)]
pub struct Apply {
    /// Namespace and name.
    pub key: (Arc<str>, Arc<str>),
    /// If given, only to the object of this UID, of which all fields are taken over. Else nothing is
    /// taken from anybody.
    pub uid: Option<String>,
    /// Whose fields they are.
    pub manager: String,
    /// All there is to apply.
    pub spec: Value,
}

/// Why the API server did not do it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Somebody else has these fields.
    #[error("{manager} has written {fields}")]
    Held {
        /// Its field manager.
        manager: String,
        /// The fields.
        fields: String,
    },
    /// It is not what it was, or not there.
    #[error("it has changed: {0}")]
    Changed(String),
    /// Neither it, nor perhaps its namespace, is there.
    #[error("{0}")]
    Missing(String),
    /// It can never be like that.
    #[error("the API server refuses it: {0}")]
    Invalid(String),
    /// The API server cannot be asked, or does not let this process ask.
    #[error("{0}")]
    Unavailable(String),
}

/// What is asked of the API server for objects of one kind.
#[async_trait]
pub trait ObjectServer: Send + Sync + 'static {
    /// Applies one object, and answers what it is then.
    async fn apply(&self, apply: Apply) -> std::result::Result<Object, Refusal>;

    /// An object as it is, if it is there.
    async fn get(&self, key: &(Arc<str>, Arc<str>)) -> std::result::Result<Option<Object>, Refusal>;

    /// Deletes an object, of this UID and in this version alone where one is given. One that is not there
    /// is deleted.
    async fn delete(
        &self,
        key: &(Arc<str>, Arc<str>),
        uid: &str,
        version: Option<u64>,
    ) -> std::result::Result<(), Refusal>;
}

/// What storages of several kinds share.
#[derive(Clone)]
pub struct Shared {
    /// Where what is registered here is kept.
    pub namespace: String,
    /// Leases of nodes.
    pub leases: Leases,
    /// Whether the API server is there.
    pub reach: Reach,
    /// Judges the ends of entries.
    pub clock: Clock,
    /// Longest life of an entry. For that long nothing ends after the start of this process, or after the
    /// API server was away.
    pub life: Duration,
}

/// See the module.
pub struct Objects<T> {
    shared: Shared,
    server: Arc<dyn ObjectServer>,
    known: Mutex<Known<T>>,
    table: Table<T>,
}

impl<T: Resource> Objects<T> {
    /// Nothing is known yet.
    pub fn new(shared: Shared, server: Arc<dyn ObjectServer>) -> Self {
        let table = Table::default();
        let known = Known::new(&shared.namespace, table.share());
        Self { shared, server, known: Mutex::new(known), table }
    }

    /// The whole of what there is at this version.
    pub fn list(&self, objects: Vec<Object>, version: u64) {
        self.known.lock().list(objects, version);
    }

    /// What an object is now.
    pub fn observe(&self, object: Object) {
        self.known.lock().observe(object);
    }

    /// An object is gone.
    pub fn gone(&self, object: &Object) {
        self.known.lock().gone(&object.key, &object.uid);
    }

    /// Nothing can be told before all is known once: what is not there yet would be taken for gone.
    fn check_known(&self) -> Result<()> {
        match self.shared.reach.lacks() {
            Some(why) => {
                Err(Error::new(Kind::Unavailable, format_args!("this registry knows nothing yet: {why}")))
            }
            None => Ok(()),
        }
    }

    /// What to do about a registration.
    fn judge(&self, entry: &T, lasting: Option<Duration>) -> Result<Verdict> {
        let (known, seconds) = (self.known.lock(), self.shared.clock.seconds());
        judge((&known, &self.table), entry, lasting, &self.shared.namespace, seconds)
    }

    /// Why the API server did not take an entry.
    fn refused(&self, name: &str, refusal: &Refusal) -> Error {
        let (what, kind, namespace) = (T::WHAT, T::KIND, &self.shared.namespace);
        match refusal {
            Refusal::Held { manager, .. } if manager.starts_with(MANAGER) => {
                let message = format_args!("{what} {name} belongs to another owner, who registered it first");
                Error::new(Kind::Denied, message)
            }
            Refusal::Held { manager, fields } => {
                let message = format_args!(
                    "the name of {what} {name} is taken by the {kind} {namespace}/{name}, of which {manager} \
                     has written {fields}: use another name, or delete that one"
                );
                Error::new(Kind::Taken, message)
            }
            Refusal::Invalid(why) => {
                Error::new(Kind::Invalid, format_args!("{what} {name} cannot be kept: {why}"))
            }
            Refusal::Changed(_) | Refusal::Missing(_) | Refusal::Unavailable(_) => {
                let message = format_args!(
                    "{what} {name} cannot be registered or changed now: {refusal}. What is known is found as \
                     before, and nothing expires: try again, and look after the API server"
                );
                Error::new(Kind::Unavailable, message)
            }
        }
    }

    /// Asks for an object that no watch has told of: another registry may have made it just now.
    async fn look_for(&self, key: &Key) -> Result<()> {
        if self.known.lock().get(key).is_some() {
            return Ok(());
        }
        match self.server.get(key).await {
            Ok(object) => {
                if let Some(object) = object {
                    self.observe(object);
                }
                Ok(())
            }
            Err(refusal) => Err(self.refused(&key.1, &refusal)),
        }
    }

    /// Tells the other registries that the manager of this entry goes on.
    fn refreshed(&self, entry: &T) {
        if let Life::OfNode(node) = life(entry) {
            self.shared.leases.refreshed(&node);
        }
    }

    /// Deletes what has ended, and so that it goes on if it was refreshed meanwhile.
    async fn end(&self, ended: Ended) {
        let Ended { key, uid, version } = ended;
        let (namespace, name) = (&*key.0, &*key.1);
        match self.server.delete(&key, &uid, Some(version)).await {
            Ok(()) => {
                tracing::info!(kind = T::KIND, namespace, name, "not refreshed in time: deleted");
                self.known.lock().take_back(&key, &uid);
            }
            Err(Refusal::Changed(_)) => {}
            Err(refusal) => {
                tracing::warn!(kind = T::KIND, namespace, name, %refusal, "ended, and could not be deleted");
            }
        }
    }
}

#[async_trait]
impl<T: Resource> Storage<T> for Objects<T> {
    async fn register(&self, mut entry: T, lasting: Option<Duration>) -> Result<T> {
        self.check_known()?;
        let mut tried = false;
        let first = loop {
            let apply = match self.judge(&entry, lasting)? {
                Verdict::Keep { first } => break first,
                Verdict::Apply(apply) => apply,
            };
            let (key, uid) = (apply.key.clone(), apply.uid.clone());
            match (self.server.apply(apply).await, uid) {
                (Ok(object), _) => {
                    self.observe(object);
                    break self.known.lock().get(&key).and_then(|held| match &held.said {
                        Said::Entry(stored) => stored.first_registration(),
                        Said::Template | Said::Over | Said::Unreadable(_) => None,
                    });
                }
                // What was known is gone, and the watch only has not said so yet.
                (Err(Refusal::Changed(_)), Some(uid)) if !tried => {
                    self.known.lock().take_back(&key, &uid);
                    tried = true;
                }
                (Err(refusal), _) => return Err(self.refused(entry.name(), &refusal)),
            }
        };
        self.refreshed(&entry);
        if let Some(time) = entry.first_registration_mut() {
            *time = first.or(*time);
        }
        Ok(entry)
    }

    async fn unregister(&self, name: &str, owner: Option<&str>) -> Result<()> {
        self.check_known()?;
        let key: Key = (self.shared.namespace.as_str().into(), name.into());
        self.look_for(&key).await?;
        let uid = {
            let known = self.known.lock();
            let Some(held) = known.get(&key) else { return Ok(()) };
            let Said::Entry(entry) = &held.said else { return Ok(()) };
            if let Some(owner) = owner {
                entry.check_owner(owner)?;
            }
            held.uid.clone()
        };
        match self.server.delete(&key, &uid, None).await {
            // Another one has the name by now.
            Ok(()) | Err(Refusal::Changed(_)) => {
                self.known.lock().take_back(&key, &uid);
                Ok(())
            }
            Err(refusal) => Err(self.refused(name, &refusal)),
        }
    }

    async fn find(&self, query: Query<T>) -> Result<Events<T>> {
        self.check_known()?;
        self.table.find(query)
    }

    /// Entries end by the [`Keeper`].
    async fn expire(&self) -> Option<Instant> {
        None
    }

    fn size(&self) -> (usize, usize) {
        self.table.size()
    }
}

#[cfg(test)]
mod tests;

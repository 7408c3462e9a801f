//! What a registry tells of: its entries, and who watches them. One lock makes every change, tells the
//! watchers of it, and begins watches, so none misses an entry, sees one twice, or an older state after
//! a newer.

mod entries;
mod watchers;

use std::sync::Arc;

use futures::{StreamExt, stream};
use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use self::{entries::Entries, watchers::Watchers};
use crate::{
    api::peer::Files,
    chain::{Entry, Error, Event, Events, Kind, Query, Result},
};

/// Most entries kept; beyond it a registration is refused rather than memory filled.
const MAX_ENTRIES: usize = 100_000;

/// Most entries of one owner: services have no end, and one identity must not take the place of all
/// others.
pub(super) const MAX_OF_OWNER: usize = MAX_ENTRIES / 4;

#[cfg(test)]
pub(super) use self::watchers::QUEUE;

/// See the module.
#[derive(Debug)]
pub(super) struct Table<T>(Arc<Mutex<State<T>>>);

/// The table while nobody else changes it.
#[derive(Debug)]
pub(super) struct State<T> {
    entries: Entries<T>,
    watchers: Watchers<T>,
}

/// An entry as a watcher or a Find gets it: copied only now.
fn event<T: Entry>(entry: &Arc<T>, deleted: bool, without_refreshes: bool) -> Event<T> {
    let mut entry = T::clone(entry);
    if without_refreshes && let Some(expiration) = entry.expiration_mut() {
        *expiration = None;
    }
    Event { entry, deleted, files: Files::default() }
}

// === impl Table ===

impl<T> Default for Table<T> {
    fn default() -> Self {
        let state = State { entries: Entries::default(), watchers: Watchers::default() };
        Self(Arc::new(Mutex::new(state)))
    }
}

impl<T: Entry> Table<T> {
    /// The same table once more.
    pub(super) fn share(&self) -> Self {
        Self(self.0.clone())
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.0.lock()
    }

    /// How many entries there are, and how many watches of them.
    pub(super) fn size(&self) -> (usize, usize) {
        let state = self.lock();
        (state.entries.len(), state.watchers.len())
    }

    /// What a query finds, and for a watch every change after that.
    pub(super) fn find(&self, query: Query<T>) -> Result<Events<T>> {
        let quiet = query.watch && query.without_refreshes;
        let mut state = self.lock();
        let found = stream::iter(state.entries.find(&query.like));
        let found = found.map(move |entry| Ok(event(&entry, false, quiet)));
        if !query.watch {
            return Ok(Box::pin(found));
        }
        let changes = state.watchers.add(query.like, quiet, &self.0)?;
        drop(state);
        Ok(Box::pin(found.chain(
            changes.map(move |change| change.map(|change| event(&change.entry, change.deleted, quiet))),
        )))
    }
}

// === impl State ===

impl<T: Entry> State<T> {
    pub(super) fn get(&self, name: &str) -> Option<&Arc<T>> {
        self.entries.get(name)
    }

    /// Puts an entry in the place of what has its name.
    pub(super) fn put(&mut self, entry: &Arc<T>, end: Option<Instant>) {
        let before = self.entries.get(entry.name()).cloned();
        self.entries.insert(entry.clone(), end);
        self.watchers.tell(before.as_ref(), Some(entry));
    }

    /// Takes out what has this name.
    pub(super) fn remove(&mut self, name: &str) {
        let known = self.entries.remove(name);
        self.watchers.tell(known.as_ref(), None);
    }

    /// One entry whose time is over, taken out.
    pub(super) fn take_ended(&mut self, now: Instant) -> Option<Arc<T>> {
        let ended = self.entries.take_ended(now)?;
        self.watchers.tell(Some(&ended), None);
        Some(ended)
    }

    /// When the next one ends.
    pub(super) fn next_end(&self) -> Option<Instant> {
        self.entries.next_end()
    }

    /// Refuses one more entry where there is no place for it.
    pub(super) fn check_room(&self, owner: &str) -> Result<()> {
        if self.entries.len() >= MAX_ENTRIES {
            let message = format_args!("{MAX_ENTRIES} entries are registered already: try again later");
            return Err(Error::new(Kind::Exhausted, message));
        }
        if self.entries.of_owner(owner) >= MAX_OF_OWNER {
            let what = T::WHAT;
            let message = format_args!(
                "{owner} has registered {MAX_OF_OWNER} entries already, the most of one identity: unregister \
                 a {what} first"
            );
            return Err(Error::new(Kind::Exhausted, message));
        }
        Ok(())
    }
}

#[cfg(test)]
impl<T: Entry> State<T> {
    pub(super) fn of_owner(&self, owner: &str) -> usize {
        self.entries.of_owner(owner)
    }

    pub(super) fn matching(&self, like: &T) -> Vec<Arc<T>> {
        self.entries.find(like)
    }

    /// Whether nothing is left of what once was there.
    pub(super) fn is_bare(&self) -> bool {
        let bare = Entries::<T>::default();
        self.watchers.len() == 0 && format!("{:?}", self.entries) == format!("{bare:?}")
    }
}

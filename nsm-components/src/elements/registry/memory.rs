//! `memory`: a storage in memory (protocol §4.7). One lock makes every change, tells the watchers of
//! it, and begins watches, so none misses an entry, sees one twice, or an older state after a newer.

mod entries;
mod watchers;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::{StreamExt, stream};
use parking_lot::Mutex;
use tokio::time::Instant;

use self::{entries::Entries, watchers::Watchers};
use super::Storage;
use crate::{
    api::peer::Files,
    chain::{Entry, Error, Event, Events, Kind, Query, Result},
};

/// Most entries kept; beyond it a registration is refused rather than memory filled.
const MAX_ENTRIES: usize = 100_000;

/// Most entries of one owner: services have no end, and one identity must not take the place of all
/// others.
const MAX_OF_OWNER: usize = MAX_ENTRIES / 4;

/// See the module.
#[derive(Debug)]
pub struct Memory<T> {
    state: Arc<Mutex<State<T>>>,
}

#[derive(Debug)]
struct State<T> {
    entries: Entries<T>,
    watchers: Watchers<T>,
}

impl<T> Default for Memory<T> {
    fn default() -> Self {
        let state = State { entries: Entries::default(), watchers: Watchers::default() };
        Self { state: Arc::new(Mutex::new(state)) }
    }
}

impl<T: Entry> Memory<T> {
    /// How many entries there are, and how many watches of them.
    pub fn size(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.entries.len(), state.watchers.len())
    }
}

fn check_room<T: Entry>(entries: &Entries<T>, owner: &str) -> Result<()> {
    if entries.len() >= MAX_ENTRIES {
        let message = format_args!("{MAX_ENTRIES} entries are registered already: try again later");
        return Err(Error::new(Kind::Exhausted, message));
    }
    if entries.of_owner(owner) >= MAX_OF_OWNER {
        let what = T::WHAT;
        let message = format_args!(
            "{owner} has registered {MAX_OF_OWNER} entries already, the most of one identity: unregister \
             a {what} first"
        );
        return Err(Error::new(Kind::Exhausted, message));
    }
    Ok(())
}

/// An entry as a watcher or a Find gets it: copied only now.
fn event<T: Entry>(entry: &Arc<T>, deleted: bool, without_refreshes: bool) -> Event<T> {
    let mut entry = T::clone(entry);
    if without_refreshes && let Some(expiration) = entry.expiration_mut() {
        *expiration = None;
    }
    Event { entry, deleted, files: Files::default() }
}

#[async_trait]
impl<T: Entry> Storage<T> for Memory<T> {
    async fn register(&self, mut entry: T, life: Option<Duration>) -> Result<T> {
        let mut state = self.state.lock();
        let before = state.entries.get(entry.name()).cloned();
        match &before {
            Some(known) => {
                known.check_owner(entry.owner())?;
                if let Some(first) = entry.first_registration_mut() {
                    *first = known.first_registration();
                }
            }
            None => check_room(&state.entries, entry.owner())?,
        }
        let entry = Arc::new(entry);
        // A life beyond what the clock can tell has no end.
        state.entries.insert(entry.clone(), life.and_then(|life| Instant::now().checked_add(life)));
        state.watchers.tell(before.as_ref(), Some(&entry));
        drop(state);
        Ok(T::clone(&entry))
    }

    async fn unregister(&self, name: &str, owner: Option<&str>) -> Result<()> {
        let mut state = self.state.lock();
        let Some(known) = state.entries.get(name) else { return Ok(()) };
        if let Some(owner) = owner {
            known.check_owner(owner)?;
        }
        let known = state.entries.remove(name);
        state.watchers.tell(known.as_ref(), None);
        Ok(())
    }

    async fn find(&self, query: Query<T>) -> Result<Events<T>> {
        let quiet = query.watch && query.without_refreshes;
        let mut state = self.state.lock();
        let found = stream::iter(state.entries.find(&query.like));
        let found = found.map(move |entry| Ok(event(&entry, false, quiet)));
        if !query.watch {
            return Ok(Box::pin(found));
        }
        let changes = state.watchers.add(query.like, quiet, &self.state)?;
        drop(state);
        Ok(Box::pin(found.chain(
            changes.map(move |change| change.map(|change| event(&change.entry, change.deleted, quiet))),
        )))
    }

    async fn expire(&self) -> Option<Instant> {
        let mut state = self.state.lock();
        while let Some(ended) = state.entries.take_ended(Instant::now()) {
            tracing::info!(what = T::WHAT, name = ended.name(), "not refreshed in time: unregistered");
            state.watchers.tell(Some(&ended), None);
        }
        state.entries.next_end()
    }
}

#[cfg(test)]
mod tests;

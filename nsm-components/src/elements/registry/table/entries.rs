//! The entries by name, by network service, and by when they end.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use tokio::time::Instant;

use crate::chain::Entry;

/// See the module. Whatever it is asked costs by what it answers, not by what is kept.
#[derive(Debug)]
pub(super) struct Entries<T> {
    names: BTreeMap<Arc<str>, Kept<T>>,
    services: HashMap<String, BTreeSet<Arc<str>>>,
    ends: BTreeSet<(Instant, Arc<str>)>,
    /// How many each owner has.
    owners: HashMap<String, usize>,
}

#[derive(Debug)]
struct Kept<T> {
    entry: Arc<T>,
    end: Option<Instant>,
}

impl<T> Default for Entries<T> {
    fn default() -> Self {
        Self {
            names: BTreeMap::new(),
            services: HashMap::new(),
            ends: BTreeSet::new(),
            owners: HashMap::new(),
        }
    }
}

impl<T: Entry> Entries<T> {
    pub(super) fn len(&self) -> usize {
        self.names.len()
    }

    pub(super) fn of_owner(&self, owner: &str) -> usize {
        self.owners.get(owner).copied().unwrap_or(0)
    }

    pub(super) fn get(&self, name: &str) -> Option<&Arc<T>> {
        self.names.get(name).map(|kept| &kept.entry)
    }

    /// Puts an entry in the place of what has its name.
    pub(super) fn insert(&mut self, entry: Arc<T>, end: Option<Instant>) {
        let name: Arc<str> = match self.names.get_key_value(entry.name()) {
            Some((name, _)) => name.clone(),
            None => entry.name().into(),
        };
        self.remove(&name);
        for service in entry.services() {
            // Most services are known: only a new one's name is copied.
            match self.services.get_mut(service) {
                Some(names) => drop(names.insert(name.clone())),
                None => drop(self.services.insert(service.clone(), [name.clone()].into())),
            }
        }
        match self.owners.get_mut(entry.owner()) {
            Some(count) => *count += 1,
            None => drop(self.owners.insert(entry.owner().to_owned(), 1)),
        }
        self.ends.extend(end.map(|end| (end, name.clone())));
        self.names.insert(name, Kept { entry, end });
    }

    pub(super) fn remove(&mut self, name: &str) -> Option<Arc<T>> {
        let (name, kept) = self.names.remove_entry(name)?;
        for service in kept.entry.services() {
            if let Some(names) = self.services.get_mut(service) {
                names.remove(&name);
                if names.is_empty() {
                    self.services.remove(service);
                }
            }
        }
        if let Some(count) = self.owners.get_mut(kept.entry.owner()) {
            *count -= 1;
            if *count == 0 {
                self.owners.remove(kept.entry.owner());
            }
        }
        if let Some(end) = kept.end {
            self.ends.remove(&(end, name));
        }
        Some(kept.entry)
    }

    /// What a query finds, by name.
    pub(super) fn find(&self, like: &T) -> Vec<Arc<T>> {
        let fits = |entry: &&Arc<T>| like.finds(entry);
        if !like.name().is_empty() {
            return self.get(like.name()).filter(fits).cloned().into_iter().collect();
        }
        if like.services().is_empty() {
            return self.names.values().map(|kept| &kept.entry).filter(fits).cloned().collect();
        }
        // All of them must be served: the rarest has the fewest to look through.
        let serving = |service: &String| self.services.get(service);
        let fewest = like.services().iter().map(serving).min_by_key(|names| names.map_or(0, BTreeSet::len));
        let names = fewest.flatten().into_iter().flatten();
        names.filter_map(|name| self.get(name)).filter(fits).cloned().collect()
    }

    /// One entry whose time is over.
    pub(super) fn take_ended(&mut self, now: Instant) -> Option<Arc<T>> {
        let (_, name) = self.ends.first().filter(|(end, _)| *end <= now)?.clone();
        self.remove(&name)
    }

    /// When the next one ends.
    pub(super) fn next_end(&self) -> Option<Instant> {
        self.ends.first().map(|(end, _)| *end)
    }
}

//! `memory`: a storage in memory (protocol §4.7).

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::time::Instant;

use super::{Storage, table::Table};
use crate::chain::{Entry, Events, Query, Result};

/// See the module.
#[derive(Debug)]
pub struct Memory<T>(Table<T>);

impl<T> Default for Memory<T> {
    fn default() -> Self {
        Self(Table::default())
    }
}

#[async_trait]
impl<T: Entry> Storage<T> for Memory<T> {
    async fn register(&self, mut entry: T, life: Option<Duration>) -> Result<T> {
        let mut table = self.0.lock();
        match table.get(entry.name()) {
            Some(known) => {
                known.check_owner(entry.owner())?;
                if let Some(first) = entry.first_registration_mut() {
                    *first = known.first_registration();
                }
            }
            None => table.check_room(entry.owner())?,
        }
        let entry = Arc::new(entry);
        // A life beyond what the clock can tell has no end.
        table.put(&entry, life.and_then(|life| Instant::now().checked_add(life)));
        drop(table);
        Ok(T::clone(&entry))
    }

    async fn unregister(&self, name: &str, owner: Option<&str>) -> Result<()> {
        let mut table = self.0.lock();
        let Some(known) = table.get(name) else { return Ok(()) };
        if let Some(owner) = owner {
            known.check_owner(owner)?;
        }
        table.remove(name);
        Ok(())
    }

    async fn find(&self, query: Query<T>) -> Result<Events<T>> {
        self.0.find(query)
    }

    async fn expire(&self) -> Option<Instant> {
        let mut table = self.0.lock();
        while let Some(ended) = table.take_ended(Instant::now()) {
            tracing::info!(what = T::WHAT, name = ended.name(), "not refreshed in time: unregistered");
        }
        table.next_end()
    }

    fn size(&self) -> (usize, usize) {
        self.0.size()
    }
}

#[cfg(test)]
mod tests;

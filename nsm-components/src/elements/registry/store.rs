//! The end of a registry's chain: a storage, and the lives of what it keeps (protocol §4.7).

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use parking_lot::Mutex;
use prost_types::Timestamp;
use tokio::{sync::Notify, time::Instant};
use tokio_util::task::AbortOnDropHandle;

use super::{Storage, expire::life_of_tokens};
use crate::chain::{Clock, Entry, Events, Query, RegistryCx, RegistryElement, RegistryNext, Result};

/// Shortest pause between two looks for what came to its end: what ends together goes together.
const PAUSE: Duration = Duration::from_millis(100);

/// See the module. An entry lives as long as the tokens that registered it, or shorter where it says so.
pub struct Store<T> {
    storage: Arc<dyn Storage<T>>,
    clock: Clock,
    next: Arc<Next>,
    _task: AbortOnDropHandle<()>,
}

/// When the next entry ends, as far as the task knows that waits for it.
#[derive(Debug, Default)]
struct Next {
    end: Mutex<Option<Instant>>,
    sooner: Notify,
}

impl<T: Entry> Store<T> {
    /// Keeps entries in `storage`.
    pub fn new(storage: Arc<dyn Storage<T>>, clock: Clock) -> Self {
        let next = Arc::new(Next::default());
        let task = AbortOnDropHandle::new(tokio::spawn(expire(storage.clone(), next.clone())));
        Self { storage, clock, next, _task: task }
    }

    /// When the entry ends: by its own word, by the tokens that registered it.
    fn bound(&self, cx: &RegistryCx, entry: &mut T) -> Result<Option<Duration>> {
        let Some(expiration) = entry.expiration_mut() else { return Ok(None) };
        let ends = expiration.map(|time| time.seconds).into_iter().chain(life_of_tokens(cx)?);
        let Some(end) = ends.min() else { return Ok(None) };
        *expiration = Some(Timestamp { seconds: end, nanos: 0 });
        Ok(Some(self.clock.until(end)))
    }

    fn set_first_registration(&self, entry: &mut T) {
        if let Some(first) = entry.first_registration_mut() {
            #[allow(clippy::cast_possible_truncation)] // whole seconds since the epoch
            first.get_or_insert(Timestamp { seconds: self.clock.seconds() as i64, nanos: 0 });
        }
    }
}

/// Takes back what ends, for good.
async fn expire<T: Entry>(storage: Arc<dyn Storage<T>>, next: Arc<Next>) {
    loop {
        // Whatever is registered from here on wakes this task.
        *next.end.lock() = None;
        let end = storage.expire().await;
        *next.end.lock() = end;
        let ended = async {
            match end {
                Some(end) => tokio::time::sleep_until(end).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = ended => {}
            () = next.sooner.notified() => {}
        }
        tokio::time::sleep(PAUSE).await;
    }
}

// === impl Next ===

impl Next {
    fn note(&self, end: Instant) {
        let mut next = self.end.lock();
        if next.is_none_or(|next| end < next) {
            *next = Some(end);
            self.sooner.notify_one();
        }
    }
}

#[async_trait]
impl<T: Entry> RegistryElement<T> for Store<T> {
    fn name(&self) -> &'static str {
        "store"
    }

    async fn register(&self, cx: &RegistryCx, mut entry: T, _: RegistryNext<'_, T>) -> Result<T> {
        let life = self.bound(cx, &mut entry)?;
        self.set_first_registration(&mut entry);
        let stored = self.storage.register(entry, life).await?;
        if let Some(end) = life.and_then(|life| Instant::now().checked_add(life)) {
            self.next.note(end);
        }
        Ok(stored)
    }

    async fn unregister(&self, cx: &RegistryCx, entry: T, _: RegistryNext<'_, T>) -> Result<()> {
        let owner = cx.caller.is_some().then(|| entry.owner());
        self.storage.unregister(entry.name(), owner).await
    }

    async fn find(&self, _: &RegistryCx, query: Query<T>, _: RegistryNext<'_, T>) -> Result<Events<T>> {
        self.storage.find(query).await
    }
}

#[cfg(test)]
impl<T: Entry> Store<T> {
    /// One in memory, by the system's clock.
    pub(crate) fn in_memory() -> Arc<Self> {
        Arc::new(Self::new(Arc::new(super::Memory::default()), Arc::new(crate::chain::SystemClock)))
    }
}

#[cfg(test)]
mod tests;

//! Old ways that are being ended, while the connection goes on by its new one.
//!
//! The next process judges by the connection's id alone: a Request that came there before the Close
//! that was sent earlier would be closed by it. So a Request back to where an end is under way waits.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant};
use tracing::Instrument;

use crate::{
    api::peer::Address,
    chain::{Error, Kind, Result},
};

/// Most ends under way; beyond it they are waited for.
const MAX: usize = 4096;

/// Id of the connection, and where its way ends.
type Key = (String, String);

/// See the module. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Endings(Arc<Mutex<HashMap<Key, watch::Receiver<()>>>>);

/// Takes the end out of the table, however it ends.
struct Ended {
    key: Key,
    all: Weak<Mutex<HashMap<Key, watch::Receiver<()>>>>,
    _told: watch::Sender<()>,
}

impl Drop for Ended {
    fn drop(&mut self) {
        if let Some(all) = self.all.upgrade() {
            all.lock().remove(&self.key);
        }
    }
}

impl Endings {
    /// Runs `end`, which ends the way of connection `id` to `address`, in a task of its own.
    pub(super) async fn run(
        &self,
        id: &str,
        address: &Address,
        end: impl Future<Output = ()> + Send + 'static,
    ) {
        let Some(ended) = self.enter((id.to_owned(), address.to_string())) else { return end.await };
        let task = async move {
            end.await;
            drop(ended);
        };
        tokio::spawn(task.in_current_span());
    }

    fn enter(&self, key: Key) -> Option<Ended> {
        let mut all = self.0.lock();
        if all.len() >= MAX || all.contains_key(&key) {
            return None;
        }
        let (told, under_way) = watch::channel(());
        all.insert(key.clone(), under_way);
        Some(Ended { key, all: Arc::downgrade(&self.0), _told: told })
    }

    /// Waits until no end of this way is under way.
    pub(super) async fn wait(&self, id: &str, address: &Address, deadline: Instant) -> Result<()> {
        if self.0.lock().is_empty() {
            return Ok(());
        }
        let under_way = self.0.lock().get(&(id.to_owned(), address.to_string())).cloned();
        let Some(mut under_way) = under_way else { return Ok(()) };
        // It never says anything: it ends.
        let ended = async { while under_way.changed().await.is_ok() {} };
        tokio::time::timeout_at(deadline, ended).await.map_err(|_| {
            Error::new(Kind::Deadline, format_args!("connection {id} is still being closed at {address}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn within(seconds: u64) -> Instant {
        Instant::now() + Duration::from_secs(seconds)
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_is_waited_for_on_its_own_way_alone_and_leaves_nothing() {
        let endings = Endings::default();
        let (old, new) = (Address::Tcp("a:1".into()), Address::Tcp("b:1".into()));
        let begun = Instant::now();
        endings.run("x", &old, tokio::time::sleep(Duration::from_secs(3))).await;
        for (id, address) in [("x", &new), ("y", &old)] {
            endings.wait(id, address, within(1)).await.unwrap();
        }
        assert_eq!(begun.elapsed(), Duration::ZERO, "nobody else waits, nor who ends it");
        let late = endings.wait("x", &old, within(1)).await.unwrap_err();
        assert_eq!(late.kind, Kind::Deadline);
        endings.wait("x", &old, within(5)).await.unwrap();
        assert_eq!(begun.elapsed(), Duration::from_secs(3));
        assert!(endings.0.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_than_so_many_are_under_way_at_once() {
        let endings = Endings::default();
        let address = Address::Tcp("a:1".into());
        let begun = Instant::now();
        for number in 0..MAX {
            endings.run(&number.to_string(), &address, tokio::time::sleep(Duration::from_secs(3))).await;
        }
        assert_eq!(begun.elapsed(), Duration::ZERO);
        endings.run("x", &address, tokio::time::sleep(Duration::from_secs(3))).await;
        assert_eq!(begun.elapsed(), Duration::from_secs(3));
    }
}

//! Where a registry keeps its entries: what every kind of storage promises (protocol §4.7).

use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use crate::chain::{Entry, Events, Query, Result};

/// Keeps entries of one kind by their names.
///
/// What holds for all of them:
///
/// * A name belongs to the [owner](Entry::owner) of the entry that is stored under it; from anybody
///   else a change is `Denied`, with the owner's ID. Nothing but the entry tells whose it is.
/// * Changes of a name have an order, the same for everybody who looks.
/// * A watch tells what is there, each entry once, and then every change after that: an entry that
///   came or changed with its new state, one that went, or no longer is what the watch looks for, as
///   it last was. A watcher that falls behind gets `Exhausted` as its last word; the others never
///   notice.
/// * An entry with a life is gone when that is over and it was not registered again.
#[async_trait]
pub trait Storage<T: Entry>: Send + Sync + 'static {
    /// Stores an entry under its name, for this long if it ends at all. Answers what is stored: the
    /// time of the first registration stays as long as the name.
    async fn register(&self, entry: T, life: Option<Duration>) -> Result<T>;

    /// Takes an entry back for this owner, or for the registry itself. One that is not there is gone
    /// already.
    async fn unregister(&self, name: &str, owner: Option<&str>) -> Result<()>;

    /// What this query finds.
    async fn find(&self, query: Query<T>) -> Result<Events<T>>;

    /// Takes back what has come to its end; answers when the next entry will.
    async fn expire(&self) -> Option<Instant>;

    /// How many entries there are, and how many watches of them.
    fn size(&self) -> (usize, usize);
}

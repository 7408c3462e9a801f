//! Who wants to hear of changes: found by what they look for, told without waiting for anybody.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll},
};

use futures::Stream;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::State;
use crate::chain::{Entry, Error, Kind, Result};

/// Changes a watcher may be behind; a slower one is cut off and asks anew.
pub(in super::super) const QUEUE: usize = 1024;

/// Most watchers; beyond it a watch is refused rather than memory filled.
const MAX_WATCHERS: usize = 200_000;

/// An entry that changed; one that went as it last was. All watchers share it.
#[derive(Clone, Debug)]
pub(super) struct Change<T> {
    pub(super) entry: Arc<T>,
    pub(super) deleted: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Watchers<T> {
    buckets: HashMap<Place, BTreeMap<u64, Watcher<T>>>,
    count: usize,
    next: u64,
}

/// Which changes a watcher has to be asked about: each watcher is in one place.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Place {
    Name(String),
    Service(String),
    All,
}

#[derive(Debug)]
struct Watcher<T> {
    like: T,
    without_refreshes: bool,
    changes: mpsc::Sender<Change<T>>,
}

/// The changes one watcher hears of. Its end leaves nothing behind.
pub(super) struct Changes<T: Entry> {
    receiver: mpsc::Receiver<Change<T>>,
    is_cut: bool,
    place: Place,
    number: u64,
    state: Weak<Mutex<State<T>>>,
}

impl<T> Default for Watchers<T> {
    fn default() -> Self {
        Self { buckets: HashMap::new(), count: 0, next: 0 }
    }
}

// === impl Place ===

impl Place {
    fn of_query<T: Entry>(like: &T) -> Self {
        match like.services().first() {
            _ if !like.name().is_empty() => Self::Name(like.name().to_owned()),
            Some(service) => Self::Service(service.clone()),
            None => Self::All,
        }
    }

    fn of_entries<'a, T: Entry>(entries: impl Iterator<Item = &'a Arc<T>>) -> BTreeSet<Self> {
        let mut places = BTreeSet::from([Self::All]);
        for entry in entries {
            places.insert(Self::Name(entry.name().to_owned()));
            places.extend(entry.services().iter().cloned().map(Self::Service));
        }
        places
    }
}

// === impl Watchers ===

impl<T: Entry> Watchers<T> {
    /// One more; it hears of what changes from now on.
    pub(super) fn add(
        &mut self,
        like: T,
        without_refreshes: bool,
        state: &Arc<Mutex<State<T>>>,
    ) -> Result<Changes<T>> {
        if self.count >= MAX_WATCHERS {
            let message = format_args!("{MAX_WATCHERS} watches of {}s are open already", T::WHAT);
            return Err(Error::new(Kind::Exhausted, message));
        }
        let (place, number) = (Place::of_query(&like), self.next);
        let (changes, receiver) = mpsc::channel(QUEUE);
        let bucket = self.buckets.entry(place.clone()).or_default();
        bucket.insert(number, Watcher { like, without_refreshes, changes });
        self.next += 1;
        self.count += 1;
        Ok(Changes { receiver, is_cut: false, place, number, state: Arc::downgrade(state) })
    }

    fn remove(&mut self, place: &Place, number: u64) {
        let Some(bucket) = self.buckets.get_mut(place) else { return };
        self.count -= usize::from(bucket.remove(&number).is_some());
        if bucket.is_empty() {
            self.buckets.remove(place);
        }
    }

    /// Tells those who look for it what an entry was and is.
    pub(super) fn tell(&mut self, before: Option<&Arc<T>>, now: Option<&Arc<T>>) {
        let is_refresh = match (before, now) {
            (Some(before), Some(now)) => is_refresh(&**before, &**now),
            _ => false,
        };
        for place in Place::of_entries(before.into_iter().chain(now)) {
            let Some(bucket) = self.buckets.get_mut(&place) else { continue };
            let told = bucket.len();
            bucket.retain(|_, watcher| watcher.tell(before, now, is_refresh));
            self.count -= told - bucket.len();
            if bucket.is_empty() {
                self.buckets.remove(&place);
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        debug_assert_eq!(self.count, self.buckets.values().map(BTreeMap::len).sum::<usize>());
        self.count
    }
}

/// Whether a registration changed nothing but the end of the entry's life.
fn is_refresh<T: Entry>(before: &T, now: &T) -> bool {
    let mut before = before.clone();
    let mut end = now.clone();
    if let (Some(before), Some(now)) = (before.expiration_mut(), end.expiration_mut()) {
        *before = now.take();
    }
    before == *now
}

// === impl Watcher ===

impl<T: Entry> Watcher<T> {
    /// Whether it goes on: one whose queue is full is cut off.
    fn tell(&self, before: Option<&Arc<T>>, now: Option<&Arc<T>>, is_refresh: bool) -> bool {
        let known = before.filter(|entry| self.like.finds(entry));
        let change = match (known, now.filter(|entry| self.like.finds(entry))) {
            (Some(_), Some(_)) if self.without_refreshes && is_refresh => return true,
            (_, Some(entry)) => Change { entry: entry.clone(), deleted: false },
            (Some(entry), None) => Change { entry: entry.clone(), deleted: true },
            (None, None) => return true,
        };
        self.changes.try_send(change).is_ok()
    }
}

// === impl Changes ===

impl<T: Entry> Stream for Changes<T> {
    type Item = Result<Change<T>>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.is_cut {
            return Poll::Ready(None);
        }
        self.receiver.poll_recv(cx).map(|change| {
            self.is_cut = change.is_none();
            let cut = || Error::new(Kind::Exhausted, "the watcher is too slow: ask again");
            Some(change.ok_or_else(cut))
        })
    }
}

impl<T: Entry> Drop for Changes<T> {
    fn drop(&mut self) {
        if let Some(state) = self.state.upgrade() {
            state.lock().watchers.remove(&self.place, self.number);
        }
    }
}

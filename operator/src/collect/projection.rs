//! Stores for kinds of which there are many and of whose objects little matters.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
};

use kube::runtime::watcher::Event;
use tokio::sync::watch;

/// Namespace and name. Few namespaces, many names.
type Name = (Arc<str>, Box<str>);

/// What is kept of each object, by namespace and name; clones share it.
#[derive(Debug)]
pub struct Projection<V> {
    entries: Arc<RwLock<BTreeMap<Name, V>>>,
    ready: watch::Receiver<bool>,
}

impl<V> Clone for Projection<V> {
    fn clone(&self) -> Self {
        Self { entries: Arc::clone(&self.entries), ready: self.ready.clone() }
    }
}

impl<V> Projection<V> {
    /// Calls for each entry, by namespace and name.
    pub fn each(&self, mut call: impl FnMut(&str, &str, &V)) {
        for ((namespace, name), value) in self.read().iter() {
            call(namespace, name, value);
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.read().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits until all are known; an error means that they never will be.
    ///
    /// # Cancel safety
    /// Nothing is lost when this is dropped.
    pub async fn wait_until_ready(&self) -> Result<(), watch::error::RecvError> {
        self.ready.clone().wait_for(|ready| *ready).await.map(|_| ())
    }

    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<Name, V>> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What of an event concerns others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// Nothing.
    None,
    /// Something is different now.
    Changed,
    /// All is known anew.
    Listed,
}

/// Fills a [`Projection`]. What is listed counts when the list is whole.
pub(super) struct Projector<V> {
    entries: Arc<RwLock<BTreeMap<Name, V>>>,
    listing: BTreeMap<Name, V>,
    ready: watch::Sender<bool>,
    words: Words,
}

impl<V: PartialEq> Projector<V> {
    pub(super) fn new() -> (Self, Projection<V>) {
        let (ready, receiver) = watch::channel(false);
        let entries = Arc::default();
        let projection = Projection { entries: Arc::clone(&entries), ready: receiver };
        (Self { entries, listing: BTreeMap::new(), ready, words: Words::default() }, projection)
    }

    /// Takes note of an event.
    pub(super) fn note<K: kube::Resource>(
        &mut self,
        event: Event<K>,
        project: impl FnOnce(&K, &mut Words) -> V,
    ) -> News {
        match event {
            Event::Init => {
                self.listing.clear();
                News::None
            }
            Event::InitApply(object) => {
                let (name, value) = (self.name(&object), project(&object, &mut self.words));
                self.listing.insert(name, value);
                News::None
            }
            Event::InitDone => {
                let listed = mem::take(&mut self.listing);
                *self.entries.write().unwrap_or_else(PoisonError::into_inner) = listed;
                self.ready.send_replace(true);
                News::Listed
            }
            Event::Apply(object) => {
                let (name, value) = (self.name(&object), project(&object, &mut self.words));
                let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
                if entries.get(&name) == Some(&value) {
                    return News::None;
                }
                entries.insert(name, value);
                News::Changed
            }
            Event::Delete(object) => {
                let name = self.name(&object);
                self.entries.write().unwrap_or_else(PoisonError::into_inner).remove(&name);
                News::Changed
            }
        }
    }

    fn name<K: kube::Resource>(&mut self, object: &K) -> Name {
        let meta = object.meta();
        let namespace = self.words.of(meta.namespace.as_deref().unwrap_or_default());
        (namespace, meta.name.as_deref().unwrap_or_default().into())
    }
}

/// Words that many objects share, each kept once.
#[derive(Debug, Default)]
pub(super) struct Words {
    known: BTreeSet<Arc<str>>,
    enough: usize,
}

impl Words {
    pub(super) fn of(&mut self, word: &str) -> Arc<str> {
        if let Some(known) = self.known.get(word) {
            return Arc::clone(known);
        }
        // What nobody has any more is forgotten before it becomes much.
        if self.known.len() >= self.enough {
            self.known.retain(|word| Arc::strong_count(word) > 1);
            self.enough = (self.known.len() * 2).max(64);
        }
        let word: Arc<str> = word.into();
        self.known.insert(Arc::clone(&word));
        word
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;

    use super::*;

    fn object(name: &str) -> ConfigMap {
        let mut object = ConfigMap::default();
        object.metadata.name = Some(name.into());
        object
    }

    fn names(projection: &Projection<usize>) -> Vec<String> {
        let mut names = Vec::new();
        projection.each(|_, name, _| names.push(name.to_owned()));
        names
    }

    #[test]
    fn a_list_counts_when_it_is_whole_and_what_stays_the_same_is_no_news() {
        let (mut projector, projection) = Projector::new();
        let mut note =
            |event| projector.note(event, |object: &ConfigMap, _| object.metadata.labels.iter().len());
        note(Event::Init);
        note(Event::InitApply(object("a")));
        assert!(projection.is_empty());
        assert_eq!(note(Event::InitDone), News::Listed);
        assert_eq!(note(Event::Apply(object("b"))), News::Changed);
        assert_eq!(note(Event::Apply(object("b"))), News::None);
        // A list that breaks off changes nothing.
        note(Event::Init);
        note(Event::InitApply(object("c")));
        note(Event::Init);
        assert_eq!(names(&projection), ["a", "b"]);
        note(Event::InitApply(object("d")));
        note(Event::InitDone);
        assert_eq!(names(&projection), ["d"]);
        note(Event::Delete(object("d")));
        assert!(projection.is_empty());
    }

    #[test]
    fn words_are_shared_and_forgotten() {
        let mut words = Words::default();
        let kept = words.of("kept");
        for number in 0..1000 {
            words.of(&number.to_string());
        }
        assert!(words.known.len() <= 64);
        assert!(Arc::ptr_eq(&kept, &words.of("kept")));
    }
}

//! The objects that there are, fed by watches and by the answers to own writes; what entries they make
//! goes into the table.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use super::{
    Object,
    spec::{Life, Resource, Said, life, read},
};
use crate::elements::registry::table::Table;

/// Namespace and name of an object.
pub(super) type Key = (Arc<str>, Arc<str>);

/// See the module.
#[derive(Debug)]
pub(super) struct Known<T> {
    /// Where this registry may delete.
    namespace: Arc<str>,
    table: Table<T>,
    objects: HashMap<Key, Held<T>>,
    /// Who says to have a name, the oldest first.
    claims: HashMap<Arc<str>, BTreeSet<Claim>>,
    /// UIDs of objects that this process took back: late news of them are none.
    taken_back: HashSet<String>,
}

/// An object as it is known.
#[derive(Debug)]
pub(super) struct Held<T> {
    pub(super) uid: String,
    pub(super) version: u64,
    pub(super) said: Said<Arc<T>>,
    name: Arc<str>,
    created: i64,
    pub(super) life: Life,
}

/// When the object was made, and which one.
type Claim = (i64, Key);

/// An object whose time is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) key: Key,
    pub(super) uid: String,
    pub(super) version: u64,
}

fn share<T>(said: Said<T>) -> Said<Arc<T>> {
    match said {
        Said::Entry(entry) => Said::Entry(Arc::new(entry)),
        Said::Template => Said::Template,
        Said::Over => Said::Over,
        Said::Unreadable(why) => Said::Unreadable(why),
    }
}

impl<T: Resource> Known<T> {
    /// Nothing is known yet.
    pub(super) fn new(namespace: &str, table: Table<T>) -> Self {
        Self {
            namespace: namespace.into(),
            table,
            objects: HashMap::new(),
            claims: HashMap::new(),
            taken_back: HashSet::new(),
        }
    }

    pub(super) fn get(&self, key: &Key) -> Option<&Held<T>> {
        self.objects.get(key)
    }

    /// The objects that say to have a name, the oldest first.
    pub(super) fn of_name(&self, name: &str) -> impl Iterator<Item = (&Key, &Held<T>)> {
        let claims = self.claims.get(name).into_iter().flatten();
        claims.filter_map(|(_, key)| self.objects.get_key_value(key))
    }

    /// The whole of what there is at this version.
    pub(super) fn list(&mut self, objects: Vec<Object>, version: u64) {
        let there: HashSet<Key> = objects.iter().map(|object| object.key.clone()).collect();
        let uids: HashSet<&str> = objects.iter().map(|object| object.uid.as_str()).collect();
        self.taken_back.retain(|uid| uids.contains(uid.as_str()));
        // What was written here after the list was made is not in it.
        let gone = |(key, held): &(&Key, &Held<T>)| held.version <= version && !there.contains(*key);
        let gone: Vec<Key> = self.objects.iter().filter(gone).map(|(key, _)| key.clone()).collect();
        for key in gone {
            self.forget(&key);
        }
        for object in objects {
            self.observe(object);
        }
    }

    /// What an object is now. Older news than what is known are none.
    pub(super) fn observe(&mut self, object: Object) {
        let Object { key, uid, version, created, spec } = object;
        if self.taken_back.contains(&uid)
            || self.objects.get(&key).is_some_and(|held| held.version >= version)
        {
            return;
        }
        let said = share(read::<T>(&key.1, &spec));
        if let Said::Unreadable(why) = &said {
            tracing::warn!(kind = T::KIND, namespace = %key.0, name = %key.1, why, "not served: it cannot be read");
        }
        let (name, life) = match &said {
            Said::Entry(entry) => (entry.name().into(), life(&**entry)),
            Said::Template | Said::Over | Said::Unreadable(_) => (key.1.clone(), Life::Endless),
        };
        let before = self.release(&key);
        self.claims.entry(Arc::clone(&name)).or_default().insert((created, key.clone()));
        self.objects.insert(key, Held { uid, version, said, name: name.clone(), created, life });
        if let Some(before) = before.filter(|before| *before != name) {
            self.settle(&before);
        }
        self.settle(&name);
    }

    /// An object is gone.
    pub(super) fn gone(&mut self, key: &Key, uid: &str) {
        self.taken_back.remove(uid);
        if self.objects.get(key).is_some_and(|held| held.uid == uid) {
            self.forget(key);
        }
    }

    /// This process has deleted an object, of which watches will speak for a moment yet.
    pub(super) fn take_back(&mut self, key: &Key, uid: &str) {
        if self.objects.get(key).is_some_and(|held| held.uid == uid) {
            self.forget(key);
            self.taken_back.insert(uid.to_owned());
        }
    }

    fn forget(&mut self, key: &Key) {
        if let Some(name) = self.release(key) {
            self.settle(&name);
        }
    }

    /// Takes an object out; answers whose name is to be settled.
    fn release(&mut self, key: &Key) -> Option<Arc<str>> {
        let held = self.objects.remove(key)?;
        if let Some(claims) = self.claims.get_mut(&held.name) {
            claims.remove(&(held.created, key.clone()));
            if claims.is_empty() {
                self.claims.remove(&held.name);
            }
        }
        Some(held.name)
    }

    /// Brings the table in line with who has a name: the oldest that is an entry.
    fn settle(&self, name: &str) {
        let serving = self.of_name(name).find_map(|(_, held)| match &held.said {
            Said::Entry(entry) => Some(entry),
            Said::Template | Said::Over | Said::Unreadable(_) => None,
        });
        let mut table = self.table.lock();
        match (table.get(name), serving) {
            (None, None) => {}
            // Its status changed, or a part that is no registry's affair.
            (Some(known), Some(entry)) if known == entry => {}
            (_, Some(entry)) => table.put(entry, None),
            (Some(_), None) => table.remove(name),
        }
    }

    fn is_own(&self, key: &Key) -> bool {
        key.0 == self.namespace
    }

    /// What is to be deleted: of these nodes, or by its own word at this time. What others keep in their
    /// namespaces is theirs.
    pub(super) fn ended(&self, is_over: impl Fn(&str) -> bool, seconds: f64) -> Vec<Ended> {
        let ended = |held: &Held<T>| match &held.life {
            Life::OfNode(node) => is_over(node),
            life => life.is_over(seconds),
        };
        let ended = self.objects.iter().filter(|(key, held)| self.is_own(key) && ended(held));
        ended
            .map(|(key, held)| Ended { key: key.clone(), uid: held.uid.clone(), version: held.version })
            .collect()
    }

    /// Tells no more of what is over in namespaces where it is not deleted.
    pub(super) fn hide_ended(&mut self, seconds: f64) {
        let over = |(key, held): &(&Key, &Held<T>)| {
            !self.is_own(key) && matches!(held.said, Said::Entry(_)) && held.life.is_over(seconds)
        };
        let over: Vec<Key> = self.objects.iter().filter(over).map(|(key, _)| key.clone()).collect();
        for key in over {
            if let Some(held) = self.objects.get_mut(&key) {
                held.said = Said::Over;
                let name = held.name.clone();
                self.settle(&name);
            }
        }
    }

    /// The nodes that entries end with.
    pub(super) fn nodes(&self) -> HashSet<String> {
        let node = |(key, held): (&Key, &Held<T>)| match &held.life {
            Life::OfNode(node) if self.is_own(key) => Some(node.clone()),
            Life::OfNode(_) | Life::Endless | Life::Until(_) => None,
        };
        self.objects.iter().filter_map(node).collect()
    }
}

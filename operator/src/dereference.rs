//! What is known of the cluster without asking: the stores of the watches, and over them what the
//! operator has just written and the watches have not delivered yet.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{ResourceExt, api::DynamicObject, runtime::reflector::ObjectRef};
use nsm_crds::{CONFIG_NAME, NSMConfig, NSMNodeState};
use serde_json::Value;

use crate::{
    collect::Stores,
    names::{self, apply_set},
    object::{Key, Kind},
};

/// How long an own write counts more than a watch that has not delivered it.
const TRUST: Duration = Duration::from_secs(5);

/// Own writes by key, until the watch has caught up with them.
#[derive(Debug)]
pub struct Written<K, T>(Mutex<HashMap<K, Entry<T>>>);

#[derive(Debug)]
struct Entry<T> {
    version: u64,
    at: Instant,
    /// Nothing, if the object is gone.
    value: Option<T>,
}

impl<K, T> Default for Written<K, T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash, T: Clone> Written<K, T> {
    /// Remembers a write by the resource version it got.
    pub fn remember(&self, key: K, version: Option<&str>, value: T) {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|_, entry| entry.at.elapsed() < TRUST);
        let version = number(version);
        // The answer to a write may come after the news that what it made is gone.
        if entries.get(&key).is_none_or(|entry| entry.version <= version || entry.value.is_some()) {
            entries.insert(key, Entry { version, at: Instant::now(), value: Some(value) });
        }
    }

    /// Notes that an object is gone, by the version in which it was deleted.
    pub fn gone(&self, key: K, version: Option<&str>) {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let version = number(version);
        if entries.get(&key).is_none_or(|entry| entry.version <= version) {
            entries.insert(key, Entry { version, at: Instant::now(), value: None });
        }
    }

    /// Forgets the writes of some keys that were made before a point in time.
    pub fn forget_before(&self, since: Instant, keys: impl Fn(&K) -> bool) {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|key, entry| entry.at >= since || !keys(key));
    }

    /// How long ago the last write was, if it is remembered.
    pub fn age(&self, key: &K) -> Option<Duration> {
        let entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        entries.get(key).map(|entry| entry.at.elapsed())
    }

    /// The write, if it is newer than what a watch knows.
    pub fn newer_than(&self, key: &K, version: Option<&str>) -> Option<T> {
        let entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = entries.get(key)?;
        if entry.at.elapsed() < TRUST && entry.version > number(version) { entry.value.clone() } else { None }
    }
}

/// Resource versions are ordered numbers (KEP-5504); one that is not counts as oldest.
fn number(version: Option<&str>) -> u64 {
    version.and_then(|version| version.parse().ok()).unwrap_or(0)
}

/// A version of an object.
struct Shown {
    version: Option<String>,
    value: Arc<Value>,
}

/// All that is known.
pub struct Known {
    stores: Stores,
    written: Written<Key, Arc<Value>>,
    shown: Mutex<HashMap<Key, Shown>>,
    /// When a watch told of an object lately.
    heard: Mutex<HashMap<Key, Instant>>,
}

impl Known {
    /// Nothing is written yet.
    pub fn new(stores: Stores) -> Self {
        Self { stores, written: Written::default(), shown: Mutex::default(), heard: Mutex::default() }
    }

    /// Notes when a watch told of an object.
    pub fn heard(&self, key: &Key, at: Instant) {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.retain(|_, at| at.elapsed() < TRUST);
        heard.insert(key.clone(), at);
    }

    /// How long ago that was, if it was lately; told once.
    pub fn heard_ago(&self, key: &Key) -> Option<Duration> {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.remove(key).map(|at| at.elapsed()).filter(|ago| *ago < TRUST)
    }

    /// The stores.
    pub fn stores(&self) -> &Stores {
        &self.stores
    }

    /// The one `NSMConfig` that counts.
    pub fn config(&self) -> Option<Arc<NSMConfig>> {
        self.stores.configs.get(&ObjectRef::new(CONFIG_NAME))
    }

    /// All reports of nodes.
    pub fn nodes(&self) -> Vec<Arc<NSMNodeState>> {
        self.stores.nodes.state()
    }

    /// An object the operator made, as it is.
    pub fn live(&self, key: &Key) -> Option<Arc<Value>> {
        let stored = self.stored(key);
        let version = stored.as_ref().and_then(|object| object.resource_version());
        self.written.newer_than(key, version.as_deref()).or_else(|| self.shown(key, stored, version))
    }

    /// What a watch knows, as a value: made once for each version of an object.
    fn shown(
        &self,
        key: &Key,
        stored: Option<Arc<DynamicObject>>,
        version: Option<String>,
    ) -> Option<Arc<Value>> {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(object) = stored else {
            shown.remove(key);
            return None;
        };
        if let Some(known) = shown.get(key).filter(|known| version.is_some() && known.version == version) {
            return Some(Arc::clone(&known.value));
        }
        let value = Arc::new(serde_json::to_value(object.as_ref()).ok()?);
        shown.insert(key.clone(), Shown { version, value: Arc::clone(&value) });
        Some(value)
    }

    /// Objects of which this owner is the controller.
    pub fn controlled_by(&self, owner: &str) -> Vec<Owned> {
        let controlled = |object: &DynamicObject| {
            let ours =
                |reference: &OwnerReference| reference.uid == owner && reference.controller == Some(true);
            object.owner_references().iter().any(ours)
        };
        let of_kind = |(kind, store): (&Kind, &kube::runtime::reflector::Store<DynamicObject>)| {
            let objects = store.state().into_iter().filter(|object| controlled(object));
            objects.map(|object| Owned::new(*kind, &object)).collect::<Vec<_>>()
        };
        self.stores.owned.iter().flat_map(of_kind).collect()
    }

    /// The DaemonSets of node daemons that this owner has, as they are.
    pub fn daemon_sets(&self, owner: &str) -> Vec<(Owned, Arc<Value>)> {
        let sets = self.controlled_by(owner).into_iter().filter(|object| object.key.kind == Kind::DaemonSet);
        sets.filter_map(|object| Some((object.clone(), self.live(&object.key)?))).collect()
    }

    /// Whether a workload of some template is there.
    pub fn runs_templates(&self) -> bool {
        self.stores.owned.get(&Kind::Deployment).is_some_and(|store| {
            store.state().iter().any(|object| object.labels().contains_key(names::TEMPLATE))
        })
    }

    /// Whether daemons of a mesh are there, though its `NSMConfig` may be gone.
    pub fn runs_daemons(&self) -> bool {
        self.stores.owned.get(&Kind::DaemonSet).is_some_and(|store| !store.is_empty())
    }

    /// Notes a write.
    pub fn wrote(&self, key: &Key, object: &DynamicObject) {
        if let Ok(value) = serde_json::to_value(object) {
            self.written.remember(key.clone(), object.resource_version().as_deref(), Arc::new(value));
        }
    }

    /// Notes that an object is gone, by the version in which it was deleted.
    pub fn gone(&self, key: &Key, version: &str) {
        self.written.gone(key.clone(), Some(version));
    }

    /// Notes that all objects of a kind were listed: what was written before and is not among them is
    /// gone, even though no watch has said so.
    pub fn listed(&self, kind: Kind, since: Instant) {
        self.written.forget_before(since, |key| key.kind == kind);
    }

    fn stored(&self, key: &Key) -> Option<Arc<DynamicObject>> {
        let mut reference = ObjectRef::new_with(&key.name, key.kind.resource());
        if !key.namespace.is_empty() {
            reference = reference.within(&key.namespace);
        }
        self.stores.owned.get(&key.kind)?.get(&reference)
    }
}

/// An object that is there for an owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owned {
    /// Which object.
    pub key: Key,
    /// Its uid.
    pub uid: String,
    /// It is on its way out.
    pub leaving: bool,
    /// It says to be of the apply set of the mesh.
    pub member: bool,
}

impl Owned {
    /// An object that was just made.
    pub fn made(key: &Key, live: &Value) -> Self {
        let uid = live.pointer("/metadata/uid").and_then(Value::as_str).unwrap_or_default().to_owned();
        Self { key: key.clone(), uid, leaving: false, member: true }
    }

    fn new(kind: Kind, object: &DynamicObject) -> Self {
        Self {
            key: Key { kind, namespace: object.namespace().unwrap_or_default(), name: object.name_any() },
            uid: object.uid().unwrap_or_default(),
            leaving: object.metadata.deletion_timestamp.is_some(),
            member: object.labels().get(apply_set::MEMBER).is_some_and(|id| id == apply_set::ID),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_own_write_counts_until_the_watch_has_it() {
        let written = Written::default();
        written.remember("a", Some("10"), 1);
        assert_eq!(written.newer_than(&"a", Some("9")), Some(1));
        assert_eq!(written.newer_than(&"a", None), Some(1));
        assert_eq!(written.newer_than(&"a", Some("10")), None);
        assert_eq!(written.newer_than(&"b", None), None);
        let later = Instant::now();
        written.remember("b", Some("11"), 2);
        written.forget_before(later, |key| *key == "b");
        assert_eq!(written.newer_than(&"b", None), Some(2));
        written.forget_before(Instant::now(), |key| *key == "b");
        assert_eq!((written.newer_than(&"a", None), written.newer_than(&"b", None)), (Some(1), None));
        written.gone("a", Some("12"));
        assert_eq!(written.newer_than(&"a", None), None);
        written.remember("a", Some("11"), 3);
        assert_eq!(written.newer_than(&"a", None), None, "a late answer brings nothing back");
        written.remember("a", Some("13"), 4);
        assert_eq!(written.newer_than(&"a", None), Some(4));
    }
}

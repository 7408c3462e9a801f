//! The watches: one a kind, shared by all controllers, each feeding a store and one queue of
//! changes. A watch that fails is opened again, first soon, then ever less often.

mod pod;
mod projection;

use std::{
    collections::BTreeMap,
    fmt::Debug,
    hash::{BuildHasher, Hash, RandomState},
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt, future};
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, Client, Resource, ResourceExt,
    api::DynamicObject,
    core::PartialObjectMeta,
    runtime::{
        WatchStreamExt,
        reflector::{Store, store::Writer, store::WriterDropped},
        utils::Backoff,
        watcher::{self, Event, watcher},
    },
};
use nsm_crds::{NSMConfig, NSMNodeState, NetworkService, NetworkServiceEndpoint};
use serde::de::DeserializeOwned;
use tokio::{sync::mpsc, task::JoinSet};
use tracing::warn;

pub use self::projection::Projection;
use self::{
    pod::PodSketch,
    projection::{News, Projector, Words},
};
use crate::{
    metrics::{self, Metrics},
    names,
    object::{Key, Kind},
    rollout::Mark,
};

/// What a watch noticed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A watch knows all objects of its kind anew, so anything may have changed.
    Listed {
        /// The kind, if it is one of objects that the operator made.
        kind: Option<Kind>,
        /// When the list was asked for: it has everything that was written before.
        since: Instant,
    },
    /// The `NSMConfig`.
    Config,
    /// A node's report.
    Node,
    /// Which revision is to run on a node, or a pod of a node daemon.
    Placement,
    /// A `NetworkService`, by namespace and name.
    Service(String, String),
    /// An endpoint template, by namespace and name.
    Template(String, String),
    /// An object the operator made.
    Owned {
        /// Which one.
        key: Key,
        /// The version in which it was deleted, if it is gone.
        deleted: Option<String>,
        /// When the watch told of it.
        at: Instant,
    },
}

/// What the watches know.
#[derive(Clone)]
pub struct Stores {
    /// All `NSMConfig`s.
    pub configs: Store<NSMConfig>,
    /// All reports.
    pub nodes: Store<NSMNodeState>,
    /// All network services.
    pub services: Store<NetworkService>,
    /// Endpoint templates. The API server tells of no registration, however many there are.
    pub templates: Store<NetworkServiceEndpoint>,
    /// What was a template once and has a status from then.
    pub former_templates: Store<NetworkServiceEndpoint>,
    /// The labels of all nodes that say which revision runs there.
    pub marks: Projection<Mark>,
    /// All pods of node daemons.
    pub pods: Projection<DaemonPod>,
    /// All objects with the operator's label, by kind.
    pub owned: BTreeMap<Kind, Store<DynamicObject>>,
}

/// What is known of a pod of a node daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DaemonPod {
    /// The daemon.
    pub daemon: Arc<str>,
    /// Its revision.
    pub revision: Arc<str>,
    /// Where it is.
    pub node: Option<Arc<str>>,
    /// It is ready, and not about to end.
    pub ready: bool,
}

impl Stores {
    /// Waits until each store has been filled once.
    ///
    /// # Cancel safety
    /// Nothing is lost when this is dropped.
    pub async fn ready(&self) -> Result<(), WriterDropped> {
        self.configs.wait_until_ready().await?;
        self.nodes.wait_until_ready().await?;
        self.services.wait_until_ready().await?;
        self.templates.wait_until_ready().await?;
        self.former_templates.wait_until_ready().await?;
        for store in self.owned.values() {
            store.wait_until_ready().await?;
        }
        let marks = async { self.marks.wait_until_ready().await.is_err() };
        let pods = async { self.pods.wait_until_ready().await.is_err() };
        if marks.await || pods.await {
            // Only a watch that has ended for good never tells.
            future::pending::<()>().await;
        }
        Ok(())
    }
}

/// The running watches; dropping them ends them.
pub struct Watches {
    tasks: JoinSet<()>,
    metrics: Metrics,
    changes: mpsc::Sender<Change>,
    /// After which the API server ends a watch, to be opened again where it was.
    timeout: Duration,
}

/// How long a watch is open, unless it is set otherwise.
pub const TIMEOUT: Duration = Duration::from_secs(290);

/// Endpoints with a workload, which always has a payload. Registrations are many, change often, and are the
/// registry's business.
const TEMPLATES: &str = "spec.workload.payload!=";

/// Endpoints without one that have the status of a template.
const FORMER_TEMPLATES: &str = "spec.workload.payload=,status.registered!=";

/// Bound of the queue of changes; a full one holds up the watches, not the memory.
const QUEUE: usize = 1024;

/// Opens all watches.
pub fn start(
    client: &Client,
    metrics: &Metrics,
    timeout: Duration,
) -> (Watches, Stores, mpsc::Receiver<Change>) {
    let (changes, receiver) = mpsc::channel(QUEUE);
    let mut watches = Watches { tasks: JoinSet::new(), metrics: metrics.clone(), changes, timeout };
    let stores = Stores {
        configs: watches.crd(client, no_managed_fields, |_| Some(Change::Config)),
        nodes: watches.crd(client, no_managed_fields, |_| Some(Change::Node)),
        services: watches.crd(client, no_managed_fields, |service: &NetworkService| {
            let (namespace, name) = names_of(service);
            Some(Change::Service(namespace, name))
        }),
        templates: watches.endpoints(client, TEMPLATES),
        former_templates: watches.endpoints(client, FORMER_TEMPLATES),
        marks: watches.project(Api::<PartialObjectMeta<Node>>::all(client.clone()), None, |node, _| {
            Mark::of(node.labels().get(names::NODE_REVISION).map(String::as_str))
        }),
        pods: watches.project(
            Api::<PodSketch>::all(client.clone()),
            Some(names::DAEMON_REVISION),
            daemon_pod,
        ),
        owned: Kind::ALL.into_iter().map(|kind| (kind, watches.owned(client, kind))).collect(),
    };
    (watches, stores, receiver)
}

impl Watches {
    fn config(&self) -> watcher::Config {
        watcher::Config::default().timeout(u32::try_from(self.timeout.as_secs()).unwrap_or(u32::MAX))
    }

    fn endpoints(&mut self, client: &Client, selector: &str) -> Store<NetworkServiceEndpoint> {
        let (api, config) = (Api::all(client.clone()), self.config().fields(selector));
        self.watch(api, config, None, Writer::default(), no_managed_fields, move |endpoint, _| {
            let (namespace, name) = names_of(endpoint);
            Some(Change::Template(namespace, name))
        })
    }

    fn crd<K>(&mut self, client: &Client, strip: fn(&mut K), change: fn(&K) -> Option<Change>) -> Store<K>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    {
        let api = Api::all(client.clone());
        let config = self.config();
        self.watch(api, config, None, Writer::default(), strip, move |object, _| change(object))
    }

    fn owned(&mut self, client: &Client, kind: Kind) -> Store<DynamicObject> {
        let resource = kind.resource();
        let api = Api::all_with(client.clone(), &resource);
        let selected = self.config().labels(&format!("{}={}", names::MANAGED_BY, names::MANAGER));
        // managedFields stay: the comparison is led by them.
        self.watch(
            api,
            selected,
            Some(kind),
            Writer::new(resource),
            |_| (),
            move |object, deleted| {
                let (namespace, name) = names_of(object);
                let deleted = deleted.then(|| object.resource_version().unwrap_or_default());
                Some(Change::Owned { key: Key { kind, namespace, name }, deleted, at: Instant::now() })
            },
        )
    }

    /// A watch of which little is kept.
    fn project<K, V>(
        &mut self,
        api: Api<K>,
        selector: Option<&str>,
        project: fn(&K, &mut Words) -> V,
    ) -> Projection<V>
    where
        K: Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
        V: PartialEq + Send + Sync + 'static,
    {
        let (mut projector, projection) = Projector::new();
        let config = match selector {
            Some(labels) => self.config().labels(labels),
            None => self.config(),
        };
        let changes = self.changes.clone();
        let resource = api.resource_url().to_owned();
        let metrics = self.metrics.clone();
        self.tasks.spawn(async move {
            let mut events = std::pin::pin!(watcher(api, config).backoff(Steady::default()));
            while let Some(event) = events.next().await {
                let news = match event {
                    Ok(event) => projector.note(event, project),
                    Err(error) => {
                        failed(&metrics, &resource, &error);
                        News::None
                    }
                };
                if news != News::None && changes.send(Change::Placement).await.is_err() {
                    return;
                }
            }
        });
        projection
    }

    fn watch<K, F>(
        &mut self,
        api: Api<K>,
        config: watcher::Config,
        kind: Option<Kind>,
        writer: Writer<K>,
        strip: fn(&mut K),
        change: F,
    ) -> Store<K>
    where
        K: Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
        K::DynamicType: Clone + Debug + Eq + Hash + Send + Sync + Unpin,
        F: Fn(&K, bool) -> Option<Change> + Send + 'static,
    {
        let store = writer.as_reader();
        let changes = self.changes.clone();
        let resource = api.resource_url().to_owned();
        let metrics = self.metrics.clone();
        self.tasks.spawn(async move {
            let events = watcher(api, config).backoff(Steady::default()).modify(strip).reflect(writer);
            let mut events = std::pin::pin!(events);
            let mut since = Instant::now();
            while let Some(event) = events.next().await {
                let change = match event {
                    Ok(Event::Apply(object)) => change(&object, false),
                    Ok(Event::Delete(object)) => change(&object, true),
                    Ok(Event::InitDone) => Some(Change::Listed { kind, since }),
                    Ok(Event::Init) => {
                        since = Instant::now();
                        None
                    }
                    Ok(Event::InitApply(_)) => None,
                    Err(error) => {
                        failed(&metrics, &resource, &error);
                        None
                    }
                };
                let Some(change) = change else { continue };
                if changes.send(change).await.is_err() {
                    return;
                }
            }
        });
        store
    }
}

fn failed(metrics: &Metrics, resource: &str, error: &watcher::Error) {
    metrics.count(metrics::WATCH_RESTARTS, &[("resource", resource)]);
    warn!(%resource, error = error as &dyn std::error::Error, "a watch failed and is opened again");
}

/// What matters of a pod of a node daemon.
fn daemon_pod(pod: &PodSketch, words: &mut Words) -> DaemonPod {
    let mut label = |name: &str| words.of(pod.labels().get(name).map(String::as_str).unwrap_or_default());
    let (daemon, revision) = (label(names::NAME), label(names::DAEMON_REVISION));
    let leaving = pod.meta().deletion_timestamp.is_some();
    DaemonPod {
        daemon,
        revision,
        node: pod.node().map(|node| words.of(node)),
        ready: pod.is_ready() && !leaving,
    }
}

fn names_of<K: Resource>(object: &K) -> (String, String) {
    let meta = object.meta();
    (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}

fn no_managed_fields<K: Resource>(object: &mut K) {
    object.meta_mut().managed_fields = None;
}

/// Backoff that a watch does not reset by trying: 0.4 s to 30 s, doubling, from the start again
/// after a minute without failure. kube's own is reset by the `Init` before each try, so a watch
/// on a missing kind would ask about once a second for ever.
#[derive(Debug)]
struct Steady {
    current: Duration,
    last: Option<Instant>,
}

impl Steady {
    const FIRST: Duration = Duration::from_millis(400);
    const LONGEST: Duration = Duration::from_secs(30);
    const HEALTHY: Duration = Duration::from_mins(1);
}

impl Default for Steady {
    fn default() -> Self {
        Self { current: Self::FIRST, last: None }
    }
}

impl Iterator for Steady {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        if self.last.is_some_and(|last| last.elapsed() > self.current + Self::HEALTHY) {
            self.current = Self::FIRST;
        }
        self.last = Some(Instant::now());
        let wait = self.current;
        self.current = (wait * 2).min(Self::LONGEST);
        Some(wait + jitter(wait / 4))
    }
}

impl Backoff for Steady {
    fn reset(&mut self) {}
}

/// A random time below `most`, so that many watches do not come back at once.
fn jitter(most: Duration) -> Duration {
    let random = u32::try_from(RandomState::new().hash_one(()) >> 32).unwrap_or(0);
    most.mul_f64(f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_watch_is_tried_ever_less_often() {
        let mut backoff = Steady::default();
        let waits: Vec<Duration> = (0..9)
            .filter_map(|_| {
                backoff.reset();
                backoff.next()
            })
            .collect();
        assert!(waits[0] >= Steady::FIRST && waits[0] <= Steady::FIRST * 5 / 4);
        assert!(waits[8] >= Steady::LONGEST);
    }
}

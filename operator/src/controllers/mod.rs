//! Controllers: which object is looked at after which event, and what is done then. One a kind;
//! they share what is known and never call each other.

mod attempts;
mod config;
mod daemons;
mod endpoint;
mod nodes;
mod pace;
mod rehearsal;
mod rendered;
mod report;
mod service;
mod teardown;
mod waiting;

use std::{
    convert::Infallible,
    fmt,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures::{
    FutureExt, StreamExt,
    channel::mpsc,
    future::{self, BoxFuture},
    stream,
};
use kube::{
    Resource, ResourceExt,
    runtime::{
        controller::{self, Action, applier},
        reflector::{ObjectRef, Store},
    },
};
use nsm_crds::{
    CONFIG_NAME, NSMConfig, NSMConfigStatus, NetworkService, NetworkServiceEndpoint,
    NetworkServiceEndpointStatus, NetworkServiceStatus,
};
use serde_json::Value;
use tokio::sync::{mpsc::Receiver, watch};
use tracing::{debug, info, warn};

use self::{attempts::Attempts, daemons::Moves, rehearsal::Rehearsals, rendered::Rendered, waiting::Waiting};
use crate::{
    apply::{self, Pods, Writer},
    collect::Change,
    convergence::Breaker,
    dereference::{Known, Owned, Written},
    ledger::Calm,
    metrics::{self, Metrics},
    object::{Desired, Kind, ObjectError},
    plan::Step,
    rollout::LIMIT,
    server::Server,
    validate::Installation,
};

/// A reconcile that has to be repeated.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A write failed.
    #[error(transparent)]
    Apply(#[from] apply::Error),
    /// What is to be laid over a pod template cannot be.
    #[error("the overrides of {name} cannot be used: {message}")]
    Override {
        /// Name of the workload.
        name: String,
        /// Why, in the API server's words.
        message: String,
    },
    /// An object could not be made from the settings.
    #[error(transparent)]
    Render(#[from] ObjectError),
}

/// What all controllers share.
pub struct Context {
    known: Known,
    writer: Writer,
    installation: Installation,
    server: Server,
    metrics: Metrics,
    node_timeout: Duration,
    calm: Calm,
    attempts: Attempts,
    breaker: Mutex<Breaker>,
    rehearsals: Rehearsals,
    rendered: Rendered,
    moves: Mutex<Moves>,
    deleting: Since,
    draining: nodes::Draining,
    marked: Written<String, ()>,
    deleted: Written<String, ()>,
    configs: Written<String, NSMConfigStatus>,
    services: Written<(String, String), NetworkServiceStatus>,
    endpoints: Written<(String, String), NetworkServiceEndpointStatus>,
}

impl Context {
    /// Nothing has been tried or written yet.
    pub fn new(
        known: Known,
        writer: Writer,
        installation: Installation,
        server: Server,
        metrics: Metrics,
    ) -> Self {
        Self {
            known,
            writer,
            installation,
            server,
            metrics,
            node_timeout: LIMIT,
            calm: Calm::default(),
            attempts: Attempts::default(),
            breaker: Mutex::default(),
            rehearsals: Rehearsals::default(),
            rendered: Rendered::default(),
            moves: Mutex::default(),
            deleting: Since::default(),
            draining: nodes::Draining::default(),
            marked: Written::default(),
            deleted: Written::default(),
            configs: Written::default(),
            services: Written::default(),
            endpoints: Written::default(),
        }
    }

    /// The same, giving the daemons of a node so long to get ready in another revision.
    #[must_use]
    pub fn with_node_timeout(mut self, node_timeout: Duration) -> Self {
        self.node_timeout = node_timeout;
        self
    }

    /// The same, where this tells whether events are news.
    #[must_use]
    pub fn with_calm(mut self, calm: Calm) -> Self {
        self.calm = calm;
        self
    }

    /// Takes one step on one object, and says so in the log: what it is then. Nothing, if it is left
    /// alone for a while because repairs of it do not last.
    async fn take(
        &self,
        step: &Step,
        desired: &Desired,
        live: Option<&Value>,
    ) -> Result<Option<Arc<Value>>, apply::Error> {
        if step.is_repair() {
            let words = || step.words(&desired.key, live);
            if self.breaker().may_repair(&desired.key, Instant::now(), words).is_err() {
                self.metrics.count(metrics::HELD, &[("kind", desired.key.kind.name())]);
                return Ok(None);
            }
        }
        if let Some(after) = self.known.heard_ago(&desired.key).filter(|_| step.is_repair()) {
            self.metrics.took(metrics::EVENT_TO_WRITE, &[], after);
            let after_us = u64::try_from(after.as_micros()).unwrap_or(u64::MAX);
            debug!(object = %desired.key, after_us, "answers a watch's event with a write");
        }
        let written = self.write(step, desired).await?;
        if step.is_repair() {
            self.breaker().repaired(&desired.key, Instant::now());
        }
        Ok(written)
    }

    /// Writes an object whoever else does.
    async fn write(&self, step: &Step, desired: &Desired) -> Result<Option<Arc<Value>>, apply::Error> {
        let written = match step {
            Step::Create => self.writer.create(desired).await?,
            _ => self.writer.update(desired).await?,
        };
        let (reason, difference) = match step {
            Step::PutBack(difference) => ("drift", difference.to_string()),
            _ => ("spec", String::new()),
        };
        self.metrics.count(metrics::WRITES, &[("kind", desired.key.kind.name()), ("reason", reason)]);
        info!(object = %desired.key, step = step.word(), difference, "wrote an object");
        self.known.wrote(&desired.key, &written);
        Ok(self.known.live(&desired.key))
    }

    /// Deletes an object, once.
    async fn delete(&self, object: &Owned, pods: Pods) -> Result<(), apply::Error> {
        let Owned { key, uid, leaving, .. } = object;
        if *leaving || self.deleted.age(uid).is_some() {
            return Ok(());
        }
        self.writer.delete(key, uid, pods).await?;
        self.deleted.remember(uid.clone(), None, ());
        info!(object = %key, "deleted an object");
        Ok(())
    }

    fn moves(&self) -> MutexGuard<'_, Moves> {
        self.moves.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Since when this operator knows of the one thing that it is told of.
#[derive(Debug, Default)]
struct Since(Mutex<Option<(String, Instant)>>);

impl Since {
    /// How long ago it was told of this first.
    fn since(&self, what: &str) -> Duration {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*known {
            Some((of, since)) if of == what => since.elapsed(),
            _ => {
                *known = Some((what.to_owned(), Instant::now()));
                Duration::ZERO
            }
        }
    }
}

/// Bound of each controller's queue; requests for one object are merged right behind it.
const QUEUE: usize = 256;

type Queue<K> = mpsc::Sender<ObjectRef<K>>;

struct Queues {
    configs: Queue<NSMConfig>,
    services: Queue<NetworkService>,
    templates: Queue<NetworkServiceEndpoint>,
    former_templates: Queue<NetworkServiceEndpoint>,
}

/// Runs all controllers until the signal is given, and ends what has begun.
///
/// The stores must have been filled once.
pub async fn run(context: Arc<Context>, changes: &mut Receiver<Change>, stop: watch::Receiver<bool>) {
    let (configs, config_queue) = mpsc::channel(QUEUE);
    let (services, service_queue) = mpsc::channel(QUEUE);
    let (templates, template_queue) = mpsc::channel(QUEUE);
    let (former_templates, former_queue) = mpsc::channel(QUEUE);
    let stores = context.known.stores().clone();
    let queues = Queues { configs, services, templates, former_templates };
    let routing = route(Arc::clone(&context), changes, queues, stop.clone());
    tokio::join!(
        routing,
        drive(Arc::clone(&context), stores.configs, config_queue, stop.clone(), 1, config::reconcile),
        drive(Arc::clone(&context), stores.services, service_queue, stop.clone(), 4, service::reconcile),
        drive(Arc::clone(&context), stores.templates, template_queue, stop.clone(), 4, endpoint::reconcile),
        drive(context, stores.former_templates, former_queue, stop, 1, endpoint::reconcile),
    );
}

/// Resolves when the operator has to stop.
async fn stopped(mut stop: watch::Receiver<bool>) {
    // An error means that nobody can give the signal any more, which is one, too.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Hands changes to the controllers they matter to.
async fn route(
    context: Arc<Context>,
    changes: &mut Receiver<Change>,
    mut queues: Queues,
    stop: watch::Receiver<bool>,
) {
    let mut stop = std::pin::pin!(stopped(stop).fuse());
    let mut change = Some(Change::Listed { kind: None, since: Instant::now() });
    while let Some(now) = change.take() {
        if queues.dispatch(&context, now).await.is_err() {
            return;
        }
        change = tokio::select! {
            next = changes.recv() => next,
            () = &mut stop => None,
        };
    }
}

impl Queues {
    async fn dispatch(&mut self, context: &Context, change: Change) -> Result<(), mpsc::SendError> {
        match change {
            Change::Service(namespace, name) => {
                send(&mut self.services, ObjectRef::new(&name).within(&namespace)).await
            }
            Change::Template(namespace, name) => {
                self.endpoint(context, ObjectRef::new(&name).within(&namespace)).await
            }
            Change::Owned { key, deleted, at } => {
                context.known.heard(&key, at);
                if let Some(version) = deleted {
                    context.known.gone(&key, &version);
                }
                // By its name, which is its template's: labels are what may have been edited.
                let template = ObjectRef::new(&key.name).within(&key.namespace);
                if key.kind == Kind::Deployment {
                    self.endpoint(context, template).await?;
                }
                send(&mut self.configs, ObjectRef::new(CONFIG_NAME)).await
            }
            Change::Placement => send(&mut self.configs, ObjectRef::new(CONFIG_NAME)).await,
            Change::Config => {
                send(&mut self.configs, ObjectRef::new(CONFIG_NAME)).await?;
                self.all_endpoints(context).await
            }
            Change::Listed { .. } | Change::Node => {
                if let Change::Listed { kind: Some(kind), since } = change {
                    context.known.listed(kind, since);
                }
                send(&mut self.configs, ObjectRef::new(CONFIG_NAME)).await?;
                for service in context.known.stores().services.state() {
                    send(&mut self.services, ObjectRef::from_obj(service.as_ref())).await?;
                }
                self.all_endpoints(context).await
            }
        }
    }

    async fn all_endpoints(&mut self, context: &Context) -> Result<(), mpsc::SendError> {
        let stores = context.known.stores();
        for endpoint in stores.templates.state().into_iter().chain(stores.former_templates.state()) {
            self.endpoint(context, ObjectRef::from_obj(endpoint.as_ref())).await?;
        }
        Ok(())
    }

    /// Asks for a look at a template, or at what was one; at a registration nobody looks.
    async fn endpoint(
        &mut self,
        context: &Context,
        endpoint: ObjectRef<NetworkServiceEndpoint>,
    ) -> Result<(), mpsc::SendError> {
        let stores = context.known.stores();
        if stores.former_templates.get(&endpoint).is_some() {
            send(&mut self.former_templates, endpoint.clone()).await?;
        }
        if stores.templates.get(&endpoint).is_some() {
            send(&mut self.templates, endpoint).await?;
        }
        Ok(())
    }
}

async fn send<K: Resource>(queue: &mut Queue<K>, object: ObjectRef<K>) -> Result<(), mpsc::SendError> {
    futures::SinkExt::send(queue, object).await
}

type Reconcile<K> = fn(Arc<K>, Arc<Context>) -> BoxFuture<'static, Result<Action, Error>>;

/// Runs one controller: merges requests for an object, never works on one object twice at once,
/// and repeats what failed ever later.
async fn drive<K>(
    context: Arc<Context>,
    store: Store<K>,
    queue: mpsc::Receiver<ObjectRef<K>>,
    stop: watch::Receiver<bool>,
    concurrency: u16,
    reconcile: Reconcile<K>,
) where
    K: Resource<DynamicType = ()> + Clone + fmt::Debug + Send + Sync + 'static,
    ObjectRef<K>: Hash + Eq,
{
    let kind = K::kind(&()).to_lowercase();
    context.metrics.set(metrics::WORKERS, &[("controller", &kind)], concurrency.into());
    let settings = controller::Config::default().concurrency(concurrency);
    let waiting = Waiting::new(context.metrics.clone(), &kind);
    let asked = waiting.clone();
    let queue = queue.take_until(Box::pin(stopped(stop))).inspect(move |what| asked.begins(what.clone()));
    let calm = context.calm.clone();
    let queue = pace::paced(queue, move || calm.is_calm()).map(Ok::<_, Infallible>);
    let queue = stream::StreamExt::boxed(queue);
    let retry =
        |object: Arc<K>, error: &Error, context: Arc<Context>| retry(&object_key(&*object), error, &context);
    let gone = waiting.clone();
    let reconcile = move |object: Arc<K>, context: Arc<Context>| {
        waiting.ends(&ObjectRef::from_obj(object.as_ref()));
        measured(reconcile, object, context).boxed()
    };
    applier(reconcile, retry, context, store, queue, settings)
        .for_each(|result| {
            match result {
                // The reconcilers' own errors are logged where the retry is decided.
                Err(error @ controller::Error::RunnerError(_)) => {
                    warn!(error = &error as &dyn std::error::Error, "a controller lost its store");
                }
                Err(controller::Error::ObjectNotFound(object)) => {
                    gone.ends(&object.into_kind_unchecked(()));
                }
                _ => {}
            }
            future::ready(())
        })
        .await;
}

async fn measured<K: Resource<DynamicType = ()>>(
    reconcile: Reconcile<K>,
    object: Arc<K>,
    context: Arc<Context>,
) -> Result<Action, Error> {
    let kind = K::kind(&()).to_lowercase();
    let controller = ("controller", kind.as_str());
    let begun = Instant::now();
    context.metrics.add(metrics::ACTIVE, &[controller], 1.0);
    let result = reconcile(object, Arc::clone(&context)).await;
    context.metrics.add(metrics::ACTIVE, &[controller], -1.0);
    context.metrics.took(metrics::RECONCILE_TIME, &[controller], begun.elapsed());
    let word = if result.is_ok() { "success" } else { "error" };
    context.metrics.count(metrics::RECONCILES, &[controller, ("result", word)]);
    if result.is_err() {
        context.metrics.count(metrics::RECONCILE_ERRORS, &[controller]);
    }
    result
}

fn retry(key: &str, error: &Error, context: &Context) -> Action {
    let wait = context.attempts.failed(key);
    warn!(
        object = key,
        wait = ?wait,
        error = error as &dyn std::error::Error,
        "a reconcile failed and is repeated"
    );
    Action::requeue(wait)
}

fn object_key<K: Resource<DynamicType = ()>>(object: &K) -> String {
    format!("{} {}/{}", K::kind(&()), object.namespace().unwrap_or_default(), object.name_any())
}

//! The process round the controllers: client, logs, signals.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use kube::{Client, Config, client::ClientBuilder};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc::Receiver, watch},
    task::JoinSet,
    time::timeout,
};
use tower::layer::layer_fn;
use tracing::{info, warn};
use tracing_subscriber::EnvFilter;

use crate::{
    apply::Writer,
    collect::{self, Change, Stores},
    controllers::{self, Context},
    dereference::Known,
    health::{self, Health},
    lease::{Candidate, Fence},
    ledger::{Calm, Ledger},
    metrics::Metrics,
    preflight,
    server::Server,
    validate::Installation,
};

/// How often a start that does not come to its end is spoken of.
const PATIENCE: Duration = Duration::from_secs(15);

/// The operator cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No cluster to talk to.
    #[error("no cluster is configured: run in a pod with a service account, or set KUBECONFIG")]
    Config(#[from] kube::config::InferConfigError),
    /// The client cannot be made from the configuration.
    #[error("no client can be made from the cluster's configuration")]
    Client(#[source] Box<kube::Error>),
    /// A name that no pod can have.
    #[error("POD_NAME is {name:?}: it must be a name such as a pod has, of letters, digits and '-'")]
    Identity {
        /// The name.
        name: String,
    },
    /// The address for health and figures cannot be had.
    #[error(
        "cannot listen on {address}: set NSM_OPERATOR_LISTEN_ON to an address and port such as [::]:8080"
    )]
    Listen {
        /// The address.
        address: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Signals cannot be caught.
    #[error("signals cannot be caught")]
    Signals(#[source] std::io::Error),
    /// The level of logs cannot be read.
    #[error("the log filter {filter:?} cannot be read: write a level such as info, or a filter of tracing's")]
    Filter {
        /// The filter.
        filter: String,
        /// Why.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
}

/// Starts logging in JSON, one line an event, to standard error.
pub fn logs(filter: &str) -> Result<(), Error> {
    // The client logs every refused connection as an error; the watches say so already.
    let filter = EnvFilter::try_new(format!("kube_client::client::builder=off,{filter}"))
        .map_err(|source| Error::Filter { filter: filter.into(), source })?;
    tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_span_list(false)
        .with_writer(std::io::stderr)
        .with_env_filter(filter)
        .init();
    Ok(())
}

/// A client with the rights of this process, which tells the API server the name of its pod.
pub async fn client(identity: &str, metrics: &Metrics, calm: &Calm) -> Result<Client, Error> {
    // Fails only when a provider is installed already, which is as good.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut config = Config::infer().await?;
    // What was refused for now is tried again by whoever asked, who tells of it meanwhile.
    config.default_retry = false;
    let agent = format!("nsm-operator/{} ({identity})", env!("CARGO_PKG_VERSION"));
    let agent = http::HeaderValue::try_from(agent).map_err(|_| Error::Identity { name: identity.into() })?;
    config.headers.push((http::header::USER_AGENT, agent));
    let host = config.cluster_url.authority().map(ToString::to_string).unwrap_or_default();
    let (metrics, calm) = (metrics.clone(), calm.clone());
    let ledger = layer_fn(move |inner| Ledger::new(inner, metrics.clone(), host.clone(), calm.clone()));
    let builder = ClientBuilder::try_from(config).map_err(|error| Error::Client(Box::new(error)))?;
    Ok(builder.with_layer(&ledger).build())
}

/// What one process of the operator is told.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of its pod.
    pub identity: String,
    /// Where health and figures are served.
    pub listen_on: String,
    /// How long the daemons of a node may take to get ready in another revision.
    pub node_timeout: Duration,
    /// How long a watch is open before the API server ends it.
    pub watch_timeout: Duration,
}

/// Runs the operator until it is told to stop; what has begun is brought to its end.
pub async fn run(
    client: Client,
    installation: Installation,
    options: &Options,
    metrics: Metrics,
    calm: Calm,
) -> Result<(), Error> {
    let Options { identity, listen_on, node_timeout, watch_timeout } = options;
    let stop = stop_signal()?;
    info!(version = env!("CARGO_PKG_VERSION"), identity, ?installation, "the operator starts");
    let listener = health::listen(listen_on)
        .await
        .map_err(|source| Error::Listen { address: listen_on.into(), source })?;
    let (watches, stores, mut changes) = collect::start(&client, &metrics, *watch_timeout);
    let health =
        Arc::new(Health { stores: stores.clone(), metrics: metrics.clone(), ready: AtomicBool::new(false) });
    let mut tasks = JoinSet::new();
    tasks.spawn(health::serve(listener, Arc::clone(&health)));
    if !synced(&stores, stop.clone()).await {
        return Ok(());
    }
    health.ready.store(true, Ordering::Relaxed);
    info!("all watches are up");
    let (candidate, fence) = Candidate::new(&client, &installation.namespace, identity, metrics.clone());
    let (leave, left) = watch::channel(false);
    let candidacy = tokio::spawn(candidate.run(left));
    while stand_by(&fence, &mut changes, stop.clone()).await {
        let Some(server) = looked_at(&client, &fence, stop.clone()).await else { continue };
        let writer = Writer::new(client.clone(), fence.clone(), metrics.clone()).telling_as(identity);
        let context =
            Context::new(Known::new(stores.clone()), writer, installation.clone(), server, metrics.clone());
        let context = context.with_node_timeout(*node_timeout).with_calm(calm.clone());
        lead(context, &fence, &mut changes, stop.clone()).await;
    }
    leave.send_replace(true);
    // It ends within the time of one request.
    let _ = candidacy.await;
    drop(watches);
    info!("the operator has stopped");
    Ok(())
}

/// Waits until all watches are up; false if the operator has to stop before.
async fn synced(stores: &Stores, mut stop: watch::Receiver<bool>) -> bool {
    let ready = async {
        while timeout(PATIENCE, stores.ready()).await.is_err() {
            warn!(
                "waits for its watches: are the resource definitions installed, and may the operator list?"
            );
        }
    };
    tokio::select! {
        () = ready => true,
        _ = stop.wait_for(|stop| *stop) => false,
    }
}

/// Waits until this operator leads; false if it has to stop before. What changes meanwhile is in the
/// stores, and is looked at then.
async fn stand_by(fence: &Fence, changes: &mut Receiver<Change>, mut stop: watch::Receiver<bool>) -> bool {
    let idle = async { while changes.recv().await.is_some() {} };
    tokio::select! {
        biased;
        _ = stop.wait_for(|stop| *stop) => false,
        () = fence.opened() => true,
        () = idle => false,
    }
}

/// Looks at the API server; nothing if this operator does not lead any more before, or has to stop.
async fn looked_at(client: &Client, fence: &Fence, mut stop: watch::Receiver<bool>) -> Option<Server> {
    tokio::select! {
        server = preflight::check(client) => Some(server),
        () = fence.closed() => None,
        _ = stop.wait_for(|stop| *stop) => None,
    }
}

/// Runs the controllers until this operator does not lead any more, or has to stop.
async fn lead(
    context: Context,
    fence: &Fence,
    changes: &mut Receiver<Change>,
    mut stop: watch::Receiver<bool>,
) {
    let (end, ended) = watch::channel(false);
    let watch = async {
        tokio::select! {
            () = fence.closed() => warn!("does not lead any more"),
            _ = stop.wait_for(|stop| *stop) => {}
        }
        end.send_replace(true);
    };
    tokio::join!(controllers::run(Arc::new(context), changes, ended), watch);
}

/// Becomes true at SIGTERM or SIGINT.
fn stop_signal() -> Result<watch::Receiver<bool>, Error> {
    let (sender, receiver) = watch::channel(false);
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::Signals)?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        info!("told to stop");
        sender.send_replace(true);
    });
    Ok(receiver)
}

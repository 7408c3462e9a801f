//! The process round the controllers: client, logs, signals.

use std::{sync::Arc, time::Duration};

use kube::{Client, Config};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    time::timeout,
};
use tracing::{info, warn};
use tracing_subscriber::EnvFilter;

use crate::{
    apply::Writer,
    collect,
    controllers::{self, Context},
    dereference::Known,
    validate::Installation,
};

/// How the operator names itself to the API server.
const USER_AGENT: &str = concat!("nsm-operator/", env!("CARGO_PKG_VERSION"));

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
        .with_writer(std::io::stderr)
        .with_env_filter(filter)
        .init();
    Ok(())
}

/// A client with the rights of this process.
pub async fn client() -> Result<Client, Error> {
    // Fails only when a provider is installed already, which is as good.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut config = Config::infer().await?;
    config.headers.push((http::header::USER_AGENT, http::HeaderValue::from_static(USER_AGENT)));
    Client::try_from(config).map_err(|error| Error::Client(Box::new(error)))
}

/// Runs the operator until it is told to stop; what has begun is brought to its end.
pub async fn run(client: Client, installation: Installation) -> Result<(), Error> {
    let stop = stop_signal()?;
    info!(version = env!("CARGO_PKG_VERSION"), ?installation, "the operator starts");
    let (watches, stores, changes) = collect::start(&client);
    let mut stopped = stop.clone();
    let ready = async {
        while timeout(PATIENCE, stores.ready()).await.is_err() {
            warn!(
                "waits for its watches: are the resource definitions installed, and may the operator list?"
            );
        }
    };
    tokio::select! {
        () = ready => info!("all watches are up"),
        _ = stopped.wait_for(|stop| *stop) => return Ok(()),
    }
    let context = Context::new(Known::new(stores), Writer::new(client), installation);
    controllers::run(Arc::new(context), changes, stop).await;
    drop(watches);
    info!("the operator has stopped");
    Ok(())
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

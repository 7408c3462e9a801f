//! The cluster's authority: says what a pod is, and signs for it.
//!
//! This file brings it up: root, published bundle, pod watch, TLS; [`Signing`] answers agents.
//! Replicas share the root and nothing else.

use std::{sync::Arc, time::Duration};

use kube::Client;
use tokio::{
    net::TcpListener,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tracing::{info, warn};

use super::{
    Error,
    backoff::Backoff,
    ca::Ca,
    id::TrustDomain,
    listener,
    pods::{self, Pods},
    published,
    review::Reviewer,
    root::{self, RootError},
    signing::{Names, Signing},
    tls::{self, OwnSvid},
};
use crate::{
    api::identity::identity_authority_server::IdentityAuthorityServer,
    api::with_causes,
    settings::{IdentityAuthority as Settings, ObjectRef, Target},
};

/// How long the API server may take for one answer at the start.
const API_PATIENCE: Duration = Duration::from_secs(15);

/// The longest answer, all waits included.
const CALL_PATIENCE: Duration = Duration::from_secs(15);

/// The largest request: a UID and a public key.
const MAX_REQUEST: usize = 4096;

/// The largest set of headers: a token is some 1.5 KiB.
const MAX_HEADERS: u32 = 32 * 1024;

/// Calls at one time on one connection.
const CALLS_PER_CONNECTION: u32 = 32;

/// How long calls may take to end when the process stops.
const GRACE: Duration = Duration::from_secs(10);

/// Serves agents until shutdown, with the API server that this pod's service account reaches.
pub async fn run(settings: Settings, shutdown: CancellationToken) -> Result<(), Error> {
    let client = Client::try_default().await.map_err(Error::Client)?;
    let Target::Tcp(address) = &settings.listen_on else {
        return Err(Error::NoTcp { variable: "NSM_LISTEN_ON", value: settings.listen_on.to_string() });
    };
    let bound = listener::bind(address).await;
    let bound = bound.map_err(|source| Error::Listen { address: address.clone(), source })?;
    serve(settings, client, bound, shutdown).await
}

/// [`run`] with everything that comes from outside given. `settings.listen_on` is not looked at.
pub(super) async fn serve(
    settings: Settings,
    client: Client,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let (sender, pods) = Pods::new();
    let follower = pods::follow(&client, sender);
    let serving = answer(&settings, &client, listener, pods, &shutdown);
    tokio::select! {
        result = serving => result,
        () = follower => Ok(()),
    }
}

async fn answer(
    settings: &Settings,
    client: &Client,
    listener: TcpListener,
    pods: Pods,
    shutdown: &CancellationToken,
) -> Result<(), Error> {
    let domain = TrustDomain::parse(&settings.trust_domain)?;
    // Nobody can connect with success before all is ready: that is what readiness looks at.
    let preparing = async {
        let ca = open_root(settings, client, &domain).await?;
        publish(settings, client, &ca).await;
        pods.known().await;
        Ok::<_, Error>(ca)
    };
    let ca = tokio::select! {
        ca = preparing => Arc::new(ca?),
        () = shutdown.cancelled() => return Ok(()),
    };
    let own = OwnSvid::new(
        ca.clone(),
        domain.authority(&settings.agent_account.namespace)?,
        settings.svid_lifetime,
    )?;
    let tls = TlsAcceptor::from(Arc::new(tls::server_config(Arc::new(own)).map_err(Error::Tls)?));
    let reviewer = Reviewer::new(client.clone(), settings.agent_account.clone());
    let names = Names::new(domain, settings.agent_account.clone());
    let signing = Signing::new(names, reviewer, pods, ca, settings.svid_lifetime);
    let address = listener.local_addr().map_or_else(|_| String::new(), |address| address.to_string());
    info!(%address, "serving identity agents");
    let server = Server::builder()
        .timeout(CALL_PATIENCE)
        .max_concurrent_streams(CALLS_PER_CONNECTION)
        .http2_max_header_list_size(MAX_HEADERS)
        .http2_keepalive_interval(Some(Duration::from_mins(1)))
        .add_service(IdentityAuthorityServer::new(signing).max_decoding_message_size(MAX_REQUEST))
        .serve_with_incoming_shutdown(listener::incoming(listener, tls), shutdown.clone().cancelled_owned());
    tokio::select! {
        ended = server => ended.map_err(|source| Error::Serve { address, source }),
        () = async { shutdown.cancelled().await; sleep(GRACE).await } => Ok(()),
    }
}

/// Waits for the API server as long as it takes; a root that cannot be used ends the process.
async fn open_root(settings: &Settings, client: &Client, domain: &TrustDomain) -> Result<Ca, Error> {
    let ObjectRef { namespace, name } = &settings.root_secret;
    let mut backoff = Backoff::new();
    loop {
        let asked = timeout(API_PATIENCE, root::load_or_create(client, &settings.root_secret, domain)).await;
        let stored = asked.unwrap_or(Err(RootError::Slow(API_PATIENCE)));
        match stored.and_then(|stored| Ok(Ca::open(&stored, domain)?)) {
            Ok(ca) => return Ok(ca),
            Err(RootError::Ca(source)) => {
                let place = format!("Secret {namespace}/{name}");
                return Err(Error::Root { place, source: source.into() });
            }
            Err(error) => {
                let (delay, error) = (backoff.next(), with_causes(&error));
                warn!(error, namespace, name, ?delay, "cannot get the root, will try again");
                sleep(delay).await;
            }
        }
    }
}

/// Waits for the API server as long as it takes.
async fn publish(settings: &Settings, client: &Client, ca: &Ca) {
    let ObjectRef { namespace, name } = &settings.bundle;
    let mut backoff = Backoff::new();
    loop {
        let error =
            match timeout(API_PATIENCE, published::publish(client, &settings.bundle, ca.bundle())).await {
                Ok(Ok(())) => return,
                Ok(Err(error)) => with_causes(&error),
                Err(_) => format!("no answer in {API_PATIENCE:?}"),
            };
        let delay = backoff.next();
        warn!(error, namespace, name, ?delay, "cannot publish the trust bundle, will try again");
        sleep(delay).await;
    }
}

#[cfg(test)]
mod tests;

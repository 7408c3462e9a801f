//! What all processes of the mesh have: an identity, channels to peers, sockets.

use std::{io, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;
use tonic::transport::{Server, server::Router};
use tracing::info;

use crate::{
    api::{access, trust::Trust},
    chain::{Clock, Element, SystemClock},
    daemon::Admission,
    elements::{Admit, Monitor, PeersByGrpc},
    settings::{Common, Target},
    transport::{self, Channels, Listener, MAX_HEADER_LIST, Source},
};

/// How long a process waits for its identity at the start.
const IDENTITY_LIMIT: Duration = Duration::from_mins(2);

/// Most calls a peer may have open on one connection.
const MAX_STREAMS: u32 = 1024;

/// Why a process ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Sockets, identity or peers.
    #[error(transparent)]
    Transport(#[from] transport::Error),
    /// The kernel cannot be used.
    #[error("cannot open {what}")]
    Kernel {
        /// What was opened.
        what: &'static str,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The journal of connections cannot be kept.
    #[error(transparent)]
    Journal(#[from] crate::dataplane::JournalError),
    /// The policy routes of an endpoint cannot be used.
    #[error(transparent)]
    PolicyRoutes(#[from] crate::elements::PolicyRouteError),
    /// The kernel did not tell of the tunnel's address.
    #[error("cannot use the tunnel address {ip}: {reason}")]
    Tunnel {
        /// The address.
        ip: std::net::IpAddr,
        /// What is wrong with it.
        reason: String,
    },
    /// The API server cannot be reached.
    #[error("cannot use the Kubernetes API; leave NSM_NODE_STATE empty to run without it")]
    Kubernetes(#[source] Box<kube::Error>),
    /// A health check said no.
    #[error("{target} is not healthy: {reason}")]
    Unhealthy {
        /// What was asked.
        target: String,
        /// What it answered.
        reason: String,
    },
}

/// A process with its identity.
pub(super) struct Mesh {
    pub source: Source,
    pub channels: Channels,
    pub clock: Clock,
    pub token_life: Duration,
    /// Who may speak for others.
    pub trust: Trust,
    /// The trust domain of all of them.
    pub domain: String,
    /// How many Requests are worked on.
    pub admission: Arc<Admission>,
    pub stop: CancellationToken,
}

impl Mesh {
    /// Waits for the first SVID; nothing works without one.
    pub(super) async fn start(common: &Common, stop: CancellationToken) -> Result<Self, Error> {
        let source = Source::start(&common.workload_api);
        let svid = source.wait(IDENTITY_LIMIT, &stop).await?;
        info!(name = %common.name, spiffe_id = %svid.leaf.id, version = env!("CARGO_PKG_VERSION"), "starting");
        Ok(Self {
            channels: Channels::new(source.clone(), common.dial_timeout),
            source,
            clock: Arc::new(SystemClock),
            token_life: common.max_token_lifetime,
            trust: Trust::new(&common.trusted_ids, &svid.leaf.id),
            domain: access::domain(&svid.leaf.id).to_owned(),
            admission: Admission::new(common.max_requests, stop.clone()),
            stop,
        })
    }

    /// What stands first in chains that others call.
    pub(super) fn admit(&self) -> Arc<dyn Element> {
        Arc::new(Admit::new(self.admission.clone(), self.trust.clone()))
    }

    /// A monitor that passes on what the processes say which this one calls.
    pub(super) fn monitor(&self, name: &str) -> Monitor {
        Monitor::of_path(name, PeersByGrpc { channels: self.channels.clone(), token_life: self.token_life })
    }

    /// Starts to listen. From here on the sockets are there, and calls wait until they are served.
    pub(super) fn bind(targets: &[Target]) -> Result<Vec<Listener>, Error> {
        let mut listeners = Vec::new();
        for target in targets {
            listeners.push(Listener::bind(target)?);
            info!(socket = %target, "listening");
        }
        Ok(listeners)
    }

    /// Serves the same services on all these sockets until the stop.
    pub(super) async fn serve(
        &self,
        listeners: Vec<Listener>,
        router: impl Fn(Server) -> Router,
    ) -> Result<(), Error> {
        let serving = listeners.into_iter().map(|listener| {
            let server = Server::builder()
                .http2_max_header_list_size(MAX_HEADER_LIST)
                .max_concurrent_streams(MAX_STREAMS)
                // Callers of a process that is late give up calls it has not looked at yet. At twenty
                // of them the library would end the connection, and with it all others' calls.
                .http2_max_pending_accept_reset_streams(Some(MAX_STREAMS as usize));
            listener.serve(router(server), self.source.clone(), self.stop.clone())
        });
        futures::future::try_join_all(serving).await?;
        Ok(())
    }
}

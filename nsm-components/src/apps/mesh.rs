//! What all processes of the mesh have: an identity, channels to peers, sockets.

use std::{io, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;
use tonic::transport::{Server, server::Router};
use tonic_health::pb::health_server::{Health, HealthServer};
use tracing::{info, warn};

use super::{figures, outage, policies::UserPolicies};
use crate::{
    api::{access, trust::Trust},
    chain::{BootClock, Chain, Clock, Element, Policy, RegistryElement, Session, SessionCounts, Suspended},
    daemon::{Admission, Metrics, Readiness, Shown},
    elements::{Admit, AuditRules, Monitor, Outcomes, PeersByGrpc, PolicyError, health_service, registry},
    settings::{self, Common, Target},
    transport::{self, Channels, Listener, MAX_HEADER_LIST, Source},
};

/// How long a process waits for its identity at the start.
const IDENTITY_LIMIT: Duration = Duration::from_mins(2);

/// Longest wait for Requests at the stop, after the calls they came by have ended.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);

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
    /// The API server cannot be asked for what a registry keeps there.
    #[error("cannot use the Kubernetes API; NSM_REGISTRY_STORAGE=Memory keeps entries without it")]
    Storage(#[source] Box<kube::Error>),
    /// Users' policies cannot be used.
    #[error(transparent)]
    Policies(#[from] PolicyError),
    /// Metrics cannot be shown.
    #[error("cannot show metrics on {target}; NSM_METRICS_LISTEN_ON says where")]
    Metrics {
        /// Where they should be.
        target: String,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The own Workload API cannot be served.
    #[error(transparent)]
    Identity(#[from] super::identity::Error),
    /// A part of a process of several ended, and the others with it.
    #[error("the {part} ended")]
    Part {
        /// Which one.
        part: &'static str,
        /// Why.
        #[source]
        source: Box<Self>,
    },
    /// A part ended that nobody had told to.
    #[error("it ended by itself")]
    EndedByItself,
    /// The folder of a process of several parts.
    #[error("cannot {doing} {}; NSM_BASE_DIR says where the folder is", .path.display())]
    Folder {
        /// What was tried.
        doing: &'static str,
        /// File or folder.
        path: std::path::PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// Another process has the folder.
    #[error("another nsm standalone runs in {}: end that one first, or set NSM_BASE_DIR to another folder", .0.display())]
    InUse(std::path::PathBuf),
    /// A health check said no.
    #[error("{target} is not healthy: {reason}")]
    Unhealthy {
        /// What was asked.
        target: String,
        /// What it answered.
        reason: String,
    },
}

impl Error {
    /// Whether a setting is to blame.
    pub fn is_usage(&self) -> bool {
        match self {
            Self::Policies(_) => true,
            Self::Part { source, .. } => source.is_usage(),
            _ => false,
        }
    }
}

/// What shows how a process does: its figures, and what it still lacks.
#[derive(Clone, Debug)]
pub(super) struct Vitals {
    pub metrics: Metrics,
    pub readiness: Readiness,
    /// Cancelled when the services serve.
    pub serving: CancellationToken,
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
    /// Users' policies.
    pub policies: UserPolicies,
    /// Figures for those who watch the process.
    pub metrics: Metrics,
    /// Cancelled when the services serve.
    serving: CancellationToken,
    outcomes: Arc<Outcomes>,
    sessions: Arc<SessionCounts>,
    suspended: Suspended,
    _shown: Option<Shown>,
    pub stop: CancellationToken,
}

impl Mesh {
    /// Waits for the first SVID; nothing works without one.
    pub(super) async fn start(common: &Common, stop: CancellationToken) -> Result<Self, Error> {
        Self::start_with(common, Vitals::new(), stop).await
    }

    /// The same for one whose doing others look at as well.
    pub(super) async fn start_with(
        common: &Common,
        vitals: Vitals,
        stop: CancellationToken,
    ) -> Result<Self, Error> {
        let policies = UserPolicies::load(&common.policies)?;
        let source = Source::start(&common.workload_api);
        let Vitals { metrics, readiness, serving } = vitals;
        figures::identity(&metrics, &readiness, &source, common);
        let stopping = stop.clone();
        readiness.require("stop", move || stopping.is_cancelled().then(|| "the process stops".to_owned()));
        let shown = show(&common.metrics, &metrics, &readiness)?;
        let svid = source.wait(IDENTITY_LIMIT, &stop).await?;
        info!(name = %common.name, spiffe_id = %svid.leaf.id, version = env!("CARGO_PKG_VERSION"), "starting");
        let suspended = outage::suspended(source.outage(), common.max_identity_outage);
        let mesh = Self {
            channels: Channels::new(source.clone(), common.dial_timeout),
            source,
            clock: BootClock::start(),
            token_life: common.max_token_lifetime,
            trust: Trust::new(&common.trusted_ids, &svid.leaf.id),
            domain: access::domain(&svid.leaf.id).unwrap_or_default().to_owned(),
            admission: Admission::new(common.max_requests, stop.clone()),
            policies,
            metrics,
            serving,
            outcomes: Arc::default(),
            sessions: Arc::default(),
            suspended,
            _shown: shown,
            stop,
        };
        figures::channels(&mesh.metrics, &mesh.channels);
        figures::requests(&mesh.metrics, &mesh.outcomes, &mesh.admission);
        figures::connections(&mesh.metrics, &mesh.sessions);
        Ok(mesh)
    }

    /// A session whose doings are counted. Nothing expires in it while the identity source cannot issue.
    pub(super) fn session(&self, chain: Chain, policy: Policy) -> Session {
        let session = Session::new(chain, policy, self.clock.clone()).suspended_by(self.suspended.clone());
        session.counting(self.sessions.clone())
    }

    /// When links end that nobody asks for.
    pub(super) fn audit_rules(&self) -> AuditRules {
        let (clock, suspended) = (self.clock.clone(), self.suspended.clone());
        AuditRules { life: self.token_life, clock, suspended }
    }

    /// The health service of these gRPC services: all serve from when `ready` ends until the stop.
    pub(super) fn health(
        &self,
        services: &'static [&'static str],
        ready: impl Future<Output = ()> + Send + 'static,
    ) -> HealthServer<impl Health> {
        let serving = self.serving.clone();
        let ready = async move {
            ready.await;
            serving.cancel();
        };
        health_service(services, ready, self.stop.clone())
    }

    /// What stands first in chains that others call.
    pub(super) fn admit(&self) -> Arc<dyn Element> {
        Arc::new(Admit::new(self.admission.clone(), self.trust.clone(), self.outcomes.clone()))
    }

    /// What registrations go through on their way to the next registry.
    pub(super) fn to_registry<T: registry::Wire>(
        &self,
        connect: &registry::Connect,
    ) -> [Arc<dyn RegistryElement<T>>; 2] {
        let judged = registry::AuthorizeClient::new(self.policies.registry_client.clone());
        [Arc::new(judged), Arc::new(connect.clone())]
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
        // Requests whose callers went away are finished as well: half a connection helps nobody.
        if tokio::time::timeout(DRAIN_LIMIT, self.admission.idle()).await.is_err() {
            warn!(requests = self.admission.load().running, "cut: they took too long");
        }
        Ok(())
    }
}

// === impl Vitals ===

impl Vitals {
    /// Those of a process that is not ready before its services serve, from its start on.
    pub(super) fn new() -> Self {
        let (readiness, serving) = (Readiness::default(), CancellationToken::new());
        let served = serving.clone();
        readiness.require("services", move || {
            (!served.is_cancelled()).then(|| "not registered, or not connected, yet".to_owned())
        });
        Self { metrics: Metrics::default(), readiness, serving }
    }
}

/// Shows figures where the settings say. That there can be no socket at the place that nobody chose, as
/// for a client that is not root, is no reason not to work.
pub(super) fn show(
    place: &settings::Shown,
    metrics: &Metrics,
    readiness: &Readiness,
) -> Result<Option<Shown>, Error> {
    let Some(target) = &place.target else { return Ok(None) };
    match Shown::start(target, metrics.clone(), readiness.clone()) {
        Ok(shown) => Ok(Some(shown)),
        Err(error) if place.by_default => {
            warn!(%target, %error, "no metrics are shown; NSM_METRICS_LISTEN_ON says where");
            Ok(None)
        }
        Err(source) => Err(Error::Metrics { target: target.to_string(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_lacks_its_services_from_the_start_until_they_serve() {
        let Vitals { readiness, serving, .. } = Vitals::new();
        assert_eq!(readiness.missing().iter().map(|(what, _)| *what).collect::<Vec<_>>(), ["services"]);
        serving.cancel();
        assert!(readiness.missing().is_empty());
    }
}

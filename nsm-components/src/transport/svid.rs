//! This process's own identity: an X.509-SVID from a SPIFFE Workload API socket, and from nothing
//! else. It is renewed there; here the newest one is kept, and used as long as it is valid
//! whatever becomes of the Workload API.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use rustls::{
    ClientConfig, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
    sign::CertifiedKey,
};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tonic::{Request, metadata::MetadataValue, transport::Endpoint};
use tracing::{debug, info, warn};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{Counts, Error, issued::Issued, session::now, tls};
use crate::{
    api::{
        access,
        peer::Peer,
        with_causes,
        workload::{X509svidRequest, X509svidResponse, spiffe_workload_api_client::SpiffeWorkloadApiClient},
    },
    settings::Target,
};

/// Header that every call to the Workload API carries, against forged requests from browsers.
const SECURITY_HEADER: &str = "workload.spiffe.io";

/// Shortest and longest pause between two tries to reach the Workload API.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// A Workload API renews at half of an SVID's life. One that has not when this part of four is over
/// cannot.
const OVERDUE: u32 = 3;

/// An X.509-SVID with its key and the roots it came with. One value: what one handshake uses.
pub struct Svid {
    /// What the leaf says of this process.
    pub leaf: Peer,
    /// For dials with it.
    pub(super) client: Arc<ClientConfig>,
    /// For accepts with it.
    pub(super) server: Arc<ServerConfig>,
    pub(super) signer: jsonwebtoken::EncodingKey,
}

impl fmt::Debug for Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the key.
        f.debug_struct("Svid")
            .field("leaf", &self.leaf.id)
            .field("not_after", &self.leaf.not_after)
            .finish_non_exhaustive()
    }
}

/// The Workload API cannot issue: it is not there, or does not renew what it gave.
#[derive(Clone, Debug)]
pub struct Outage {
    /// Since when.
    pub since: Instant,
    /// For people.
    pub reason: Arc<str>,
}

/// Where the newest SVID is to be had. Clones share it.
#[derive(Clone, Debug)]
pub struct Source {
    current: watch::Receiver<Option<Arc<Svid>>>,
    outage: watch::Receiver<Option<Outage>>,
    socket: Arc<str>,
    counts: Arc<Counts>,
    issued: Arc<Issued>,
    _task: Arc<AbortOnDropHandle<()>>,
}

// === impl Svid ===

impl Svid {
    pub(super) fn from_response(response: X509svidResponse, socket: &str) -> Result<Self, Error> {
        let bad = |reason: &str| Error::BadSvid { socket: socket.into(), reason: reason.into() };
        let federated = response.federated_bundles;
        let svid = response.svids.into_iter().next().ok_or_else(|| bad("the answer is empty"))?;
        let chain = split_certificates(&svid.x509_svid).ok_or_else(|| bad("the chain is no DER"))?;
        let leaf = tls::peer(chain.first().ok_or_else(|| bad("the chain is empty"))?)?;
        if leaf.id != svid.spiffe_id {
            return Err(bad("the leaf names another SPIFFE ID than the answer"));
        }
        let own = access::domain(&leaf.id).ok_or_else(|| bad("the SPIFFE ID has no trust domain"))?;
        let mut domains = tls::Domains::default();
        for (domain, bundle) in &federated {
            // Both ways of naming it are in use. One that cannot be used must not spoil the others.
            let domain = access::domain(domain).unwrap_or(domain);
            let added = split_certificates(bundle).map(|bundle| domains.add(domain, bundle));
            if !matches!(added, Some(Ok(()))) {
                warn!(domain, "the bundle of a federated trust domain cannot be used");
            }
        }
        domains.add(own, split_certificates(&svid.bundle).ok_or_else(|| bad("the bundle is no DER"))?)?;
        let domains = Arc::new(domains);
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(svid.x509_svid_key.clone()));
        let certified = CertifiedKey::from_der(chain, key, &tls::provider())?;
        Ok(Self {
            leaf,
            client: Arc::new(tls::client_config(&certified, domains.clone())?),
            server: Arc::new(tls::server_config(&certified, domains)?),
            signer: jsonwebtoken::EncodingKey::from_ec_der(&svid.x509_svid_key),
        })
    }
}

/// DER certificates laid end to end.
fn split_certificates(mut der: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let mut all = Vec::new();
    while !der.is_empty() {
        let (rest, _) = X509Certificate::from_der(der).ok()?;
        all.push(CertificateDer::from(der[..der.len() - rest.len()].to_vec()));
        der = rest;
    }
    Some(all)
}

// === impl Source ===

impl Source {
    /// Starts to follow the Workload API at `socket`, and goes on while clones are alive. An SVID
    /// in hand is kept when the Workload API goes away.
    pub fn start(socket: &Target) -> Self {
        let ((sender, current), (failed, outage)) = (watch::channel(None), watch::channel(None));
        let name: Arc<str> = socket.to_string().into();
        let path = match socket {
            Target::Unix(path) => path.clone(),
            Target::Tcp(address) => PathBuf::from(address),
        };
        let follower = Follower { path, name: name.clone(), current: sender, outage: failed };
        let task = tokio::spawn(follower.run());
        let task = Arc::new(AbortOnDropHandle::new(task));
        Self { current, outage, socket: name, counts: Arc::default(), issued: Arc::default(), _task: task }
    }

    /// What is watched, from nowhere.
    #[cfg(test)]
    pub(super) fn watching(current: watch::Receiver<Option<Arc<Svid>>>) -> Self {
        let (outage, counts, issued) = (watch::channel(None).1, Arc::default(), Arc::default());
        let task = Arc::new(AbortOnDropHandle::new(tokio::spawn(async {})));
        Self { current, outage, socket: "test".into(), counts, issued, _task: task }
    }

    /// The newest SVID; the first one is waited for.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    pub async fn wait(&self, limit: Duration, stop: &CancellationToken) -> Result<Arc<Svid>, Error> {
        let none = || Error::NoIdentity { socket: self.socket.to_string(), seconds: limit.as_secs() };
        let mut current = self.current.clone();
        let found = tokio::select! {
            found = tokio::time::timeout(limit, current.wait_for(Option::is_some)) => found,
            () = stop.cancelled() => return Err(none()),
        };
        found.ok().and_then(Result::ok).and_then(|svid| svid.clone()).ok_or_else(none)
    }

    /// Whether and since when the Workload API cannot issue. What this process has stays valid until
    /// its end; what others have ends too, and they can do nothing about it.
    pub fn outage(&self) -> watch::Receiver<Option<Outage>> {
        self.outage.clone()
    }

    /// What was done with this identity so far.
    pub fn counts(&self) -> &Arc<Counts> {
        &self.counts
    }

    /// The tokens given out with this identity.
    pub(super) fn issued(&self) -> &Arc<Issued> {
        &self.issued
    }

    /// The newest SVID, if one has come.
    pub fn current(&self) -> Result<Arc<Svid>, Error> {
        let none = || Error::NoIdentity { socket: self.socket.to_string(), seconds: 0 };
        self.current.borrow().clone().ok_or_else(none)
    }
}

/// Follows one Workload API.
struct Follower {
    path: PathBuf,
    name: Arc<str>,
    current: watch::Sender<Option<Arc<Svid>>>,
    outage: watch::Sender<Option<Outage>>,
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

// === impl Follower ===

impl Follower {
    async fn run(self) {
        let mut pause = RETRY.0;
        loop {
            match self.stream(&mut pause).await {
                Ok(()) => self.fail("it ended its stream"),
                Err(error) => self.fail(&with_causes(&*error)),
            }
            tokio::select! {
                () = sleep(pause) => {}
                () = self.current.closed() => return,
            }
            pause = (pause * 2).min(RETRY.1);
        }
    }

    /// One stream of SVIDs, to its end.
    async fn stream(&self, pause: &mut Duration) -> Result<(), BoxError> {
        let endpoint = Endpoint::from_shared(format!("unix://{}", self.path.display()))?;
        let channel = endpoint.connect_timeout(Duration::from_secs(5)).connect().await?;
        let mut request = Request::new(X509svidRequest {});
        request.metadata_mut().insert(SECURITY_HEADER, MetadataValue::from_static("true"));
        let mut answers = SpiffeWorkloadApiClient::new(channel).fetch_x509svid(request).await?.into_inner();
        let mut overdue: Option<Instant> = None;
        loop {
            let answer = if let Some(at) = overdue.take() {
                // A message that has come in part is not lost with the wait.
                let Ok(answer) = timeout_at(at, answers.message()).await else {
                    self.fail("it does not renew the SVID");
                    continue;
                };
                answer?
            } else {
                answers.message().await?
            };
            let Some(answer) = answer else { return Ok(()) };
            let svid = Svid::from_response(answer, &self.name)?;
            let left = u64::try_from(svid.leaf.not_after - now()).unwrap_or_default();
            overdue = Some(Instant::now() + Duration::from_secs(left) * OVERDUE / 4);
            *pause = RETRY.0;
            self.take(svid);
        }
    }

    fn take(&self, svid: Svid) {
        info!(spiffe_id = %svid.leaf.id, not_after = svid.leaf.not_after, "new SVID");
        // First, or who waited for the SVID finds an outage beside it.
        let outage = self.outage.send_replace(None);
        self.current.send_replace(Some(Arc::new(svid)));
        if let Some(outage) = outage {
            debug!(socket = %self.name, after = ?outage.since.elapsed(), "the Workload API issues again");
        }
    }

    /// Says so once, however often it is tried.
    fn fail(&self, reason: &str) {
        let news = self.outage.send_if_modified(|outage| {
            let news = outage.as_ref().is_none_or(|outage| &*outage.reason != reason);
            let since = outage.as_ref().map_or_else(Instant::now, |outage| outage.since);
            *outage = Some(Outage { since, reason: reason.into() });
            news
        });
        let until = self.current.borrow().as_ref().map(|svid| svid.leaf.not_after);
        match until {
            _ if !news => debug!(socket = %self.name, reason, "still no SVID from the Workload API"),
            Some(until) => {
                warn!(socket = %self.name, reason, valid_until = until, "no new SVID from the Workload API: going on with the old one");
            }
            None => warn!(socket = %self.name, reason, "no SVID from the Workload API yet: waiting for it"),
        }
    }
}

#[cfg(test)]
mod tests;

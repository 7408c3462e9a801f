//! This process's own identity: an X.509-SVID from a SPIFFE Workload API socket, and from nothing
//! else. It is renewed there; here the newest one is kept.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
    sign::CertifiedKey,
};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tonic::{Request, transport::Endpoint};
use tracing::{debug, info, warn};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{Counts, Error, tls};
use crate::{
    api::{
        peer::Peer,
        workload::{X509svidRequest, X509svidResponse, spiffe_workload_api_client::SpiffeWorkloadApiClient},
    },
    settings::Target,
};

/// Header that every call to the Workload API carries, against forged requests from browsers.
const SECURITY_HEADER: &str = "workload.spiffe.io";

/// Shortest and longest pause between two tries to reach the Workload API.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// An X.509-SVID with its key and the roots it came with. One value: what one handshake uses.
pub struct Svid {
    /// What the leaf says of this process.
    pub leaf: Peer,
    pub(super) certified: Arc<CertifiedKey>,
    pub(super) roots: Arc<RootCertStore>,
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

/// Where the newest SVID is to be had. Clones share it.
#[derive(Clone, Debug)]
pub struct Source {
    current: watch::Receiver<Option<Arc<Svid>>>,
    socket: Arc<str>,
    counts: Arc<Counts>,
    _task: Arc<AbortOnDropHandle<()>>,
}

// === impl Svid ===

impl Svid {
    fn from_response(response: X509svidResponse, socket: &str) -> Result<Self, Error> {
        let bad = |reason: &str| Error::BadSvid { socket: socket.into(), reason: reason.into() };
        let svid = response.svids.into_iter().next().ok_or_else(|| bad("the answer is empty"))?;
        let chain = split_certificates(&svid.x509_svid).ok_or_else(|| bad("the chain is no DER"))?;
        let leaf = tls::peer(chain.first().ok_or_else(|| bad("the chain is empty"))?)?;
        if leaf.id != svid.spiffe_id {
            return Err(bad("the leaf names another SPIFFE ID than the answer"));
        }
        let mut roots = RootCertStore::empty();
        for root in split_certificates(&svid.bundle).ok_or_else(|| bad("the bundle is no DER"))? {
            roots.add(root)?;
        }
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(svid.x509_svid_key.clone()));
        let certified = CertifiedKey::from_der(chain, key, &tls::provider())?;
        Ok(Self {
            leaf,
            certified: Arc::new(certified),
            roots: Arc::new(roots),
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
        let (sender, current) = watch::channel(None);
        let name: Arc<str> = socket.to_string().into();
        let path = match socket {
            Target::Unix(path) => path.clone(),
            Target::Tcp(address) => PathBuf::from(address),
        };
        let task = tokio::spawn(follow(path, name.clone(), sender));
        Self { current, socket: name, counts: Arc::default(), _task: Arc::new(AbortOnDropHandle::new(task)) }
    }

    /// This SVID and no other, from nowhere.
    #[cfg(test)]
    pub(super) fn of(response: X509svidResponse) -> Result<Self, Error> {
        let (_, current) = watch::channel(Some(Arc::new(Svid::from_response(response, "test")?)));
        let task = AbortOnDropHandle::new(tokio::spawn(async {}));
        Ok(Self { current, socket: "test".into(), counts: Arc::default(), _task: Arc::new(task) })
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

    /// What was done with this identity so far.
    pub fn counts(&self) -> &Arc<Counts> {
        &self.counts
    }

    /// The newest SVID, if one has come.
    pub fn current(&self) -> Result<Arc<Svid>, Error> {
        let none = || Error::NoIdentity { socket: self.socket.to_string(), seconds: 0 };
        self.current.borrow().clone().ok_or_else(none)
    }
}

async fn follow(path: PathBuf, name: Arc<str>, sender: watch::Sender<Option<Arc<Svid>>>) {
    let mut pause = RETRY.0;
    loop {
        match stream(&path, &name, &sender).await {
            Ok(()) => {
                debug!(socket = %name, "the Workload API ended its stream");
                pause = RETRY.0;
            }
            Err(error) => warn!(socket = %name, %error, "no SVID from the Workload API"),
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = sender.closed() => return,
        }
        pause = (pause * 2).min(RETRY.1);
    }
}

/// One stream of SVIDs, to its end.
async fn stream(
    path: &std::path::Path,
    name: &str,
    sender: &watch::Sender<Option<Arc<Svid>>>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let endpoint = Endpoint::from_shared(format!("unix://{}", path.display()))?;
    let channel = endpoint.connect_timeout(Duration::from_secs(5)).connect().await?;
    let mut request = Request::new(X509svidRequest {});
    request.metadata_mut().insert(SECURITY_HEADER, tonic::metadata::MetadataValue::from_static("true"));
    let mut answers = SpiffeWorkloadApiClient::new(channel).fetch_x509svid(request).await?.into_inner();
    while let Some(answer) = answers.message().await? {
        let svid = Svid::from_response(answer, name)?;
        info!(spiffe_id = %svid.leaf.id, not_after = svid.leaf.not_after, "new SVID");
        sender.send_replace(Some(Arc::new(svid)));
    }
    Ok(())
}

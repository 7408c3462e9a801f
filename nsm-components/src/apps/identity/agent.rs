//! The node's agent: knows which pod calls, holds its key, and has the authority sign.
//!
//! Works on with what it has while the authority or the API server is away: SVIDs stay served, the
//! bundle is on disk beside the socket, and callers without an SVID wait.

use std::{fs, io, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use hyper_util::rt::TokioIo;
use kube::Client;
use rcgen::PublicKeyData as _;
use rustls_pki_types::ServerName;
use tokio::{
    net::TcpStream,
    sync::{Semaphore, watch},
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tonic::{
    Code, Request, Status,
    metadata::{Ascii, MetadataValue},
    transport::{Channel, Endpoint, Uri},
};
use tracing::{info, warn};

use super::{
    Error,
    attest::{AttestError, Process},
    bundle::{Bundle, BundleError},
    ca::{self, CaError},
    id::IdError,
    issuer::{Caller, IssueError, Issuer},
    pod::Roots,
    published,
    svid::Svid,
    tls::{self, Trust},
    workload_api,
    x509::{self, X509Error},
};
use crate::{
    api::{
        identity::{SignRequest, identity_authority_client::IdentityAuthorityClient},
        with_causes,
    },
    settings::{IdentityAgent as Settings, Target},
};

/// The longest call to the authority; that waits for a pod itself, so it is longer than there.
const CALL_PATIENCE: Duration = Duration::from_secs(20);

const CONNECT_PATIENCE: Duration = Duration::from_secs(5);

/// Calls to the authority at one time, so that a node full of starting pods is a queue.
const CALLS: usize = 8;

/// File beside the socket with the last bundle.
const BUNDLE_FILE: &str = "bundle.pem";

/// Serves the Workload API until shutdown, with the API server that this pod's service account
/// reaches.
pub async fn run(settings: Settings, shutdown: CancellationToken) -> Result<(), Error> {
    let client = Client::try_default().await.map_err(Error::Client)?;
    let own = fs::read_to_string("/proc/self/cgroup").map_err(Error::file("read", "/proc/self/cgroup"))?;
    serve(settings, client, Roots::learn(&own), shutdown).await
}

/// [`run`] with everything that comes from outside given.
async fn serve(
    settings: Settings,
    client: Client,
    roots: Roots,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let Target::Unix(socket) = &settings.listen_on else {
        return Err(Error::NoUnixSocket(settings.listen_on.to_string()));
    };
    let Target::Tcp(authority) = &settings.authority_url else {
        let value = settings.authority_url.to_string();
        return Err(Error::NoTcp { variable: "NSM_AUTHORITY_URL", value });
    };
    info!(node = settings.node_name, authority, ?roots, "this is the identity agent");
    let file = socket.with_file_name(BUNDLE_FILE);
    let bundle = watch::Sender::new(load(&file));
    let agent = Agent {
        roots,
        authority: authority.clone(),
        namespace: client.default_namespace().to_owned(),
        token_file: settings.token_file.clone(),
        bundle: bundle.clone(),
        calls: Semaphore::new(CALLS),
    };
    let follower = published::follow(&client, &settings.bundle, |new| {
        save(&file, &new);
        bundle.send_replace(Some(new));
    });
    let serving = workload_api::serve(&settings.listen_on, Arc::new(agent), None, shutdown);
    tokio::select! {
        result = serving => result,
        () = follower => Ok(()),
    }
}

struct Agent {
    roots: Roots,
    authority: String,
    /// Of this agent's account: the authority's ID names it too.
    namespace: String,
    token_file: PathBuf,
    bundle: watch::Sender<Option<Bundle>>,
    calls: Semaphore,
}

/// Why the authority's signature could not be had.
#[derive(Debug, thiserror::Error)]
enum SignError {
    #[error("no trust bundle is known yet, so the authority cannot be told from another")]
    NoBundle,
    #[error("the trust bundle cannot be used")]
    Bundle(#[from] BundleError),
    #[error("the authority has no valid name")]
    Id(#[from] IdError),
    #[error("TLS cannot be set up")]
    Tls(#[from] rustls::Error),
    #[error("cannot read the token for the authority in {}", .0.display())]
    TokenFile(PathBuf, #[source] io::Error),
    #[error("the token for the authority is no text that a header can hold")]
    Token,
    #[error("cannot reach the authority at {0}")]
    Connect(String, #[source] tonic::transport::Error),
    #[error("the authority at {0} did not answer in {CALL_PATIENCE:?}")]
    Slow(String),
    #[error("the authority answered: {}", .0.message())]
    Answer(Status),
    #[error("the authority's certificate cannot be used")]
    Certificate(#[from] X509Error),
    #[error("the authority's certificate is for another key or name than its answer")]
    Mismatch,
    #[error(transparent)]
    Key(#[from] CaError),
}

#[async_trait]
impl Issuer for Agent {
    fn attest(&self, process: &Process) -> Result<Caller, AttestError> {
        let uid = self.roots.pod_uid(&process.cgroup()?).map_err(|error| process.refuse(&error))?;
        Ok(Caller::new(&uid))
    }

    async fn issue(&self, caller: &Caller) -> Result<Svid, IssueError> {
        let signing = timeout(CALL_PATIENCE, self.sign(caller)).await;
        match signing.unwrap_or_else(|_| Err(SignError::Slow(self.authority.clone()))) {
            Ok(svid) => Ok(svid),
            // What the authority says about the pod; all else is about the authority or this agent.
            Err(SignError::Answer(status)) if status.code() == Code::PermissionDenied => {
                Err(IssueError::Refused(status.message().to_owned()))
            }
            Err(error) => Err(IssueError::NotNow(error.into())),
        }
    }

    fn bundle(&self) -> watch::Receiver<Option<Bundle>> {
        self.bundle.subscribe()
    }
}

// === impl Agent ===

impl Agent {
    async fn sign(&self, caller: &Caller) -> Result<Svid, SignError> {
        let _permit = self.calls.acquire().await;
        let bundle = self.bundle.borrow().clone().ok_or(SignError::NoBundle)?;
        let key = ca::leaf_key()?;
        let public_key = key.subject_public_key_info();
        let message = SignRequest { pod_uid: caller.as_str().to_owned(), public_key: public_key.clone() };
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", self.authorization().await?);
        let mut client = IdentityAuthorityClient::new(self.connect(&bundle).await?);
        let answer = client.sign(request).await.map_err(SignError::Answer)?.into_inner();
        let signed_under = Bundle::from_der(&answer.bundle)?;
        if x509::public_key(&answer.certificates)? != public_key || signed_under.domain() != bundle.domain() {
            return Err(SignError::Mismatch);
        }
        let svid = Svid::new(answer.certificates, key.serialize_der(), signed_under)?;
        if svid.id().as_str() == answer.spiffe_id { Ok(svid) } else { Err(SignError::Mismatch) }
    }

    /// The token as it is now: the kubelet replaces the file well before a token ends.
    async fn authorization(&self) -> Result<MetadataValue<Ascii>, SignError> {
        let token = tokio::fs::read_to_string(&self.token_file).await;
        let token = token.map_err(|error| SignError::TokenFile(self.token_file.clone(), error))?;
        let mut value: MetadataValue<Ascii> =
            format!("Bearer {}", token.trim()).parse().map_err(|_| SignError::Token)?;
        value.set_sensitive(true);
        Ok(value)
    }

    /// A connection for one call. Pods start and renew too seldom for one to be kept, and a fresh
    /// one always is to a server that is there, known by the bundle of this moment.
    async fn connect(&self, bundle: &Bundle) -> Result<Channel, SignError> {
        let server = bundle.domain().authority(&self.namespace)?;
        let config = tls::client_config(Trust::Roots(bundle.roots()?), server)?;
        connect(&self.authority, config)
            .await
            .map_err(|error| SignError::Connect(self.authority.clone(), error))
    }
}

/// A gRPC channel over TLS to `host:port`.
pub(super) async fn connect(
    address: &str,
    config: rustls::ClientConfig,
) -> Result<Channel, tonic::transport::Error> {
    let (address, tls) = (address.to_owned(), TlsConnector::from(Arc::new(config)));
    let connector = tower::service_fn(move |_: Uri| {
        let (address, tls) = (address.clone(), tls.clone());
        async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            // The name is not sent: the server is known by its SPIFFE ID.
            let name = ServerName::try_from("authority").map_err(io::Error::other)?;
            tls.connect(name, stream).await.map(TokioIo::new)
        }
    });
    Endpoint::from_static("http://authority")
        .connect_timeout(CONNECT_PATIENCE)
        .timeout(CALL_PATIENCE)
        .connect_with_connector(connector)
        .await
}

/// The bundle of the last time; what cannot be read is as good as none.
fn load(file: &std::path::Path) -> Option<Bundle> {
    let text = match fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            warn!(%error, file = %file.display(), "cannot read the trust bundle of the last time");
            return None;
        }
    };
    match Bundle::from_pem(&text) {
        Ok(bundle) => Some(bundle),
        Err(error) => {
            warn!(error = with_causes(&error), file = %file.display(), "the trust bundle of the last time is damaged");
            None
        }
    }
}

/// Whole or not at all; without it only a restart during an outage of the API server is worse.
fn save(file: &std::path::Path, bundle: &Bundle) {
    let temporary = file.with_extension("pem.new");
    let saved = file
        .parent()
        .map_or(Ok(()), fs::create_dir_all)
        .and_then(|()| fs::write(&temporary, bundle.to_pem()))
        .and_then(|()| fs::rename(&temporary, file));
    if let Err(error) = saved {
        warn!(%error, file = %file.display(), "cannot keep the trust bundle for the next start");
    }
}

#[cfg(test)]
mod tests;

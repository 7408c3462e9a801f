//! The SPIFFE Workload API, X.509 part, over any [`Issuer`].
//!
//! Source: SPIFFE Workload API §5; the shape of the messages is the one go-spiffe takes (interop §1).

use std::{pin::Pin, sync::Arc, time::Duration};

use futures::Stream;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, transport::Server};
use tracing::info;

use super::{
    Error,
    bundle::Bundle,
    issuer::Issuer,
    renewal::{Renewals, State},
    socket::{self, Admission},
    svid::Svid,
};
use crate::{
    api::workload::{
        X509BundlesRequest, X509BundlesResponse, X509svid, X509svidRequest, X509svidResponse,
        spiffe_workload_api_server::{SpiffeWorkloadApi, SpiffeWorkloadApiServer},
    },
    settings::Target,
};

/// Metadata every call has to carry (SPIFFE Workload Endpoint §6), so that a program that can be
/// made to send requests cannot be made to fetch keys.
pub(super) const SECURITY_HEADER: &str = "workload.spiffe.io";

/// The largest request; both of them are empty messages.
const MAX_REQUEST: usize = 4096;

/// Calls at one time on one connection; one program needs two.
const STREAMS_PER_CONNECTION: u32 = 16;

/// How long streams may take to end when the process stops.
const GRACE: Duration = Duration::from_secs(5);

/// Serves the Workload API until shutdown.
pub(super) async fn serve<I: Issuer>(
    listen_on: &Target,
    issuer: Arc<I>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let Target::Unix(path) = listen_on else { return Err(Error::NoUnixSocket(listen_on.to_string())) };
    let listener = socket::bind(path)?;
    info!(socket = %path.display(), "serving identities");
    let api = WorkloadApi {
        bundle: issuer.bundle(),
        renewals: Renewals::new(issuer.clone()),
        shutdown: shutdown.clone(),
    };
    let server = Server::builder()
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .add_service(SpiffeWorkloadApiServer::new(api).max_decoding_message_size(MAX_REQUEST))
        .serve_with_incoming_shutdown(socket::incoming(listener, issuer), shutdown.clone().cancelled_owned());
    tokio::select! {
        ended = server => {
            ended.map_err(|source| Error::Serve { address: listen_on.to_string(), source })
        }
        // A client that does not read its stream's end must not keep the process.
        () = async { shutdown.cancelled().await; tokio::time::sleep(GRACE).await } => Ok(()),
    }
}

struct WorkloadApi<I> {
    renewals: Renewals<I>,
    bundle: watch::Receiver<Option<Bundle>>,
    shutdown: CancellationToken,
}

type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[async_trait::async_trait]
impl<I: Issuer> SpiffeWorkloadApi for WorkloadApi<I> {
    type FetchX509SVIDStream = Messages<X509svidResponse>;
    type FetchX509BundlesStream = Messages<X509BundlesResponse>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        let Admission(caller) = admission(&request)?;
        let caller = caller.map_err(|why| Status::permission_denied(&*why))?;
        let states = self.renewals.subscribe(&caller);
        let states = states.map_err(|full| Status::resource_exhausted(full.to_string()))?;
        let feed = Feed { states, bundle: self.bundle.clone(), shutdown: self.shutdown.clone(), sent: None };
        let stream = futures::stream::unfold(Some(feed), async |feed| feed?.next().await);
        Ok(Response::new(Box::pin(stream)))
    }

    async fn fetch_x509_bundles(
        &self,
        request: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        let Admission(caller) = admission(&request)?;
        caller.map_err(|why| Status::permission_denied(&*why))?;
        let state = (self.bundle.clone(), None, self.shutdown.clone());
        let stream = futures::stream::unfold(Some(state), async |state| {
            let (mut bundle, sent, shutdown) = state?;
            loop {
                let known = bundle.borrow_and_update().clone();
                if let Some(known) = known.filter(|known| sent.as_ref() != Some(known)) {
                    return Some((Ok(bundle_message(&known)), Some((bundle, Some(known), shutdown))));
                }
                tokio::select! {
                    Ok(()) = bundle.changed() => {}
                    () = shutdown.cancelled() => return Some((Err(stopping()), None)),
                }
            }
        });
        Ok(Response::new(Box::pin(stream)))
    }
}

fn admission<T>(request: &Request<T>) -> Result<Admission, Status> {
    if request.metadata().get(SECURITY_HEADER).is_none_or(|value| value != "true") {
        return Err(Status::invalid_argument("metadata workload.spiffe.io: true is missing"));
    }
    request.extensions().get().cloned().ok_or_else(|| Status::permission_denied("the caller is unknown"))
}

fn stopping() -> Status {
    Status::unavailable("the identity process is stopping: ask again")
}

fn bundle_message(bundle: &Bundle) -> X509BundlesResponse {
    let bundles = [(bundle.domain().id().to_string(), bundle.to_der())].into();
    X509BundlesResponse { crl: Vec::new(), bundles }
}

/// What one open stream has sent and waits for.
struct Feed {
    states: watch::Receiver<State>,
    bundle: watch::Receiver<Option<Bundle>>,
    shutdown: CancellationToken,
    sent: Option<(Arc<Svid>, Bundle)>,
}

impl Feed {
    /// The next message, and the feed if another may follow.
    async fn next(mut self) -> Option<(Result<X509svidResponse, Status>, Option<Self>)> {
        loop {
            let state = self.states.borrow_and_update().clone();
            let known = self.bundle.borrow_and_update().clone();
            match state {
                State::Refused(why) => return Some((Err(Status::permission_denied(&*why)), None)),
                State::Ready(svid) => {
                    // The issuer may know a new root a moment before the bundle that is published.
                    let bundle =
                        known.map_or_else(|| svid.bundle().clone(), |known| known.union(svid.bundle()));
                    if !self.has_sent(&svid, &bundle) {
                        let message = svid_message(&svid, &bundle);
                        self.sent = Some((svid, bundle));
                        return Some((Ok(message), Some(self)));
                    }
                }
                State::Waiting => {}
            }
            tokio::select! {
                Ok(()) = self.states.changed() => {}
                Ok(()) = self.bundle.changed() => {}
                () = self.shutdown.cancelled() => return Some((Err(stopping()), None)),
            }
        }
    }

    fn has_sent(&self, svid: &Arc<Svid>, bundle: &Bundle) -> bool {
        self.sent.as_ref().is_some_and(|(sent, with)| Arc::ptr_eq(sent, svid) && with == bundle)
    }
}

fn svid_message(svid: &Svid, bundle: &Bundle) -> X509svidResponse {
    let svid = X509svid {
        spiffe_id: svid.id().to_string(),
        x509_svid: svid.certificates().to_vec(),
        x509_svid_key: svid.key().to_vec(),
        bundle: bundle.to_der(),
        hint: String::new(),
    };
    X509svidResponse { svids: vec![svid], ..X509svidResponse::default() }
}

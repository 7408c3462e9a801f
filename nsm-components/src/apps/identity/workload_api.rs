//! The SPIFFE Workload API over any [`Issuer`].
//!
//! Source: SPIFFE Workload API §5 and §6; the shape of the messages is the one go-spiffe takes
//! (interop §1).

mod feed;
mod messages;

use std::{pin::Pin, sync::Arc, time::Duration};

use futures::Stream;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, transport::Server};
use tracing::info;

use self::feed::{Feed, follow};
use super::{
    Error,
    bundle::Bundle,
    control::Control,
    issuer::{Caller, IssueError, Issuer, JwtIssuer},
    renewal::Renewals,
    socket::{self, Admission},
};
use crate::{
    api::{
        identity::identity_control_server::IdentityControlServer,
        with_causes,
        workload::{
            JwtBundlesRequest, JwtBundlesResponse, Jwtsvid, JwtsvidRequest, JwtsvidResponse,
            ValidateJwtsvidRequest, ValidateJwtsvidResponse, X509BundlesRequest, X509BundlesResponse,
            X509svidRequest, X509svidResponse,
            spiffe_workload_api_server::{SpiffeWorkloadApi, SpiffeWorkloadApiServer},
        },
    },
    settings::Target,
};

/// Metadata every call has to carry (SPIFFE Workload Endpoint §6), so that a program that can be
/// made to send requests cannot be made to fetch keys.
pub(super) const SECURITY_HEADER: &str = "workload.spiffe.io";

/// The largest request: a token to look into.
const MAX_REQUEST: usize = 16 * 1024;

/// Most names in the audience of one token.
const MAX_AUDIENCE: usize = 64;

/// Calls at one time on one connection; one program needs four.
const STREAMS_PER_CONNECTION: u32 = 16;

/// How long streams may take to end when the process stops.
const GRACE: Duration = Duration::from_secs(5);

/// Serves the Workload API until shutdown, and beside it what the administrator may ask for.
pub(super) async fn serve<I: Issuer>(
    listen_on: &Target,
    issuer: Arc<I>,
    control: Option<IdentityControlServer<Control>>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let Target::Unix(path) = listen_on else { return Err(Error::NoUnixSocket(listen_on.to_string())) };
    let listener = socket::bind(path)?;
    info!(socket = %path.display(), "serving identities");
    let api = WorkloadApi {
        bundle: issuer.bundle(),
        renewals: Renewals::new(issuer.clone()),
        issuer: issuer.clone(),
        shutdown: shutdown.clone(),
    };
    let server = Server::builder()
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .add_service(SpiffeWorkloadApiServer::new(api).max_decoding_message_size(MAX_REQUEST))
        .add_optional_service(control)
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
    issuer: Arc<I>,
    renewals: Renewals<I>,
    bundle: watch::Receiver<Option<Bundle>>,
    shutdown: CancellationToken,
}

type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl<I: Issuer> WorkloadApi<I> {
    fn jwt(&self) -> Result<&dyn JwtIssuer, Status> {
        self.issuer
            .jwt()
            .ok_or_else(|| Status::unimplemented("there are no JWT-SVIDs here, only X.509-SVIDs"))
    }
}

#[async_trait::async_trait]
impl<I: Issuer> SpiffeWorkloadApi for WorkloadApi<I> {
    type FetchX509SVIDStream = Messages<X509svidResponse>;
    type FetchX509BundlesStream = Messages<X509BundlesResponse>;
    type FetchJWTBundlesStream = Messages<JwtBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        let caller = admitted(&request)?;
        let states = self.renewals.subscribe(&caller);
        let states = states.map_err(|full| Status::resource_exhausted(full.to_string()))?;
        let feed = Feed::new(states, self.bundle.clone(), self.shutdown.clone());
        Ok(Response::new(Box::pin(feed.messages())))
    }

    async fn fetch_x509_bundles(
        &self,
        request: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        admitted(&request)?;
        let bundles = follow(self.bundle.clone(), self.shutdown.clone(), messages::x509_bundle);
        Ok(Response::new(Box::pin(bundles)))
    }

    async fn fetch_jwtsvid(
        &self,
        request: Request<JwtsvidRequest>,
    ) -> Result<Response<JwtsvidResponse>, Status> {
        let caller = admitted(&request)?;
        let JwtsvidRequest { audience, spiffe_id: wanted } = request.into_inner();
        if audience.is_empty() || audience.len() > MAX_AUDIENCE || audience.iter().any(String::is_empty) {
            let message = format!("the audience has to be 1 to {MAX_AUDIENCE} names that are not empty");
            return Err(Status::invalid_argument(message));
        }
        let (id, svid) = self.jwt()?.sign(&caller, &audience).map_err(|error| match error {
            IssueError::Refused(why) => Status::permission_denied(why),
            IssueError::NotNow(_) => Status::unavailable(with_causes(&error)),
        })?;
        if !wanted.is_empty() && wanted != id.as_str() {
            return Err(Status::permission_denied(format!("the caller is {id}, not {wanted}")));
        }
        let svid = Jwtsvid { spiffe_id: id.to_string(), svid, hint: String::new() };
        Ok(Response::new(JwtsvidResponse { svids: vec![svid] }))
    }

    async fn fetch_jwt_bundles(
        &self,
        request: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        admitted(&request)?;
        let keys = self.jwt()?.keys();
        let bundles = follow(keys, self.shutdown.clone(), messages::jwt_bundle);
        Ok(Response::new(Box::pin(bundles)))
    }

    async fn validate_jwtsvid(
        &self,
        request: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        admitted(&request)?;
        let ValidateJwtsvidRequest { audience, svid } = request.into_inner();
        if audience.is_empty() {
            return Err(Status::invalid_argument("the audience is missing"));
        }
        let keys = self.jwt()?.keys().borrow().clone();
        let keys = keys.ok_or_else(|| Status::unavailable("the trust domain's keys are not known yet"))?;
        let held = keys.validate(&svid, &audience);
        let (id, claims) = held.map_err(|error| {
            Status::invalid_argument(format!("the token is refused: {}", with_causes(&error)))
        })?;
        let claims = Some(messages::structure(claims));
        Ok(Response::new(ValidateJwtsvidResponse { spiffe_id: id.to_string(), claims }))
    }
}

/// The caller, if it has shown that it means to call and is somebody.
fn admitted<T>(request: &Request<T>) -> Result<Caller, Status> {
    if request.metadata().get(SECURITY_HEADER).is_none_or(|value| value != "true") {
        return Err(Status::invalid_argument("metadata workload.spiffe.io: true is missing"));
    }
    let admission = request.extensions().get::<Admission>();
    let admission = admission.ok_or_else(|| Status::permission_denied("the caller is unknown"))?;
    admission.caller.clone().map_err(|why| Status::permission_denied(&*why))
}

//! What the administrator of a host can ask of a running `nsm identity standalone`: a rotation of
//! its CA. On the socket of the Workload API, for the process's own user and root alone.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use hyper_util::rt::TokioIo;
use tokio::{net::UnixStream, time::timeout};
use tonic::{
    Request, Response, Status,
    transport::{Endpoint, Uri},
};
use tracing::info;

use super::{Error, socket::Admission, standalone::Standalone};
use crate::{
    api::{
        identity::{
            RotateRequest, RotateResponse,
            identity_control_client::IdentityControlClient,
            identity_control_server::{IdentityControl, IdentityControlServer},
        },
        with_causes,
    },
    settings::{IdentityStandalone, Target},
};

/// How long the process may take to answer.
const PATIENCE: Duration = Duration::from_secs(15);

/// When the phases of a rotation end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// When the new CA signs.
    pub signs_from: SystemTime,
    /// When the old one leaves the bundle.
    pub old_ends: SystemTime,
}

/// The service.
pub(super) struct Control(Arc<Standalone>);

// === impl Rotation ===

impl Rotation {
    /// From seconds since the epoch.
    pub(super) fn new(signs_from: u64, old_ends: u64) -> Self {
        let time = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        Self { signs_from: time(signs_from), old_ends: time(old_ends) }
    }
}

impl fmt::Display for Rotation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = humantime::format_rfc3339_seconds;
        let (from, until) = (time(self.signs_from), time(self.old_ends));
        write!(f, "the new CA is in the bundle; it signs from {from}, and the old one leaves at {until}")
    }
}

// === impl Control ===

impl Control {
    pub(super) fn new(issuer: Arc<Standalone>) -> IdentityControlServer<Self> {
        IdentityControlServer::new(Self(issuer))
    }
}

#[async_trait]
impl IdentityControl for Control {
    async fn rotate(&self, request: Request<RotateRequest>) -> Result<Response<RotateResponse>, Status> {
        let uid = request.extensions().get::<Admission>().map(|admission| admission.uid);
        let own = nix::unistd::geteuid().as_raw();
        if !uid.is_some_and(|uid| uid == 0 || uid == own) {
            return Err(Status::permission_denied(
                "only root and the user of the identity process may do that",
            ));
        }
        let rotation = self.0.rotate().await.map_err(|error| Status::unavailable(with_causes(&error)))?;
        info!(%rotation, "the CA rotates");
        let seconds = |time: SystemTime| {
            let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
        };
        let Rotation { signs_from, old_ends } = rotation;
        let answer = RotateResponse { signs_from: seconds(signs_from), old_ends: seconds(old_ends) };
        Ok(Response::new(answer))
    }
}

/// Has the process that serves these settings' socket rotate its CA.
pub async fn rotate(settings: &IdentityStandalone) -> Result<Rotation, Error> {
    let Target::Unix(path) = &settings.listen_on else {
        return Err(Error::NoUnixSocket(settings.listen_on.to_string()));
    };
    let not_rotated = |why: String| Error::NotRotated { address: settings.listen_on.to_string(), why };
    let path = path.clone();
    let connector = tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    let asking = async {
        let channel = Endpoint::from_static("http://localhost").connect_with_connector(connector).await;
        let mut client = IdentityControlClient::new(channel.map_err(|error| with_causes(&error))?);
        let answer = client.rotate(RotateRequest {}).await;
        answer.map(Response::into_inner).map_err(|status| status.message().to_owned())
    };
    let answer =
        timeout(PATIENCE, asking).await.unwrap_or_else(|_| Err(format!("no answer in {PATIENCE:?}")));
    let RotateResponse { signs_from, old_ends } = answer.map_err(not_rotated)?;
    let seconds = |seconds: i64| u64::try_from(seconds).unwrap_or_default();
    Ok(Rotation::new(seconds(signs_from), seconds(old_ends)))
}

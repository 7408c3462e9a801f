//! The seam between the Workload API and who stands behind it.

use std::{error::Error as StdError, fmt, sync::Arc};

use async_trait::async_trait;
use tokio::sync::watch;

use super::{
    attest::{AttestError, Process},
    bundle::Bundle,
    id::SpiffeId,
    jwt::JwtKeys,
    svid::Svid,
};

/// Who a caller is, in the issuer's own terms: callers that are equal share one SVID.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Caller(Arc<str>);

/// Why there is no SVID.
#[derive(Debug, thiserror::Error)]
pub(super) enum IssueError {
    /// The caller has none; asking again changes nothing by itself.
    #[error("{0}")]
    Refused(String),
    /// It may work later.
    #[error("no identity can be issued at the moment")]
    NotNow(#[source] Box<dyn StdError + Send + Sync>),
}

/// Attests callers and gets SVIDs for them.
#[async_trait]
pub(super) trait Issuer: Send + Sync + 'static {
    /// Who the process at the other end of a socket is.
    fn attest(&self, process: &Process) -> Result<Caller, AttestError>;

    /// A new SVID. May be called again at any time, and dropped at any await.
    async fn issue(&self, caller: &Caller) -> Result<Svid, IssueError>;

    /// The trust bundle; `None` until it is known.
    fn bundle(&self) -> watch::Receiver<Option<Bundle>>;

    /// JWT-SVIDs, if there are any here.
    fn jwt(&self) -> Option<&dyn JwtIssuer> {
        None
    }
}

/// Signs JWT-SVIDs, and has the keys that all of the trust domain's are signed with.
pub(super) trait JwtIssuer: Send + Sync {
    /// A token for the caller, and whose it is.
    fn sign(&self, caller: &Caller, audience: &[String]) -> Result<(SpiffeId, String), IssueError>;

    /// The keys; `None` until they are known.
    fn keys(&self) -> watch::Receiver<Option<JwtKeys>>;
}

// === impl Caller ===

impl Caller {
    pub(super) fn new(text: &str) -> Self {
        Self(text.into())
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

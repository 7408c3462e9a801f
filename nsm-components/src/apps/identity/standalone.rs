//! Identity for the programs of one host without Kubernetes: own CAs on disk, and callers known
//! by their user and program. Whoever may run a program as a user has that user's identities.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    Error,
    attest::{AttestError, Process},
    bundle::Bundle,
    ca::CaError,
    control::{Control, Rotation},
    generations::{Generations, Lives, Stored},
    id::{Program, SpiffeId, TrustDomain},
    issuer::{Caller, IssueError, Issuer, JwtIssuer},
    jwt::{self, JwtKeys},
    store::Store,
    svid::Svid,
    workload_api,
};
use crate::api::with_causes;
use crate::settings::IdentityStandalone;

/// The longest pause between two looks at what is due: the clock may be set, and another process
/// may have changed what is stored.
const LOOK: Duration = Duration::from_secs(30);

/// Serves the Workload API until shutdown.
pub async fn run(settings: IdentityStandalone, shutdown: CancellationToken) -> Result<(), Error> {
    let domain = TrustDomain::parse(&settings.trust_domain)?;
    let cas = Arc::new(Cas {
        store: Store::new(&settings.base_dir),
        lives: Lives { ca: settings.ca_lifetime, leaf: settings.svid_lifetime },
        domain: domain.clone(),
    });
    let (stored, opened) = cas.clone().advance(false).await?;
    let issuer = Arc::new(Standalone {
        bundle: watch::Sender::new(opened.bundle()),
        keys: watch::Sender::new(Some(opened.jwt_keys(&domain))),
        current: ArcSwap::from_pointee(opened),
        template: settings.id_template,
        cas,
    });
    let control = Control::new(issuer.clone());
    tokio::select! {
        served = workload_api::serve(&settings.listen_on, issuer.clone(), Some(control), shutdown) => served,
        () = issuer.keep(stored) => Ok(()),
    }
}

/// The CAs as they are stored, and what they are to become.
struct Cas {
    store: Store,
    lives: Lives,
    domain: TrustDomain,
}

pub(super) struct Standalone {
    cas: Arc<Cas>,
    template: String,
    current: ArcSwap<Generations>,
    bundle: watch::Sender<Option<Bundle>>,
    keys: watch::Sender<Option<JwtKeys>>,
}

// === impl Cas ===

impl Cas {
    /// Does what is due and takes over what is stored then.
    async fn advance(self: Arc<Self>, rotate: bool) -> Result<(Stored, Generations), Error> {
        let work = move || {
            let place = self.store.path().display().to_string();
            let stored = self.store.update(|stored| {
                let advanced = stored.advance(&self.domain, SystemTime::now(), self.lives, rotate);
                advanced.map_err(|source| Error::Root { place: place.clone(), source: source.into() })
            })?;
            let opened = Generations::open(&stored, &self.domain);
            Ok((stored, opened.map_err(|source| Error::Root { place, source })?))
        };
        // The disk may be slow, and another process may hold the lock.
        let done = tokio::task::spawn_blocking(work).await;
        done.unwrap_or_else(|error| Err(Error::file("use", "the CAs")(std::io::Error::other(error))))
    }
}

// === impl Standalone ===

impl Standalone {
    /// Keeps the CAs up to date. Never ends; what cannot be done now is tried again.
    async fn keep(&self, mut stored: Stored) {
        loop {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            // Whole seconds are stored, so what is due "now" is so a moment later at the latest.
            let next = stored.next_change(now.as_secs()).map(Duration::from_secs);
            tokio::time::sleep(next.map_or(LOOK, |next| next.saturating_sub(now)).min(LOOK)).await;
            match self.cas.clone().advance(false).await {
                Ok((new, opened)) => {
                    self.publish(opened);
                    stored = new;
                }
                Err(error) => {
                    warn!(error = with_causes(&error), "cannot look after the CAs, will try again");
                    tokio::time::sleep(LOOK).await;
                }
            }
        }
    }

    /// Begins a rotation, unless one is under way already.
    pub(super) async fn rotate(&self) -> Result<Rotation, Error> {
        let (stored, opened) = self.cas.clone().advance(true).await?;
        self.publish(opened);
        let (signs_from, old_ends) = stored.rotation().unwrap_or_default();
        Ok(Rotation::new(signs_from, old_ends))
    }

    /// Hands it to all streams, if there is anything new.
    fn publish(&self, opened: Generations) {
        let (bundle, keys) = (opened.bundle(), Some(opened.jwt_keys(&self.cas.domain)));
        self.current.store(Arc::new(opened));
        self.keys.send_if_modified(|known| replace(known, keys));
        if self.bundle.send_if_modified(|known| replace(known, bundle)) {
            let cas = self.bundle.borrow().as_ref().map_or(0, |bundle| bundle.certificates().len());
            info!(cas, "the trust bundle has changed");
        }
    }
}

fn replace<T: PartialEq>(known: &mut T, new: T) -> bool {
    let changed = *known != new;
    *known = new;
    changed
}

/// The ID is all that matters of a caller here.
fn id_of(caller: &Caller) -> SpiffeId {
    SpiffeId::from_certificate(caller.as_str().to_owned())
}

#[async_trait]
impl Issuer for Standalone {
    fn attest(&self, process: &Process) -> Result<Caller, AttestError> {
        let executable = process.executable()?;
        let path = executable.to_string_lossy();
        // The kernel adds this once the file was replaced, as an upgrade does.
        let path = path.strip_suffix(" (deleted)").unwrap_or(&path);
        let program = Program { uid: process.uid(), gid: process.gid(), path };
        let id = self.cas.domain.program(&self.template, &program);
        Ok(Caller::new(id.map_err(|error| process.refuse(&error))?.as_str()))
    }

    async fn issue(&self, caller: &Caller) -> Result<Svid, IssueError> {
        let current = self.current.load();
        let signing = current.signing(SystemTime::now());
        let signing = signing.ok_or_else(|| IssueError::NotNow(CaError::Expired.into()))?;
        let issued = signing.ca.issue(&id_of(caller), self.cas.lives.leaf);
        issued.map_err(|error| IssueError::NotNow(error.into()))
    }

    fn bundle(&self) -> watch::Receiver<Option<Bundle>> {
        self.bundle.subscribe()
    }

    fn jwt(&self) -> Option<&dyn JwtIssuer> {
        Some(self)
    }
}

impl JwtIssuer for Standalone {
    fn sign(&self, caller: &Caller, audience: &[String]) -> Result<(SpiffeId, String), IssueError> {
        let (current, now, id) = (self.current.load(), SystemTime::now(), id_of(caller));
        let signing = current.signing(now).ok_or_else(|| IssueError::NotNow(CaError::Expired.into()))?;
        let token = signing.jwt.sign(&id, audience, now, jwt::LIFETIME.min(self.cas.lives.leaf));
        Ok((id, token.map_err(|error| IssueError::NotNow(error.into()))?))
    }

    fn keys(&self) -> watch::Receiver<Option<JwtKeys>> {
        self.keys.subscribe()
    }
}

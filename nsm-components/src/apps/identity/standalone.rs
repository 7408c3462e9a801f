//! Identity for the programs of one host without Kubernetes: an own CA on disk, and callers known
//! by their user and program. Whoever may run a program as a user has that user's identities.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    Error,
    attest::{AttestError, Process},
    bundle::Bundle,
    ca::{Ca, StoredRoot},
    id::{SpiffeId, TrustDomain},
    issuer::{Caller, IssueError, Issuer},
    svid::Svid,
    workload_api,
};
use crate::settings::IdentityStandalone;

/// File in the base folder with the root: its key, then its certificates.
const ROOT_FILE: &str = "root.pem";

/// Serves the Workload API until shutdown.
pub async fn run(settings: IdentityStandalone, shutdown: CancellationToken) -> Result<(), Error> {
    let domain = TrustDomain::parse(&settings.trust_domain)?;
    let path = settings.base_dir.join(ROOT_FILE);
    let root = load_or_create(&path, &domain)?;
    let ca = Ca::open(&root, &domain)
        .map_err(|source| Error::Root { place: path.display().to_string(), source })?;
    let issuer = Standalone::new(ca, domain, settings.svid_lifetime);
    workload_api::serve(&settings.listen_on, Arc::new(issuer), shutdown).await
}

struct Standalone {
    ca: Ca,
    domain: TrustDomain,
    lifetime: Duration,
    bundle: watch::Sender<Option<Bundle>>,
}

impl Standalone {
    fn new(ca: Ca, domain: TrustDomain, lifetime: Duration) -> Self {
        let bundle = watch::Sender::new(Some(ca.bundle().clone()));
        Self { ca, domain, lifetime, bundle }
    }
}

#[async_trait]
impl Issuer for Standalone {
    fn attest(&self, process: &Process) -> Result<Caller, AttestError> {
        let executable = process.executable()?;
        let name = executable.file_name().unwrap_or_default().to_string_lossy();
        // The kernel adds this once the file was replaced, as an upgrade does.
        let name = name.strip_suffix(" (deleted)").unwrap_or(&name);
        let id = self.domain.host(process.uid(), name).map_err(|error| process.refuse(&error))?;
        Ok(Caller::new(id.as_str()))
    }

    async fn issue(&self, caller: &Caller) -> Result<Svid, IssueError> {
        let id = SpiffeId::from_certificate(caller.as_str().to_owned());
        self.ca.issue(&id, self.lifetime).map_err(|error| IssueError::NotNow(error.into()))
    }

    fn bundle(&self) -> watch::Receiver<Option<Bundle>> {
        self.bundle.subscribe()
    }
}

/// The root on disk. Of several processes that start at once, all get the root of the first.
fn load_or_create(path: &Path, domain: &TrustDomain) -> Result<StoredRoot, Error> {
    let place = || path.display().to_string();
    if let Some(root) = load(path)? {
        return Ok(root);
    }
    let folder = path.parent().unwrap_or(Path::new("/"));
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(Error::file("make the folder", folder))?;
    let root = StoredRoot::generate(domain).map_err(|source| Error::Root { place: place(), source })?;
    match create(path, &root) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(Error::File { what: "write", path: path.into(), source: error });
        }
        _ => {}
    }
    load(path)?.ok_or_else(|| Error::file("read back", path)(io::ErrorKind::NotFound.into()))
}

fn load(path: &Path) -> Result<Option<StoredRoot>, Error> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(split(&text))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::File { what: "read", path: path.into(), source: error }),
    }
}

/// Puts the whole file at its path or nothing: a link to a finished file, which is refused when
/// there is one already.
fn create(path: &Path, root: &StoredRoot) -> io::Result<()> {
    let temporary = path.with_extension(format!("new-{}", uuid::Uuid::new_v4().simple()));
    let written =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary).and_then(|mut file| {
            file.write_all(root.key.as_bytes())?;
            file.write_all(root.certificates.as_bytes())?;
            file.sync_all()?;
            fs::hard_link(&temporary, path)
        });
    let removed = fs::remove_file(&temporary);
    written.and(removed)
}

/// Key first, certificates after it.
fn split(text: &str) -> StoredRoot {
    let border = text.find("-----BEGIN CERTIFICATE-----").unwrap_or(text.len());
    let (key, certificates) = text.split_at(border);
    StoredRoot { key: key.to_owned(), certificates: certificates.to_owned() }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn domain() -> TrustDomain {
        TrustDomain::parse("host.nsm").unwrap()
    }

    #[test]
    fn the_root_is_made_once_and_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("identity/root.pem");
        let first = load_or_create(&path, &domain()).unwrap();
        assert_eq!(load_or_create(&path, &domain()).unwrap(), first);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(path.parent().unwrap()), mode(&path)), (0o700, 0o600));
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        Ca::open(&first, &domain()).unwrap();
    }

    #[test]
    fn processes_that_start_together_share_one_root() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("root.pem");
        let roots: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..8).map(|_| scope.spawn(|| load_or_create(&path, &domain()).unwrap())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(roots.iter().all(|root| *root == roots[0]));
    }

    #[test]
    fn a_damaged_root_is_named_and_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("root.pem");
        fs::write(&path, "rubbish").unwrap();
        let root = load_or_create(&path, &domain()).unwrap();
        assert!(Ca::open(&root, &domain()).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "rubbish");
    }
}

//! `nsm standalone`: registry, nsmgr, forwarder and identity in one process, for a host without
//! Kubernetes. Each part is the same as on its own, and they talk over the same sockets.
//!
//! They start in the order in which they need each other, and stop so that whoever is in the middle of a
//! Request still has those that it calls. Stopping closes no connection, and neither does a kill.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
    time::Duration,
};

use futures::future::select_all;
use rustix::fs::{FlockOperation, flock};
use tokio::task::JoinError;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::info;

use super::{
    Error, forwarder, identity,
    mesh::{Vitals, show},
    nsmgr, registry,
};
use crate::{
    daemon::{Metrics, Readiness},
    settings::{Standalone, Target},
    transport::Source,
};

/// How long the first SVID may take.
const IDENTITY_LIMIT: Duration = Duration::from_mins(2);

/// A part that runs.
struct Part {
    name: &'static str,
    stop: CancellationToken,
    task: AbortOnDropHandle<Result<(), Error>>,
}

/// Those that run, in the order of their start.
#[derive(Default)]
struct Parts(Vec<Part>);

/// In which order they stop: whoever calls another goes first. The nsmgr's Requests need the forwarder,
/// and all need an identity.
const STOPS: [&str; 4] = ["nsmgr", "forwarder", "registry", "identity"];

/// Serves until the stop, or until one of the parts fails. Connections stand on without it.
pub async fn run(settings: Standalone, stop: CancellationToken) -> Result<(), Error> {
    let _alone = take_folder(&settings)?;
    let (metrics, readiness) = (Metrics::default(), Readiness::default());
    let labels = vec![("name", settings.name.clone()), ("version", env!("CARGO_PKG_VERSION").to_owned())];
    metrics.info("nsm_build_info", "What runs here.", labels);
    let stopping = stop.clone();
    readiness.require("stop", move || stopping.is_cancelled().then(|| "the process stops".to_owned()));
    let vitals = [(); 3].map(|()| Vitals::new());
    for (name, vitals) in ["registry", "nsmgr", "forwarder"].into_iter().zip(&vitals) {
        let part = vitals.readiness.clone();
        readiness.require(name, move || lacks(&part));
    }
    let _shown = show(&settings.metrics, &metrics, &readiness)?;
    let mut parts = Parts::default();
    let served = tokio::select! {
        served = parts.serve(settings, vitals) => served,
        () = stop.cancelled() => Ok(()),
    };
    let stopped = parts.stop().await;
    served.and(stopped)
}

/// What a part still lacks, in one line.
fn lacks(part: &Readiness) -> Option<String> {
    let missing = part.missing();
    let missing: Vec<_> = missing.iter().map(|(what, why)| format!("{what}: {why}")).collect();
    (!missing.is_empty()).then(|| missing.join("; "))
}

/// Makes the folders, and keeps others out of them for as long as the answer lives: two processes would
/// take each other's sockets away.
fn take_folder(settings: &Standalone) -> Result<File, Error> {
    let failed = |doing, path: &Path| {
        let path = path.to_owned();
        move |source| Error::Folder { doing, path, source }
    };
    let (base, private) = (&settings.base_dir, settings.private_dir());
    let make = |path: &Path, mode| DirBuilder::new().recursive(true).mode(mode).create(path);
    make(base, 0o755).map_err(failed("make", base))?;
    make(&private, 0o700).map_err(failed("make", &private))?;
    fs::set_permissions(&private, Permissions::from_mode(0o700)).map_err(failed("protect", &private))?;
    let path = private.join("lock");
    let lock = OpenOptions::new().create(true).append(true).mode(0o600).open(&path);
    let lock = lock.map_err(failed("open", &path))?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::InUse(base.clone())),
        Err(errno) => Err(failed("lock", &path)(io::Error::from(errno))),
    }
}

// === impl Parts ===

impl Parts {
    /// Starts one after the other, and goes on until one ends.
    async fn serve(&mut self, settings: Standalone, vitals: [Vitals; 3]) -> Result<(), Error> {
        let Standalone { name, identity, registry, nsmgr, forwarder, .. } = settings;
        let socket = identity.listen_on.clone();
        self.start("identity", |stop| async { Ok(identity::standalone::run(identity, stop).await?) });
        self.wait(has_identity(&socket)).await?;
        let [of_registry, of_nsmgr, of_forwarder] = vitals;
        let served = [&of_registry, &of_nsmgr, &of_forwarder].map(|vitals| vitals.serving.clone());
        self.start("registry", |stop| registry::run_with(registry, of_registry, stop));
        self.wait_for(&served[0]).await?;
        self.start("nsmgr", |stop| nsmgr::run_with(nsmgr, of_nsmgr, stop));
        self.wait_for(&served[1]).await?;
        self.start("forwarder", |stop| forwarder::run_with(forwarder, of_forwarder, stop));
        self.wait_for(&served[2]).await?;
        info!(%name, workload_api = %socket, "ready");
        self.wait(std::future::pending()).await
    }

    /// Each gets a token of its own: they do not stop all at once.
    fn start<F>(&mut self, name: &'static str, part: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = Result<(), Error>> + Send + 'static,
    {
        let stop = CancellationToken::new();
        let task = AbortOnDropHandle::new(tokio::spawn(part(stop.clone())));
        self.0.push(Part { name, stop, task });
    }

    async fn wait_for(&mut self, serving: &CancellationToken) -> Result<(), Error> {
        self.wait(async {
            serving.cancelled().await;
            Ok(())
        })
        .await
    }

    /// Waits for something, unless a part ends before: none of them does so by itself but for an error.
    async fn wait(&mut self, something: impl Future<Output = Result<(), Error>>) -> Result<(), Error> {
        let (ended, at) = {
            let tasks = select_all(self.0.iter_mut().map(|part| &mut part.task));
            tokio::select! {
                done = something => return done,
                (ended, at, _) = tasks => (ended, at),
            }
        };
        let name = self.0.remove(at).name;
        let source = Box::new(flatten(ended).err().unwrap_or(Error::EndedByItself));
        Err(Error::Part { part: name, source })
    }

    /// Stops all, one after the other. Each is given the time that it takes on its own.
    async fn stop(self) -> Result<(), Error> {
        let mut parts = self.0;
        let mut result = Ok(());
        for name in STOPS {
            let Some(at) = parts.iter().position(|part| part.name == name) else { continue };
            let part = parts.remove(at);
            part.stop.cancel();
            let ended = flatten(part.task.await);
            info!(part = name, "stopped");
            result = result.and(ended.map_err(|source| Error::Part { part: name, source: source.into() }));
        }
        result
    }
}

/// Waits until the Workload API answers.
async fn has_identity(socket: &Target) -> Result<(), Error> {
    Source::start(socket).wait(IDENTITY_LIMIT, &CancellationToken::new()).await?;
    Ok(())
}

/// A part that panicked is one that failed.
fn flatten(ended: Result<Result<(), Error>, JoinError>) -> Result<(), Error> {
    ended.unwrap_or(Err(Error::EndedByItself))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::*;

    /// A part that tells when it stops.
    async fn obedient(
        name: &'static str,
        told: Arc<Mutex<Vec<&'static str>>>,
        stop: CancellationToken,
    ) -> Result<(), Error> {
        stop.cancelled().await;
        told.lock().push(name);
        Ok(())
    }

    #[tokio::test]
    async fn they_stop_one_after_the_other_and_who_calls_others_goes_first() {
        let (mut parts, told) = (Parts::default(), Arc::default());
        for name in ["identity", "registry", "nsmgr", "forwarder"] {
            parts.start(name, |stop| obedient(name, Arc::clone(&told), stop));
        }
        parts.stop().await.unwrap();
        assert_eq!(*told.lock(), ["nsmgr", "forwarder", "registry", "identity"]);
    }

    #[tokio::test]
    async fn a_part_that_fails_is_named_with_its_reason_and_the_others_still_stop_in_order() {
        let (mut parts, told) = (Parts::default(), Arc::default());
        for name in ["identity", "nsmgr"] {
            parts.start(name, |stop| obedient(name, Arc::clone(&told), stop));
        }
        parts.start("registry", |_| async { Err(Error::InUse("/x".into())) });
        let error = parts.wait(std::future::pending()).await.unwrap_err();
        assert!(
            matches!(&error, Error::Part { part: "registry", source } if matches!(**source, Error::InUse(_)))
        );
        parts.stop().await.unwrap();
        assert_eq!(*told.lock(), ["nsmgr", "identity"]);
    }

    #[tokio::test]
    async fn a_part_that_ends_without_a_reason_is_no_success() {
        let mut parts = Parts::default();
        parts.start("nsmgr", |_| async { Ok(()) });
        let error = parts.wait(std::future::pending()).await.unwrap_err();
        assert!(matches!(error, Error::Part { part: "nsmgr", .. }), "{error}");
    }

    #[tokio::test]
    async fn two_cannot_have_one_folder_and_the_inner_one_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().join("a/b");
        let vars = [("NSM_BASE_DIR".to_owned(), base.display().to_string())];
        let settings = Standalone::read(&std::collections::BTreeMap::from(vars)).unwrap();
        let held = take_folder(&settings).unwrap();
        assert!(matches!(take_folder(&settings), Err(Error::InUse(path)) if path == base));
        drop(held);
        take_folder(&settings).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&base), mode(&settings.private_dir())), (0o755, 0o700));
    }
}

//! The CAs on disk: one private file, changed as a whole or not at all, by one process at a time.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};

use super::{Error, generations::Stored};

/// File in the base folder with all CAs and their keys.
const FILE: &str = "ca.json";

/// The file of all CAs. Several processes may use it at once: what one stores, all go on with.
#[derive(Clone, Debug)]
pub(super) struct Store {
    folder: PathBuf,
}

impl Store {
    pub(super) fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// Where it is.
    pub(super) fn path(&self) -> PathBuf {
        self.folder.join(FILE)
    }

    /// Changes what is stored, while nobody else does, and answers with the outcome. Waits for the
    /// disk.
    pub(super) fn update(
        &self,
        change: impl FnOnce(&mut Stored) -> Result<(), Error>,
    ) -> Result<Stored, Error> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.folder)
            .map_err(Error::file("make the folder", &self.folder))?;
        // A file of its own: the other one is replaced by each change. The lock ends with it.
        let path = self.folder.join("lock");
        let lock = OpenOptions::new().create(true).append(true).mode(0o600).open(&path);
        let lock = lock.map_err(Error::file("open", &path))?;
        flock(&lock, FlockOperation::LockExclusive)
            .map_err(|errno| Error::file("lock", &path)(errno.into()))?;
        let before = self.load()?;
        let mut stored = before.clone().unwrap_or_default();
        change(&mut stored)?;
        if before.as_ref() != Some(&stored) {
            self.save(&stored).map_err(Error::file("write", self.path()))?;
        }
        Ok(stored)
    }

    fn load(&self) -> Result<Option<Stored>, Error> {
        let path = self.path();
        match fs::read(&path) {
            Ok(text) => match serde_json::from_slice(&text) {
                Ok(stored) => Ok(Some(stored)),
                Err(source) => Err(Error::Damaged { path, source }),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(Error::File { what: "read", path, source }),
        }
    }

    fn save(&self, stored: &Stored) -> io::Result<()> {
        let temporary = self.folder.join(format!("{FILE}.new"));
        remove(&temporary)?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(&serde_json::to_vec_pretty(stored)?)?;
        file.sync_all()?;
        fs::rename(&temporary, self.path())?;
        // The new name is on disk only with its folder.
        File::open(&self.folder)?.sync_all()
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::fs::PermissionsExt as _,
        time::{Duration, SystemTime},
    };

    use super::*;
    use crate::apps::identity::{generations::Lives, id::TrustDomain};

    fn advance(store: &Store, rotate: bool) -> Result<Stored, Error> {
        let domain = TrustDomain::parse("host.nsm").unwrap();
        let lives = Lives { ca: Duration::from_hours(100), leaf: Duration::from_hours(1) };
        store.update(|stored| {
            stored.advance(&domain, SystemTime::now(), lives, rotate).map_err(|error| Error::Root {
                place: store.path().display().to_string(),
                source: error.into(),
            })
        })
    }

    #[test]
    fn the_cas_are_made_once_and_are_private() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path().join("lib/identity"));
        let first = advance(&store, false).unwrap();
        assert_eq!(advance(&store, false).unwrap(), first);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let kept = store.path().parent().unwrap().to_owned();
        assert_eq!(mode(&kept), 0o700);
        let files: Vec<_> = fs::read_dir(&kept).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(files.len(), 2, "nothing half written stays: {files:?}");
        assert!(files.iter().all(|file| mode(file) == 0o600));
        assert_ne!(advance(&store, true).unwrap(), first);
        assert_eq!(mode(&store.path()), 0o600);
    }

    #[test]
    fn processes_that_start_or_rotate_together_share_their_cas() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path());
        for rotate in [false, true] {
            let all: Vec<_> = std::thread::scope(|scope| {
                let threads: Vec<_> =
                    (0..8).map(|_| scope.spawn(|| advance(&store, rotate).unwrap())).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            assert!(all.iter().all(|stored| *stored == all[0]), "rotate: {rotate}");
        }
    }

    #[test]
    fn a_damaged_file_is_named_and_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path());
        for text in ["rubbish", "", "{\"generations\":[{}]}"] {
            fs::write(store.path(), text).unwrap();
            let error = advance(&store, false).unwrap_err();
            assert!(error.to_string().contains("ca.json"), "{error}");
            assert_eq!(fs::read_to_string(store.path()).unwrap(), text);
        }
    }

    #[test]
    fn what_a_crash_left_half_written_does_not_count() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path());
        let first = advance(&store, false).unwrap();
        fs::write(folder.path().join("ca.json.new"), "half").unwrap();
        assert_eq!(advance(&store, false).unwrap(), first);
        advance(&store, true).unwrap();
    }
}

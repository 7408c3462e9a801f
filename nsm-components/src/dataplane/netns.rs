//! Network namespaces as descriptors.

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use nix::sched::{CloneFlags, setns};
use rustix::fs::{Mode, OFlags, fstatfs};

use super::ids::NetnsKey;

/// An open network namespace. It lives at least as long as this value: hold it for an operation,
/// not for a connection, or a dead pod's links stay.
#[derive(Debug, Clone)]
pub struct Netns {
    key: NetnsKey,
    file: Arc<File>,
}

/// Namespaces at hand for one operation.
#[derive(Debug, Clone, Default)]
pub struct Namespaces(HashMap<NetnsKey, Netns>);

/// `NSFS_MAGIC` of linux/magic.h.
const NSFS_MAGIC: rustix::fs::FsWord = 0x6e73_6673;

// === impl Netns ===

impl Netns {
    /// The namespace behind a received descriptor. Those are often `O_PATH`, on which the kernel
    /// refuses `setns` (EBADF); so it is opened again. What is no namespace is never opened: that
    /// could block (a pipe) or do something (a device).
    pub fn from_fd(fd: BorrowedFd<'_>) -> io::Result<Self> {
        if fstatfs(fd)?.f_type != NSFS_MAGIC {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the descriptor is no namespace"));
        }
        let file = File::open(format!("/proc/self/fd/{}", fd.as_raw_fd()))?;
        let stat = file.metadata()?;
        Ok(Self { key: NetnsKey { dev: stat.dev(), ino: stat.ino() }, file: Arc::new(file) })
    }

    /// The namespace behind a path, such as `/run/netns/name`.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        Self::from_fd(rustix::fs::open(path.as_ref(), flags, Mode::empty())?.as_fd())
    }

    /// The calling thread's namespace.
    pub fn current() -> io::Result<Self> {
        Self::open("/proc/thread-self/ns/net")
    }

    /// All namespaces to which this process finds a path, each once: named ones and those of processes.
    /// Each is opened when it is asked for. Blocking, and slow with many processes.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        distinct(paths(), |path| Self::open(path).ok())
    }

    /// Finds a namespace among the named ones and those of processes, as far as this process sees
    /// them. Blocking, and slow with many processes.
    pub fn find(key: NetnsKey) -> Option<Self> {
        paths().find_map(|path| {
            let stat = fs::metadata(&path).ok()?;
            if stat.ino() != key.ino || stat.dev() != key.dev {
                return None;
            }
            // The path may mean another namespace by now.
            Self::open(&path).ok().filter(|netns| netns.key == key)
        })
    }

    /// How `stat` names it.
    pub fn key(&self) -> NetnsKey {
        self.key
    }

    /// Moves the calling thread into it, for the rest of the thread's life.
    pub(super) fn enter(&self) -> io::Result<()> {
        Ok(setns(&self.file, CloneFlags::CLONE_NEWNET)?)
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl TryFrom<OwnedFd> for Netns {
    type Error = io::Error;

    fn try_from(fd: OwnedFd) -> io::Result<Self> {
        Self::from_fd(fd.as_fd())
    }
}

/// The namespaces behind these paths, each once. A path may be gone before it is opened, with a process that has
/// ended; then another one may lead there.
fn distinct(
    paths: impl Iterator<Item = PathBuf>,
    mut open: impl FnMut(&Path) -> Option<Netns>,
) -> impl Iterator<Item = Netns> {
    let mut seen = HashSet::new();
    paths.filter_map(move |path| {
        let stat = fs::metadata(&path).ok()?;
        if seen.contains(&NetnsKey { dev: stat.dev(), ino: stat.ino() }) {
            return None;
        }
        let netns = open(&path)?;
        seen.insert(netns.key).then_some(netns)
    })
}

/// Where namespaces may be found.
fn paths() -> impl Iterator<Item = std::path::PathBuf> {
    entries("/run/netns").chain(entries("/proc").map(|entry| entry.join("ns/net")))
}

fn entries(folder: &str) -> impl Iterator<Item = std::path::PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path())
}

// === impl Namespaces ===

impl Namespaces {
    /// Adds a namespace and returns its key.
    pub fn insert(&mut self, netns: Netns) -> NetnsKey {
        let key = netns.key();
        self.0.insert(key, netns);
        key
    }

    /// One of them.
    pub fn get(&self, key: NetnsKey) -> Option<&Netns> {
        self.0.get(&key)
    }

    /// One of them, or one that is found. Blocking, see [`Netns::find`].
    pub(super) fn get_or_find(&self, key: NetnsKey) -> Option<Netns> {
        self.get(key).cloned().or_else(|| Netns::find(key))
    }
}

impl FromIterator<Netns> for Namespaces {
    fn from_iter<I: IntoIterator<Item = Netns>>(all: I) -> Self {
        Self(all.into_iter().map(|netns| (netns.key(), netns)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_whose_first_path_ends_before_it_is_opened_is_found_by_the_next_and_once() {
        let path = || PathBuf::from("/proc/self/ns/net");
        let mut tries = 0;
        let open = |path: &Path| {
            tries += 1;
            if tries == 1 { None } else { Netns::open(path).ok() }
        };
        let found: Vec<_> =
            distinct([path(), path(), path()].into_iter(), open).map(|one| one.key()).collect();
        assert_eq!(found, [Netns::current().unwrap().key()]);
        assert_eq!(tries, 2);
    }
}

//! Who is on the other side, and the open files that travel beside a message.

use std::{
    collections::BTreeMap,
    fmt,
    os::fd::{AsRawFd, OwnedFd},
    path::PathBuf,
    str::FromStr,
    sync::Arc,
};

use crate::settings::Target;

/// A file by device and inode, as `stat` gives them. On the wire: `inode://<dev>/<ino>`
/// (protocol §6.9). It names the file only as long as somebody holds it open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileKey {
    /// `st_dev`.
    pub dev: u64,
    /// `st_ino`.
    pub ino: u64,
}

/// A text that is no `inode://` URL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no inode://<device>/<inode> URL")]
pub struct NoInodeUrl(pub String);

impl fmt::Display for FileKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "inode://{}/{}", self.dev, self.ino)
    }
}

impl FromStr for FileKey {
    type Err = NoInodeUrl;

    fn from_str(text: &str) -> Result<Self, NoInodeUrl> {
        text.strip_prefix("inode://")
            .and_then(|rest| rest.split_once('/'))
            .and_then(|(dev, ino)| Some(Self { dev: dev.parse().ok()?, ino: ino.parse().ok()? }))
            .ok_or_else(|| NoInodeUrl(text.to_owned()))
    }
}

/// Open files by key, as they came or go with one message. Dropping it closes what nobody kept.
#[derive(Clone, Debug, Default)]
pub struct Files(BTreeMap<FileKey, Arc<OwnedFd>>);

impl Files {
    /// Adds a file under its key.
    pub fn insert(&mut self, key: FileKey, file: Arc<OwnedFd>) {
        self.0.insert(key, file);
    }

    /// The file of a key.
    pub fn get(&self, key: FileKey) -> Option<&Arc<OwnedFd>> {
        self.0.get(&key)
    }

    /// The file an `inode://` URL names.
    pub fn by_url(&self, url: &str) -> Option<&Arc<OwnedFd>> {
        self.get(url.parse().ok()?)
    }

    /// All files, by key.
    pub fn iter(&self) -> impl Iterator<Item = (FileKey, &Arc<OwnedFd>)> {
        self.0.iter().map(|(key, file)| (*key, file))
    }

    /// Adds all files of `other`.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }
}

/// Where a process listens, as far as this process can reach it.
#[derive(Clone, Debug)]
pub enum Address {
    /// A unix socket by path.
    Unix(PathBuf),
    /// `host:port`.
    Tcp(String),
    /// A unix socket by descriptor (`O_PATH`), reached without seeing its folder. The descriptor
    /// keeps the inode from being given to another file, so the key names this socket alone.
    File(FileKey, Arc<OwnedFd>),
}

impl Address {
    /// Whether the other side is on this node: files can be passed, mechanisms are local.
    pub fn is_local(&self) -> bool {
        !matches!(self, Self::Tcp(_))
    }

    /// Path to connect to, for unix sockets.
    pub fn path(&self) -> Option<PathBuf> {
        match self {
            Self::Unix(path) => Some(path.clone()),
            Self::Tcp(_) => None,
            Self::File(_, file) => Some(format!("/proc/self/fd/{}", file.as_raw_fd()).into()),
        }
    }
}

impl PartialEq for Address {
    fn eq(&self, other: &Self) -> bool {
        self.to_string() == other.to_string()
    }
}

impl Eq for Address {}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
            Self::File(key, _) => write!(f, "{key}"),
        }
    }
}

impl From<Target> for Address {
    fn from(target: Target) -> Self {
        match target {
            Target::Unix(path) => Self::Unix(path),
            Target::Tcp(address) => Self::Tcp(address),
        }
    }
}

/// The process at the other end of a TLS connection, by the leaf it showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// SPIFFE ID.
    pub id: String,
    /// Public key of the leaf: uncompressed point on P-256, 65 bytes (SEC 1 §2.3.3).
    pub public_key: Vec<u8>,
    /// End of the leaf's life, seconds since the epoch.
    pub not_after: i64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn inode_urls_are_read_as_they_are_written(dev: u64, ino: u64) {
            let key = FileKey { dev, ino };
            prop_assert_eq!(key.to_string().parse(), Ok(key));
        }

        #[test]
        fn no_text_makes_the_reader_panic(text in ".{0,40}") {
            let _: Result<FileKey, _> = text.parse();
        }
    }
}

//! What the kernel does not know about a connection, on disk for the next process.
//!
//! One file a connection, `<id>.json` under a base folder. After a restart the forwarder reads
//! which connections existed, where they are, and removes those that nobody refreshes within one
//! token life.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use parking_lot::Mutex;
use rustix::time::{ClockId, Timespec, clock_gettime};
use serde::{Deserialize, Serialize};

use super::{
    desired::{Footprint, Link},
    ids::ConnectionId,
};

/// One connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// What to look for and where.
    #[serde(flatten)]
    pub footprint: Footprint,
    /// `veth`, `vxlan` or `wireguard`; for people who read the file.
    pub kind: String,
    /// VNI of its tunnel, so that the next process does not give it to another connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vni: Option<u32>,
    /// UDP port of its encrypted tunnel, for the same reason. The key is in the kernel alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// When the connection's token ends, in seconds since 1970. By the wall clock, which may have
    /// jumped: the reader gives every connection a whole token life from its own start.
    pub expires: u64,
}

/// An [`Entry`] as it stands in the file.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    version: u32,
    /// `/proc/sys/kernel/random/boot_id`: links do not outlive it.
    boot_id: String,
    #[serde(flatten)]
    entry: Entry,
}

/// The folder of entries. Clones share it.
#[derive(Debug, Clone)]
pub struct Journal(Arc<Folder>);

#[derive(Debug)]
struct Folder {
    path: PathBuf,
    boot_id: String,
    quiesced: Option<Quiesced>,
    spare: Spare,
}

/// Files of connections that ended, to be written again: file systems take long over the number of a new file,
/// the longer the more have just been deleted.
#[derive(Debug, Default)]
struct Spare {
    files: Mutex<Vec<PathBuf>>,
    made: AtomicU64,
}

/// What a process said when it stopped and left everything in place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quiesced {
    /// How many connections it had.
    pub connections: usize,
    /// How long ago that was, when the journal was opened.
    pub ago: Duration,
}

/// [`Quiesced`] as it stands in the file.
#[derive(Debug, Serialize, Deserialize)]
struct Marker {
    boot_id: String,
    connections: usize,
    /// Milliseconds since the machine was started, by a clock that no jump reaches.
    at: u64,
}

/// Name of the marker. It is gone as soon as the next process has read it.
const MARKER: &str = "quiesced";

/// The journal could not be kept.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} {}: is the folder on a writable host path?", .path.display())]
pub struct JournalError {
    /// What was tried.
    pub doing: &'static str,
    /// The file or folder.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// Version of the file's format.
const VERSION: u32 = 1;

/// Largest file that is read, in bytes: an entry is below 1 KiB.
const MAX_FILE: u64 = 16 * 1024;

/// Most entries that are read: far above the connections of one node.
const MAX_ENTRIES: usize = 16_384;

/// Most spare files, and their ending.
const MAX_SPARE: usize = 1_024;
const SPARE: &str = "spare";

/// Ending of files that could not be read.
const QUARANTINE: &str = "unreadable";

// === impl Journal ===

impl Journal {
    /// Opens the folder, makes it where it is missing, and reads what an earlier process left.
    ///
    /// Entries of an earlier boot are dropped: their links are gone. Files that cannot be read are
    /// renamed to `*.unreadable` with a warning. Blocking.
    pub fn open(path: impl Into<PathBuf>) -> Result<(Self, Vec<Entry>), JournalError> {
        let path = path.into();
        fs::create_dir_all(&path).map_err(|source| failed("make the folder", &path, source))?;
        let boot_id = "/proc/sys/kernel/random/boot_id";
        let boot_id = fs::read_to_string(boot_id).map_err(|source| failed("read", boot_id, source))?;
        let mut folder =
            Folder { path, boot_id: boot_id.trim().to_owned(), quiesced: None, spare: Spare::default() };
        folder.quiesced = folder.take_marker();
        let entries = folder.load()?;
        Ok((Self(Arc::new(folder)), entries))
    }

    /// All files of a journal, of whichever process and boot; none where there is no such folder. Blocking.
    pub fn files(path: &Path) -> Result<Vec<PathBuf>, JournalError> {
        let files = match fs::read_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            files => files.map_err(|source| failed("list", path, source))?,
        };
        let endings = ["json", "tmp", SPARE, QUARANTINE].map(|ending| Some(ending.as_ref()));
        let is_own =
            |file: &PathBuf| endings.contains(&file.extension()) || file.file_name() == Some(MARKER.as_ref());
        let mut files: Vec<_> = files.flatten().map(|file| file.path()).filter(is_own).collect();
        files.sort();
        Ok(files)
    }

    /// Removes one of them; one that is gone is as good. Blocking.
    pub fn discard(file: &Path) -> Result<(), JournalError> {
        match fs::remove_file(file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", file, error)),
            _ => Ok(()),
        }
    }

    /// Writes or replaces a connection's entry, whole or not at all. On return it outlives this
    /// process; it need not outlive the machine, whose links would be gone, so nothing waits for
    /// the disk.
    pub async fn put(&self, entry: Entry) -> Result<(), JournalError> {
        self.run(move |folder| folder.put(entry)).await
    }

    /// Drops a connection's entry; none is fine.
    pub async fn remove(&self, id: &ConnectionId) -> Result<(), JournalError> {
        let id = id.clone();
        self.run(move |folder| folder.remove(&id)).await
    }

    /// What the earlier process said when it stopped; nothing if it was killed.
    pub fn quiesced(&self) -> Option<&Quiesced> {
        self.0.quiesced.as_ref()
    }

    /// Says to the next process that this one stops with so many connections and leaves them in place.
    pub async fn quiesce(&self, connections: usize) -> Result<(), JournalError> {
        self.run(move |folder| folder.mark(connections)).await
    }

    /// Takes that back: this process goes on.
    pub async fn resume(&self) -> Result<(), JournalError> {
        self.run(Folder::unmark).await
    }

    async fn run(
        &self,
        work: impl FnOnce(&Folder) -> Result<(), JournalError> + Send + 'static,
    ) -> Result<(), JournalError> {
        let folder = self.0.clone();
        let done = tokio::task::spawn_blocking(move || work(&folder)).await;
        done.unwrap_or_else(|error| Err(failed("keep the journal in", &self.0.path, io::Error::other(error))))
    }
}

// === impl Entry ===

impl Entry {
    /// An entry for what `ensure` has built.
    pub fn new(desired: &super::desired::Desired, expires: SystemTime) -> Self {
        let (kind, vni, port) = match desired.link {
            Link::Veth => ("veth", None, None),
            Link::Vxlan(tunnel) => ("vxlan", Some(tunnel.vni), None),
            Link::Wireguard(tunnel) => ("wireguard", None, Some(tunnel.port)),
        };
        let expires = expires.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
        Self { footprint: desired.footprint(), kind: kind.into(), vni, port, expires }
    }

    /// When the connection's token ends by the wall clock.
    pub fn expires_at(&self) -> SystemTime {
        UNIX_EPOCH.checked_add(Duration::from_secs(self.expires)).unwrap_or(UNIX_EPOCH)
    }
}

// === impl Folder ===

impl Folder {
    fn file(&self, id: &ConnectionId) -> PathBuf {
        self.path.join(format!("{id}.json"))
    }

    fn mark(&self, connections: usize) -> Result<(), JournalError> {
        let path = self.path.join(MARKER);
        let marker = Marker { boot_id: self.boot_id.clone(), connections, at: since_boot() };
        let write = || -> io::Result<()> { fs::write(&path, serde_json::to_vec(&marker)?) };
        write().map_err(|source| failed("write", &path, source))
    }

    fn unmark(&self) -> Result<(), JournalError> {
        Journal::discard(&self.path.join(MARKER))
    }

    /// Reads it once: it says nothing of the process that reads it.
    fn take_marker(&self) -> Option<Quiesced> {
        let path = self.path.join(MARKER);
        let marker = serde_json::from_slice::<Marker>(&fs::read(&path).ok()?);
        discard(&path);
        let marker = marker.ok().filter(|marker| marker.boot_id == self.boot_id)?;
        let ago = Duration::from_millis(since_boot().saturating_sub(marker.at));
        Some(Quiesced { connections: marker.connections, ago })
    }

    fn put(&self, entry: Entry) -> Result<(), JournalError> {
        let path = self.file(&entry.footprint.id);
        let record = Record { version: VERSION, boot_id: self.boot_id.clone(), entry };
        let write = || -> io::Result<()> {
            let text = serde_json::to_vec(&record)?;
            let Some(spare) = self.spare.take() else {
                let temporary = path.with_extension("json.tmp");
                fs::write(&temporary, text)?;
                return fs::rename(&temporary, &path);
            };
            let written = overwrite(&spare, &text).and_then(|()| fs::rename(&spare, &path));
            if written.is_err() {
                self.spare.keep(spare);
            }
            written
        };
        write().map_err(|source| failed("write", &path, source))
    }

    fn remove(&self, id: &ConnectionId) -> Result<(), JournalError> {
        let path = self.file(id);
        let removed = match self.spare.name(&self.path) {
            Some(spare) => fs::rename(&path, &spare).map(|()| self.spare.keep(spare)),
            None => fs::remove_file(&path),
        };
        match removed {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(failed("remove", &path, source)),
            _ => Ok(()),
        }
    }

    fn load(&self) -> Result<Vec<Entry>, JournalError> {
        let files = fs::read_dir(&self.path).map_err(|source| failed("list", &self.path, source))?;
        let mut entries = Vec::new();
        for path in files.flatten().map(|file| file.path()) {
            match path.extension().and_then(|ending| ending.to_str()) {
                Some("json") if entries.len() < MAX_ENTRIES => entries.extend(self.read(&path)),
                Some("json") => tracing::warn!(path = %path.display(), "journal is full, entry ignored"),
                // A write that was cut off; the file it was to replace still stands.
                Some("tmp" | SPARE) => discard(&path),
                _ => {}
            }
        }
        Ok(entries)
    }

    fn read(&self, path: &Path) -> Option<Entry> {
        let record = match record(path) {
            Ok(record) => record,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "journal entry is unreadable, set aside");
                if let Err(error) = fs::rename(path, path.with_extension(QUARANTINE)) {
                    tracing::warn!(path = %path.display(), %error, "could not set it aside");
                }
                return None;
            }
        };
        if record.boot_id != self.boot_id {
            discard(path);
            return None;
        }
        Some(record.entry)
    }
}

// === impl Spare ===

impl Spare {
    fn take(&self) -> Option<PathBuf> {
        self.files.lock().pop()
    }

    /// Name for one more; none when there are enough.
    fn name(&self, folder: &Path) -> Option<PathBuf> {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        (self.files.lock().len() < MAX_SPARE).then(|| folder.join(format!("{number}.{SPARE}")))
    }

    fn keep(&self, file: PathBuf) {
        self.files.lock().push(file);
    }
}

/// Replaces what a file holds. A process that dies meanwhile leaves a spare file, whatever is in it.
fn overwrite(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut file = File::options().write(true).open(path)?;
    file.write_all(text)?;
    file.set_len(text.len() as u64)
}

/// Milliseconds since the machine was started, asleep or not.
fn since_boot() -> u64 {
    let Timespec { tv_sec, tv_nsec } = clock_gettime(ClockId::Boottime);
    u64::try_from(tv_sec * 1000 + tv_nsec / 1_000_000).unwrap_or_default()
}

fn record(path: &Path) -> io::Result<Record> {
    let mut text = String::new();
    File::open(path)?.take(MAX_FILE).read_to_string(&mut text)?;
    let record: Record = serde_json::from_str(&text)?;
    let named = path.file_stem().and_then(|stem| stem.to_str());
    if record.version != VERSION || named != Some(record.entry.footprint.id.as_str()) {
        return Err(io::Error::other("it is of another version or connection"));
    }
    Ok(record)
}

fn discard(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        tracing::warn!(path = %path.display(), %error, "could not remove an old file of the journal");
    }
}

fn failed(doing: &'static str, path: impl Into<PathBuf>, source: io::Error) -> JournalError {
    JournalError { doing, path: path.into(), source }
}

#[cfg(test)]
mod tests;

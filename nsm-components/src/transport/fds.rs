//! Open files of one peer: those that wait to go out and those that came in.
//!
//! A file rides on a byte of the stream, beneath TLS; nothing in gRPC refers to it. So the sender
//! queues it before the call and the receiver files it by device and inode, where the handler of
//! whichever call names it finds it (protocol §6.9).

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::Error;
use crate::api::peer::{FileKey, Files};

/// Most files kept unclaimed for one peer; the oldest goes first. Upstream's limit of a write.
const MAX_UNCLAIMED: usize = 64;

/// Longest time an unclaimed file is kept: it pins a network namespace or a socket. Nobody waits
/// for a file that long.
const UNCLAIMED_FOR: Duration = Duration::from_secs(10);

/// Most files that wait to go out.
const MAX_QUEUED: usize = 256;

/// The files of one peer. Shared by all its connections, one after the other, so that what was
/// queued on a broken one goes out on the next.
#[derive(Clone, Debug, Default)]
pub struct FdTable(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    queued: Mutex<VecDeque<Arc<OwnedFd>>>,
    received: Mutex<Arrivals>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct Arrivals {
    files: BTreeMap<FileKey, Received>,
    /// Whether a task looks after files that nobody claims.
    cleaned: bool,
}

#[derive(Debug)]
struct Received {
    file: Arc<OwnedFd>,
    at: Instant,
    /// How often it came and was not claimed yet: each message that names it claims it once, and
    /// messages overtake each other.
    times: usize,
}

/// The key of an open file.
pub fn file_key(file: impl AsFd) -> io::Result<FileKey> {
    let stat = rustix::fs::fstat(file)?;
    Ok(FileKey { dev: stat.st_dev, ino: stat.st_ino })
}

// === impl FdTable ===

impl FdTable {
    /// Sends these files with the next bytes. Call it before the call that names them: a queued
    /// file does not send itself.
    pub fn send(&self, files: &Files) {
        let mut queued = self.0.queued.lock();
        for (_, file) in files.iter() {
            if queued.len() >= MAX_QUEUED {
                queued.pop_front();
            }
            queued.push_back(file.clone());
        }
    }

    /// Takes the file of this key, waiting for it until the deadline.
    ///
    /// # Cancel safety
    ///
    /// Nothing is taken when the future is dropped.
    pub async fn take(&self, key: FileKey, deadline: tokio::time::Instant) -> Result<Arc<OwnedFd>, Error> {
        let wait = async {
            loop {
                let arrived = self.0.arrived.notified();
                tokio::pin!(arrived);
                // Without this, a file that arrives between the look and the wait is missed.
                arrived.as_mut().enable();
                if let Some(file) = self.0.received.lock().claim(key) {
                    return file;
                }
                arrived.await;
            }
        };
        tokio::time::timeout_at(deadline, wait).await.map_err(|_| Error::NoFile { key: key.to_string() })
    }

    /// Takes the file of this key if it is here.
    pub fn take_arrived(&self, key: FileKey) -> Option<Arc<OwnedFd>> {
        self.0.received.lock().claim(key)
    }

    pub(super) fn pop(&self) -> Option<Arc<OwnedFd>> {
        self.0.queued.lock().pop_front()
    }

    /// Puts a file back that could not be sent yet.
    pub(super) fn unpop(&self, file: Arc<OwnedFd>) {
        self.0.queued.lock().push_front(file);
    }

    pub(super) fn store(&self, files: impl IntoIterator<Item = OwnedFd>) {
        let mut received = self.0.received.lock();
        received.drop_old();
        for file in files {
            received.add(file);
        }
        if !received.cleaned
            && !received.files.is_empty()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            received.cleaned = true;
            runtime.spawn(clean(Arc::downgrade(&self.0)));
        }
        drop(received);
        self.0.arrived.notify_waiters();
    }

    #[cfg(test)]
    fn unclaimed(&self) -> usize {
        self.0.received.lock().files.len()
    }
}

// === impl Arrivals ===

impl Arrivals {
    fn add(&mut self, file: OwnedFd) {
        let Ok(key) = file_key(&file) else { return };
        if self.files.len() >= MAX_UNCLAIMED && !self.files.contains_key(&key) {
            let oldest = self.files.iter().min_by_key(|(_, entry)| entry.at).map(|(key, _)| *key);
            oldest.map(|key| self.files.remove(&key));
        }
        let now = Instant::now();
        let entry = self.files.entry(key).or_insert(Received { file: Arc::new(file), at: now, times: 0 });
        entry.at = now;
        entry.times += 1;
    }

    fn claim(&mut self, key: FileKey) -> Option<Arc<OwnedFd>> {
        let entry = self.files.get_mut(&key)?;
        entry.times -= 1;
        if entry.times > 0 {
            return Some(entry.file.clone());
        }
        self.files.remove(&key).map(|entry| entry.file)
    }

    fn drop_old(&mut self) {
        self.files.retain(|_, entry| entry.at.elapsed() < UNCLAIMED_FOR);
    }
}

/// Drops files that nobody claims, while there are any: a quiet peer must not pin the network
/// namespace of a pod that is gone.
async fn clean(table: Weak<Inner>) {
    loop {
        tokio::time::sleep(UNCLAIMED_FOR / 2).await;
        let Some(table) = table.upgrade() else { return };
        let mut received = table.received.lock();
        received.drop_old();
        if received.files.is_empty() {
            received.cleaned = false;
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> (FileKey, OwnedFd) {
        let file = OwnedFd::from(tempfile::tempfile().unwrap());
        (file_key(&file).unwrap(), file)
    }

    fn soon() -> tokio::time::Instant {
        tokio::time::Instant::now() + Duration::from_secs(5)
    }

    #[tokio::test]
    async fn a_file_is_found_whether_it_comes_before_or_after_the_message() {
        let table = FdTable::default();
        let (before, one) = file();
        let (after, two) = file();
        table.store([one]);
        assert_eq!(file_key(table.take(before, soon()).await.unwrap()).unwrap(), before);
        let waiting = table.clone();
        let task = tokio::spawn(async move { waiting.take(after, soon()).await });
        tokio::task::yield_now().await;
        table.store([two]);
        assert_eq!(file_key(task.await.unwrap().unwrap()).unwrap(), after);
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_came_twice_is_there_for_both_messages_that_name_it() {
        let table = FdTable::default();
        let (key, one) = file();
        let two = one.try_clone().unwrap();
        table.store([one, two]);
        table.take(key, soon()).await.unwrap();
        table.take(key, soon()).await.unwrap();
        assert!(table.take(key, soon()).await.is_err());
        assert!(table.take_arrived(key).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_never_comes_ends_the_wait_with_its_key() {
        let key = FileKey { dev: 1, ino: 2 };
        let error = FdTable::default().take(key, soon()).await.unwrap_err();
        assert!(error.to_string().contains("inode://1/2"));
    }

    #[test]
    fn a_peer_that_sends_without_end_fills_no_memory() {
        let table = FdTable::default();
        for _ in 0..MAX_UNCLAIMED + 10 {
            table.store([file().1]);
        }
        assert!(table.unclaimed() <= MAX_UNCLAIMED);
    }
}

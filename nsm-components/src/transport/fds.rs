//! Open files of one peer: those that wait to go out and those that came in.
//!
//! A file rides on a byte of the stream, beneath TLS; nothing in gRPC refers to it. So the sender
//! queues it before the call and the receiver files it by device and inode, where the handler of
//! whichever call names it finds it (protocol §6.9).

use std::{
    collections::{BTreeMap, VecDeque},
    os::fd::OwnedFd,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tracing::{debug, warn};

use super::{
    Error,
    file::{close_elsewhere, passed_key},
};
use crate::api::peer::{FileKey, Files};

/// Most files kept unclaimed for a stranger, on a connection, and for a peer that has shown who it
/// is, on all its connections together; the oldest of the connection goes first. The latter is a
/// burst of as many calls.
const MAX_UNCLAIMED: (usize, usize) = (64, 1024);

/// Longest time an unclaimed file is kept: it pins a network namespace or a socket. Nobody waits
/// for a file that long.
const UNCLAIMED_FOR: Duration = Duration::from_secs(10);

/// Most files that wait to go out. More only wait when the peer does not read.
const MAX_QUEUED: usize = 1024;

/// The files of one connection.
#[derive(Clone, Debug, Default)]
pub struct FdTable(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    queued: Mutex<VecDeque<Arc<OwnedFd>>>,
    received: Mutex<Arrivals>,
    arrived: Notify,
    /// What the peer shares out among its connections, once it has shown who it is.
    share: OnceLock<Share>,
}

/// How many unclaimed files one peer has here, on all its connections.
#[derive(Clone, Debug, Default)]
pub(super) struct Share(Arc<AtomicUsize>);

/// One unclaimed file within a [`Share`].
#[derive(Debug)]
struct Place(Share);

#[derive(Debug, Default)]
struct Arrivals {
    files: BTreeMap<FileKey, Received>,
    /// When the kernel last dropped files that came: too many at once, or no room in this process.
    cut: Option<Instant>,
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
    _place: Option<Place>,
}

// === impl Share ===

impl Share {
    fn is_full(&self) -> bool {
        self.0.load(Ordering::Relaxed) >= MAX_UNCLAIMED.1
    }

    fn take(&self) -> Place {
        self.0.fetch_add(1, Ordering::Relaxed);
        Place(self.clone())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

// === impl FdTable ===

impl FdTable {
    /// Sends these files with the next bytes. Call it before the call that names them: a queued
    /// file does not send itself. Answers whether there was room; without, none of them is sent,
    /// and the call that names them cannot succeed.
    pub fn send(&self, files: &Files) -> bool {
        let mut queued = self.0.queued.lock();
        let room = queued.len() + files.iter().count() <= MAX_QUEUED;
        if room {
            queued.extend(files.iter().map(|(_, file)| file.clone()));
        } else {
            warn!("{MAX_QUEUED} files wait to be sent already: the peer does not read");
        }
        room
    }

    /// The peer has shown who it is: it may send more at a time.
    pub(super) fn trust(&self, share: Share) {
        let _ = self.0.share.set(share);
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
                let found = {
                    let mut received = self.0.received.lock();
                    received.claim(key).ok_or_else(|| received.is_cut())
                };
                match found {
                    Ok(file) => return Ok(file),
                    // It is most likely among those, and will not come again.
                    Err(true) => return Err(Error::Cut { key: key.to_string() }),
                    Err(false) => arrived.await,
                }
            }
        };
        let late = |_| Err(Error::NoFile { key: key.to_string() });
        tokio::time::timeout_at(deadline, wait).await.unwrap_or_else(late)
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

    /// The kernel dropped files that came: calls that name one which is not here are refused for a while.
    pub(super) fn cut(&self) {
        warn!("files that a peer sent were dropped: too many at once, or this process may open no more");
        self.0.received.lock().cut = Some(Instant::now());
        self.0.arrived.notify_waiters();
    }

    pub(super) fn store(&self, files: impl IntoIterator<Item = OwnedFd>) {
        let mut received = self.0.received.lock();
        received.drop_old();
        for file in files {
            if let Some(key) = passed_key(&file) {
                received.add(key, file, self.0.share.get());
            } else {
                debug!("a file came that is neither a socket nor a namespace");
                close_elsewhere(file);
            }
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
}

// === impl Arrivals ===

impl Arrivals {
    fn add(&mut self, key: FileKey, file: OwnedFd, share: Option<&Share>) {
        let at = Instant::now();
        if let Some(entry) = self.files.get_mut(&key) {
            (entry.at, entry.times) = (at, entry.times + 1);
            return;
        }
        let is_full = || share.map_or(self.files.len() >= MAX_UNCLAIMED.0, Share::is_full);
        if is_full() {
            let oldest = self.files.iter().min_by_key(|(_, entry)| entry.at).map(|(key, _)| *key);
            // When the peer's other connections have them all, it is the new one that goes.
            let Some(oldest) = oldest else { return };
            self.files.remove(&oldest);
        }
        let received = Received { file: Arc::new(file), at, times: 1, _place: share.map(Share::take) };
        self.files.insert(key, received);
    }

    fn claim(&mut self, key: FileKey) -> Option<Arc<OwnedFd>> {
        let entry = self.files.get_mut(&key)?;
        entry.times -= 1;
        if entry.times > 0 {
            return Some(entry.file.clone());
        }
        self.files.remove(&key).map(|entry| entry.file)
    }

    fn is_cut(&self) -> bool {
        self.cut.is_some_and(|at| at.elapsed() < UNCLAIMED_FOR)
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
mod tests;

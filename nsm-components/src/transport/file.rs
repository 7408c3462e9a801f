//! Open files: their keys, and closing what should never have come.
//!
//! A peer passes whatever it likes, files of a hung network file system among them. Nothing here
//! waits for a file system on a thread that serves calls.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{OnceLock, mpsc},
};

use rustix::fs::{AtFlags, CWD, FileType, Statx, StatxFlags};

use crate::api::peer::FileKey;

/// What the system knows of a file without asking a server for it.
const CACHED: AtFlags = AtFlags::EMPTY_PATH.union(AtFlags::STATX_DONT_SYNC);

fn stat(file: impl AsFd) -> io::Result<Statx> {
    Ok(rustix::fs::statx(file, c"", CACHED, StatxFlags::TYPE | StatxFlags::INO)?)
}

fn device(stat: &Statx) -> u64 {
    rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor)
}

fn key(stat: &Statx) -> FileKey {
    FileKey { dev: device(stat), ino: stat.stx_ino }
}

/// The key of an open file.
pub fn file_key(file: impl AsFd) -> io::Result<FileKey> {
    stat(file).map(|stat| key(&stat))
}

/// The key of a file that a peer may pass: a socket or a namespace.
pub(super) fn passed_key(file: impl AsFd) -> Option<FileKey> {
    let stat = stat(file).ok()?;
    let is_socket = FileType::from_raw_mode(stat.stx_mode.into()) == FileType::Socket;
    (is_socket || Some(device(&stat)) == namespaces()).then(|| key(&stat))
}

/// The device of the file system of all namespaces; there is one.
fn namespaces() -> Option<u64> {
    static DEVICE: OnceLock<Option<u64>> = OnceLock::new();
    *DEVICE.get_or_init(|| {
        let stat = rustix::fs::statx(CWD, c"/proc/self/ns/net", AtFlags::empty(), StatxFlags::INO);
        stat.ok().map(|stat| device(&stat))
    })
}

/// Closes a file on a thread that serves nothing else: that may take as long as its server likes.
pub(super) fn close_elsewhere(file: OwnedFd) {
    static CLOSER: OnceLock<Option<mpsc::Sender<OwnedFd>>> = OnceLock::new();
    let closer = CLOSER.get_or_init(|| {
        let (sender, files) = mpsc::channel::<OwnedFd>();
        let thread = std::thread::Builder::new().name("closer".into());
        thread.spawn(move || files.into_iter().for_each(drop)).ok().map(|_| sender)
    });
    if let Some(closer) = closer {
        // The thread never ends, so somebody receives.
        let _ = closer.send(file);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_device_and_inode_as_everybody_else_sees_them() {
        let files: [OwnedFd; 3] = [
            tempfile::tempfile().unwrap().into(),
            std::fs::File::open("/proc/self/ns/net").unwrap().into(),
            std::os::unix::net::UnixDatagram::unbound().unwrap().into(),
        ];
        for file in files {
            let stat = rustix::fs::fstat(&file).unwrap();
            assert_eq!(file_key(&file).unwrap(), FileKey { dev: stat.st_dev, ino: stat.st_ino });
        }
    }

    #[test]
    fn a_socket_by_path_may_be_passed_and_a_folder_may_not() {
        use rustix::fs::{Mode, OFlags};
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sock");
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let open = |path: &std::path::Path| rustix::fs::open(path, OFlags::PATH, Mode::empty()).unwrap();
        assert!(passed_key(open(&path)).is_some());
        assert!(passed_key(open(folder.path())).is_none());
    }
}

//! Which process is at the other end of a unix socket, and what the kernel says about it.
//!
//! A process id alone proves nothing: ids are used again. What is read here is read through one
//! open `/proc/<pid>`, and afterwards it is checked that the id still is that of the peer.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _},
    os::fd::{AsRawFd as _, OwnedFd},
    path::PathBuf,
};

use nix::{
    errno::Errno,
    sys::socket::{getsockopt, sockopt},
};
use rustix::fs::{Mode, OFlags, openat, readlinkat};
use tokio::net::UnixStream;

/// Longest file of `/proc` that is read.
const MAX_FILE: u64 = 64 * 1024;

/// Why a caller could not be identified.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(super) enum AttestError {
    /// The peer is in another PID namespace, which this process cannot see into.
    #[error(
        "the caller's process is not visible from here: the identity process needs the host's PID namespace"
    )]
    Invisible,
    /// The peer ended, or its id belongs to another process by now.
    #[error("process {0} ended while it was being identified")]
    Gone(i32),
    /// The kernel did not let us look.
    #[error("cannot read {what} of process {pid}")]
    Read {
        /// The peer.
        pid: i32,
        /// What was to be read.
        what: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The process is none that gets an identity here.
    #[error("process {pid} gets no identity here: {why}")]
    Refused {
        /// The peer.
        pid: i32,
        /// Why.
        why: String,
    },
}

/// A peer's process while it is looked at.
#[derive(Debug)]
pub(super) struct Process {
    pid: i32,
    uid: u32,
    gid: u32,
    /// `/proc/<pid>`, open: it answers for this process or, once that has ended, not at all.
    dir: File,
}

/// Reads about the peer of `stream` with `read`, and answers only if all of it is about the peer.
pub(super) fn inspect<T>(
    stream: &UnixStream,
    read: impl FnOnce(&Process) -> Result<T, AttestError>,
) -> Result<T, AttestError> {
    let peer = stream.peer_cred().map_err(|source| AttestError::Read { pid: 0, what: "the peer", source })?;
    let pid = peer.pid().filter(|pid| *pid > 0).ok_or(AttestError::Invisible)?;
    let pidfd = match getsockopt(stream, sockopt::PeerPidfd) {
        Ok(pidfd) => Some(pidfd),
        // Before Linux 6.5 the option is unknown.
        Err(Errno::ENOPROTOOPT) => None,
        Err(_) => return Err(AttestError::Gone(pid)),
    };
    inspect_process(pid, (peer.uid(), peer.gid()), pidfd, read)
}

/// The same for a known process: with the peer's pidfd, or on an older kernel without one. There a
/// process that ends between its connect and this call may be taken for the next of its id.
fn inspect_process<T>(
    pid: i32,
    user: (u32, u32),
    pidfd: Option<OwnedFd>,
    read: impl FnOnce(&Process) -> Result<T, AttestError>,
) -> Result<T, AttestError> {
    let process = Process::open(pid, user)?;
    let answer = if let Some(pidfd) = pidfd {
        let answer = read(&process)?;
        // While the descriptor still names the id, no other process can have had it.
        (process.pid_of(&pidfd)? == pid).then_some(answer)
    } else {
        let before = process.start_time()?;
        let answer = read(&process)?;
        (process.start_time()? == before).then_some(answer)
    };
    answer.ok_or(AttestError::Gone(pid))
}

// === impl Process ===

impl Process {
    fn open(pid: i32, (uid, gid): (u32, u32)) -> Result<Self, AttestError> {
        use std::os::unix::fs::OpenOptionsExt as _;
        let dir = OpenOptions::new()
            .read(true)
            .custom_flags(nix::fcntl::OFlag::O_DIRECTORY.bits())
            .open(format!("/proc/{pid}"))
            .map_err(|source| match source.kind() {
                io::ErrorKind::NotFound => AttestError::Gone(pid),
                _ => AttestError::Read { pid, what: "the folder in /proc", source },
            })?;
        Ok(Self { pid, uid, gid, dir })
    }

    /// The user the process ran as when it connected.
    pub(super) fn uid(&self) -> u32 {
        self.uid
    }

    /// The first group of the process when it connected.
    pub(super) fn gid(&self) -> u32 {
        self.gid
    }

    /// The program's file, as the process's own mount namespace names it.
    pub(super) fn executable(&self) -> Result<PathBuf, AttestError> {
        use std::os::unix::ffi::OsStringExt as _;
        let link = readlinkat(&self.dir, "exe", Vec::new())
            .map_err(|errno| self.read_error("the executable", errno.into()))?;
        Ok(std::ffi::OsString::from_vec(link.into_bytes()).into())
    }

    /// `/proc/<pid>/cgroup`; bytes that are not UTF-8 are replaced.
    pub(super) fn cgroup(&self) -> Result<String, AttestError> {
        self.file("cgroup")
    }

    /// A refusal of this process.
    pub(super) fn refuse(&self, why: &(impl ToString + ?Sized)) -> AttestError {
        AttestError::Refused { pid: self.pid, why: why.to_string() }
    }

    fn file(&self, name: &'static str) -> Result<String, AttestError> {
        let file = openat(&self.dir, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| self.read_error(name, errno.into()))?;
        let mut bytes = Vec::new();
        File::from(file)
            .take(MAX_FILE)
            .read_to_end(&mut bytes)
            .map_err(|source| self.read_error(name, source))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn read_error(&self, what: &'static str, source: io::Error) -> AttestError {
        match source.raw_os_error() {
            // ESRCH from an open folder of /proc: the process has ended.
            Some(code) if code == Errno::ESRCH as i32 => AttestError::Gone(self.pid),
            _ => AttestError::Read { pid: self.pid, what, source },
        }
    }

    /// Clock ticks from boot to the start of the process (proc(5), field 22 of stat).
    fn start_time(&self) -> Result<u64, AttestError> {
        start_time(&self.file("stat")?).ok_or(AttestError::Gone(self.pid))
    }

    /// The id a pidfd stands for; -1 once the process was reaped.
    fn pid_of(&self, pidfd: &OwnedFd) -> Result<i32, AttestError> {
        let path = format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd());
        let text = std::fs::read_to_string(path).map_err(|source| self.read_error("the pidfd", source))?;
        let pid = text.lines().find_map(|line| line.strip_prefix("Pid:")).map(str::trim);
        pid.and_then(|pid| pid.parse().ok()).ok_or(AttestError::Gone(self.pid))
    }
}

/// Field 22 of `/proc/<pid>/stat`. The name in field 2 may hold blanks and brackets.
fn start_time(stat: &str) -> Option<u64> {
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_peer_of_a_socket_pair_is_this_process() {
        let (a, _b) = UnixStream::pair().unwrap();
        let own = std::env::current_exe().unwrap();
        let found = inspect(&a, |process| {
            assert_eq!(process.pid, i32::try_from(std::process::id()).unwrap());
            assert!(!process.cgroup().unwrap().is_empty());
            assert!(process.start_time().unwrap() > 0);
            process.executable()
        });
        assert_eq!(found.unwrap(), own);
    }

    #[test]
    fn a_process_that_ends_meanwhile_is_not_taken_for_the_next_one() {
        for with_pidfd in [true, false] {
            let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
            let pid = i32::try_from(child.id()).unwrap();
            let pidfd = || {
                let pid = rustix::process::Pid::from_raw(pid).unwrap();
                let open = || rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty());
                with_pidfd.then(|| open().unwrap())
            };
            let found = inspect_process(pid, (0, 0), pidfd(), Process::cgroup);
            assert!(found.is_ok(), "{found:?}");
            let ended = inspect_process(pid, (0, 0), pidfd(), |process| {
                let cgroup = process.cgroup();
                child.kill().unwrap();
                child.wait().unwrap();
                cgroup
            });
            assert!(matches!(ended, Err(AttestError::Gone(gone)) if gone == pid), "{ended:?}");
            assert!(matches!(inspect_process(pid, (0, 0), None, |_| Ok(())), Err(AttestError::Gone(_))));
        }
    }

    #[tokio::test]
    async fn a_refusal_names_the_process() {
        let (a, _b) = UnixStream::pair().unwrap();
        let refused = inspect::<()>(&a, |process| Err(process.refuse("not a pod"))).unwrap_err();
        assert_eq!(
            refused.to_string(),
            format!("process {} gets no identity here: not a pod", std::process::id())
        );
    }

    #[test]
    fn the_start_time_is_found_behind_any_name() {
        let tail = (3..=21).map(|n| n.to_string()).collect::<Vec<_>>().join(" ");
        for name in ["nsm", "a b", "x) y", "((("] {
            assert_eq!(start_time(&format!("12 ({name}) {tail} 4711 23")), Some(4711), "{name}");
        }
        assert_eq!(start_time("12 (nsm) S"), None);
        assert_eq!(start_time(""), None);
    }
}

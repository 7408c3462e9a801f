//! Network namespaces without names: they end with the last file and the last process in them.

use std::{
    ffi::OsStr,
    fs::File,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    process::Command,
    sync::Arc,
};

use anyhow::{Context, Result, anyhow, bail};
use nix::sched::{CloneFlags, setns, unshare};
use serde_json::Value;

/// A network namespace. Clones share it.
#[derive(Clone, Debug)]
pub struct Netns {
    name: Arc<str>,
    file: Arc<OwnedFd>,
}

/// The namespace of the calling thread.
fn current() -> Result<OwnedFd> {
    Ok(File::open("/proc/thread-self/ns/net")?.into())
}

/// Runs on a thread of its own, whose namespace may be changed at will.
fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    std::thread::spawn(work).join().map_err(|_| anyhow!("a thread in a network namespace panicked"))
}

// === impl Netns ===

impl Netns {
    /// A new one, with nothing but a loopback that is up. The name is for people.
    pub fn new(name: &str) -> Result<Self> {
        let file = aside(|| -> Result<OwnedFd> {
            unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace")?;
            current()
        })??;
        let netns = Self { name: name.into(), file: Arc::new(file) };
        netns.ip("link set lo up")?;
        Ok(netns)
    }

    /// The one this process is in.
    pub fn own() -> Result<Self> {
        Ok(Self { name: "host".into(), file: Arc::new(current()?) })
    }

    /// Its name, for people.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A path by which any program may open it.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }

    /// An open file on it, to pass on.
    pub fn file(&self) -> Arc<OwnedFd> {
        self.file.clone()
    }

    /// Its inode number, as in `net:[4026531840]`.
    pub fn inode(&self) -> Result<u64> {
        Ok(std::fs::metadata(self.path())?.ino())
    }

    /// A program that is to run in here.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path())).arg("--").arg(program);
        command
    }

    /// What `ip <arguments>` prints in here.
    pub fn ip(&self, arguments: &str) -> Result<String> {
        let output = self.command("ip").args(arguments.split_whitespace()).output()?;
        if !output.status.success() {
            let error = String::from_utf8_lossy(&output.stderr);
            bail!("ip {arguments} in {}: {}", self.name, error.trim());
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// The list that `ip -json <arguments>` prints in here.
    pub fn list(&self, arguments: &str) -> Result<Vec<Value>> {
        let text = self.ip(&format!("-json {arguments}"))?;
        if text.trim().is_empty() {
            return Ok(Vec::new());
        }
        let list: Vec<Value> = serde_json::from_str(&text)?;
        // A dump that was filtered has an empty object in place of what was left out.
        Ok(list
            .into_iter()
            .filter(|entry| entry.as_object().is_some_and(|object| !object.is_empty()))
            .collect())
    }

    /// Does something on a thread in here, such as opening a socket, which then stays in here.
    pub fn inside<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let file = self.file.clone();
        aside(move || {
            setns(file.as_fd(), CloneFlags::CLONE_NEWNET).context("cannot enter a network namespace")?;
            Ok(work())
        })?
    }
}

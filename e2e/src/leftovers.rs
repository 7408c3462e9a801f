//! What a test leaves on the machine: nothing.
//!
//! A test's own namespaces are gone with the last process, thread, open file, socket and mount that held
//! them; who made them sees that by a link that leads there. Here is looked at the rest: the namespace of
//! the host, mounts, and who still has a file of the test's folders.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};

use crate::{netns::Netns, wait};

/// Lists of what is in a namespace; each line of them is one thing.
const LISTS: [&str; 8] = [
    "-o link show",
    "-o address show",
    "-4 route show table all",
    "-6 route show table all",
    "-4 rule show",
    "-6 rule show",
    "neighbour show nud permanent",
    "netns list-id",
];

/// Words whose value goes up or down by itself.
const MOVING: [&str; 5] = ["valid_lft", "preferred_lft", "expires", "state", "qlen"];

/// How the machine was before a test.
#[derive(Debug)]
pub struct Before {
    host: Netns,
    named: PathBuf,
    lines: BTreeSet<String>,
}

/// A line without what changes by itself: times, and the state of a link.
fn steady(line: &str) -> String {
    let mut words = line.split_whitespace();
    let mut kept = Vec::new();
    while let Some(word) = words.next() {
        if MOVING.contains(&word) {
            words.next();
        } else if !word.starts_with('<') && word != "tentative" {
            kept.push(word);
        }
    }
    kept.join(" ")
}

fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path())
}

/// Mounts in these folders, and those that hold a namespace.
fn mounts(folders: &[&Path]) -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let point = |line: &str| line.split(' ').nth(4).map(PathBuf::from);
    let is_own = |point: PathBuf| folders.iter().any(|folder| point.starts_with(folder));
    table.lines().filter(|line| point(line).is_some_and(is_own)).map(|line| format!("mount {line}")).collect()
}

/// Open files, programs and working folders of all processes in these folders.
fn holders(folders: &[&Path]) -> Vec<String> {
    let is_process = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.as_encoded_bytes().iter().all(u8::is_ascii_digit))
    };
    let processes = entries(Path::new("/proc")).filter(is_process);
    let files = processes.flat_map(|process| {
        let single = ["exe", "cwd"].map(|name| process.join(name));
        single.into_iter().chain(entries(&process.join("fd")).collect::<Vec<_>>())
    });
    let held = files.filter_map(|link| Some((fs::read_link(&link).ok()?, link)));
    let own = held.filter(|(target, _)| folders.iter().any(|folder| target.starts_with(folder)));
    own.map(|(target, link)| format!("{} holds {}", link.display(), target.display())).collect()
}

// === impl Before ===

impl Before {
    /// Of this host.
    pub fn look() -> Result<Self> {
        Self::look_at(Netns::own()?, PathBuf::from("/run/netns"))
    }

    /// The same of another namespace in the host's place, with this folder of named namespaces.
    pub fn look_at(host: Netns, named: PathBuf) -> Result<Self> {
        let mut before = Self { host, named, lines: BTreeSet::new() };
        before.lines = before.lines()?;
        Ok(before)
    }

    fn lines(&self) -> Result<BTreeSet<String>> {
        let mut lines = BTreeSet::new();
        for list in LISTS {
            let text = self.host.ip(list)?;
            lines.extend(text.lines().map(|line| format!("{list}: {}", steady(line))));
        }
        lines.extend(entries(&self.named).map(|path| format!("namespace {}", path.display())));
        Ok(lines)
    }

    /// What is there now and was not, and what was there and is not; and who still holds something in these
    /// folders, which are the test's.
    pub fn leftovers(&self, folders: &[&Path]) -> Result<Vec<String>> {
        let now = self.lines()?;
        let new = now.difference(&self.lines).map(|line| format!("new: {line}"));
        let gone = self.lines.difference(&now).map(|line| format!("gone: {line}"));
        Ok(new.chain(gone).chain(mounts(folders)).chain(holders(folders)).collect())
    }

    /// Waits until all is as before; fails naming what is not.
    pub fn is_restored(&self, folders: &[&Path], limit: Duration) -> Result<()> {
        let mut last = Vec::new();
        let restored = wait::until_true("all on this machine is as before the test", limit, || {
            last = self.leftovers(folders).unwrap_or_else(|error| vec![format!("{error:#}")]);
            last.is_empty()
        });
        restored.with_context(|| format!("left: {}", last.join("; ")))
    }
}

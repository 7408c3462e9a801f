//! What connections leave while the mesh runs, and what the mesh leaves when it ends: nothing.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};

use super::{FOLDER, Mesh};
use crate::{interface::interfaces, process::running_from, wait};

/// Longest time the kernel may take to end a namespace that nobody holds.
const END: Duration = Duration::from_secs(20);

/// The mark of all rules of the mesh.
const PROTOCOL: &str = "proto 78";

/// Lines of each log that a failed test shows.
const TAIL: usize = 25;

/// Removes the folders of tests that were killed.
pub(super) fn remove_abandoned(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name().into_string().unwrap_or_default();
        let owner = name.strip_prefix(FOLDER).and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        if owner.is_some_and(|id| !Path::new(&format!("/proc/{id}")).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

impl Mesh {
    /// Every trace of connections: interfaces and rules in all namespaces, and journal entries.
    pub fn traces(&self) -> Result<Vec<String>> {
        let mut traces = Vec::new();
        for netns in self.nodes.iter().chain(self.pods.values().map(|pod| &pod.netns)) {
            let found = interfaces(netns)?;
            // Rules outlive the interfaces that they lead to.
            let rules = format!("{}{}", netns.ip("rule")?, netns.ip("-6 rule")?);
            let ours = rules.lines().filter(|rule| rule.contains(PROTOCOL));
            traces.extend(ours.map(|rule| format!("rule {rule} in {}", netns.name())));
            traces.extend(
                found.iter().map(|found| format!("{} {} in {}", found.name, found.alias, netns.name())),
            );
        }
        for node in [1, 2] {
            traces.extend(self.journal(node).iter().map(|id| format!("journal entry {id} of node {node}")));
        }
        Ok(traces)
    }

    /// Ids of the connections in a node's journal.
    pub fn journal(&self, node: usize) -> Vec<String> {
        let files = fs::read_dir(self.journal_folder(node)).into_iter().flatten().flatten();
        let names = files.filter_map(|file| file.file_name().into_string().ok());
        names.filter_map(|name| Some(name.strip_suffix(".json")?.to_owned())).collect()
    }

    /// Waits until no connection has left a trace.
    pub fn is_clean(&self, limit: Duration) -> Result<()> {
        let mut last = Vec::new();
        let clean = wait::until_true("no connection has left a trace", limit, || {
            last = self.traces().unwrap_or_default();
            last.is_empty()
        });
        clean.with_context(|| format!("left: {}", last.join("; ")))
    }

    /// Ends everything; says what would not go.
    fn clear(&mut self) -> Result<()> {
        self.processes.clear();
        self.pods.clear();
        self.nodes.clear();
        let left = running_from(&self.programs);
        ensure!(left.is_empty(), "processes {left:?} are left");
        if let Some(witness) = self.witness.take() {
            let mut last = String::new();
            wait::until_true("all namespaces are gone", END, || {
                last = witness.ip("-brief link show type veth").unwrap_or_default();
                last.is_empty()
            })
            .with_context(|| format!("held: {last}"))?;
        }
        self.before.is_restored(&[&self.programs, &self.folder], END)?;
        fs::remove_dir_all(&self.programs)?;
        fs::remove_dir_all(&self.folder)?;
        Ok(())
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        let failed = std::thread::panicking();
        if failed {
            for (who, process) in &self.processes {
                eprintln!("--- {who}, its last words\n{}", process.log_tail(TAIL));
            }
        }
        let cleared = self.clear();
        let _ = (fs::remove_dir_all(&self.programs), fs::remove_dir_all(&self.folder));
        assert!(failed || cleared.is_ok(), "the mesh left something behind: {cleared:?}");
    }
}

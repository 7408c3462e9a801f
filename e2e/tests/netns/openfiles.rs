//! The open files of processes, but for the connections that they have with one another.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use nsm_e2e::{
    figures::figures,
    mesh::{Mesh, START, Who},
    wait::until_true,
};

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OpenFiles {
    /// Files of each process, by what they are, that are no end of a connection inside.
    pub(crate) own: BTreeMap<String, BTreeMap<String, usize>>,
    /// Sockets of registered endpoints that each process keeps to pass on: path, and by how many files.
    pub(crate) passed_on: BTreeMap<(String, String), usize>,
    /// Connections of them with one another that are no channel: those of a process with itself.
    pub(crate) others: usize,
    /// Channels that they say they have.
    pub(crate) channels: usize,
}

/// How many files of one kind there are, as far as it tells something.
fn counted(files: impl Iterator<Item = String>) -> BTreeMap<String, usize> {
    let mut kinds = BTreeMap::<String, usize>::new();
    for file in files {
        let kind = file.split_once(":[").map_or(&*file, |(kind, _)| kind).to_owned();
        *kinds.entry(kind).or_default() += 1;
    }
    // The library for cryptography opens it when it first wants to, and for good.
    kinds.remove("/dev/urandom");
    kinds
}

fn is_socket(file: &str) -> bool {
    Path::new(file).extension().is_some_and(|extension| extension == "sock")
}

/// What `/proc` says of the open files of a process.
fn of(mesh: &Mesh, who: Who) -> Vec<String> {
    let id = mesh.process(who).unwrap().id().unwrap();
    let files = std::fs::read_dir(format!("/proc/{id}/fd")).unwrap();
    let targets = files.filter_map(|file| std::fs::read_link(file.ok()?.path()).ok());
    targets.map(|target| target.display().to_string()).collect()
}

/// The other end of each connected socket, in the namespaces of these processes: by inode.
fn peers(mesh: &Mesh, whom: &[Who]) -> BTreeMap<String, String> {
    let (mut peers, mut tcp) = (BTreeMap::new(), BTreeMap::new());
    let pods = whom.iter().filter_map(|who| mesh.pod_of(*who).ok());
    for netns in mesh.nodes().iter().chain(pods) {
        let output = netns.command("ss").args(["-H", "-n", "-a", "-x", "-t", "-e"]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        for line in String::from_utf8(output.stdout).unwrap().lines() {
            let fields: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
            if fields[0].starts_with("u_") {
                peers.insert(fields[5].clone(), fields[7].clone());
            } else if let Some(inode) = fields.iter().find_map(|field| field.strip_prefix("ino:")) {
                tcp.insert((fields[4].clone(), fields[5].clone()), inode.to_owned());
            }
        }
    }
    let other = |((here, there), inode): (&(String, String), &String)| {
        Some((inode.clone(), tcp.get(&(there.clone(), here.clone()))?.clone()))
    };
    peers.extend(tcp.iter().filter_map(other));
    peers
}

impl OpenFiles {
    pub(crate) fn now(mesh: &Mesh, whom: &[Who]) -> Self {
        let files: Vec<_> = whom.iter().map(|who| (*who, of(mesh, *who))).collect();
        let peers = peers(mesh, whom);
        let all: BTreeSet<_> = files.iter().flat_map(|(_, files)| files).collect();
        let is_inside = |file: &String| {
            let inode = file.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']'));
            let peer = inode.and_then(|inode| peers.get(inode));
            peer.is_some_and(|peer| all.contains(&format!("socket:[{peer}]")))
        };
        let (mut own, mut passed_on) = (BTreeMap::new(), BTreeMap::new());
        for (who, files) in &files {
            let kinds = counted(files.iter().filter(|file| !is_inside(file)).cloned());
            let (sockets, kinds) = kinds.into_iter().partition(|(kind, _)| is_socket(kind));
            own.insert(who.to_string(), kinds);
            let sockets: BTreeMap<String, usize> = sockets;
            passed_on.extend(sockets.into_iter().map(|(path, count)| ((who.to_string(), path), count)));
        }
        // Asked last: the question is a file of theirs, too.
        let channels = whom.iter().map(|who| figures(&mesh.metrics_socket(*who)).unwrap()["nsm_channels"]);
        let channels = usize::try_from(channels.sum::<u64>()).unwrap();
        let ends = all.iter().filter(|file| is_inside(file)).count();
        Self { own, passed_on, others: (ends / 2).saturating_sub(channels), channels }
    }

    /// As soon as they stay the same: what comes and goes has gone.
    pub(crate) fn settled(mesh: &Mesh, whom: &[Who]) -> Self {
        let (mut last, mut seen) = (Self::now(mesh, whom), 0);
        until_true("open files stay the same", START, || {
            let now = Self::now(mesh, whom);
            seen = if now == last { seen + 1 } else { 0 };
            last = now;
            seen == 5
        })
        .unwrap();
        last
    }
}

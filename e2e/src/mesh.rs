//! A whole mesh on one machine: two nodes with a wire between them and a registry on the first,
//! pods beside them, each a network namespace, and the real program in each.

mod recipe;

use std::{
    collections::BTreeMap,
    fmt, fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail, ensure};
pub use nix::sys::signal::Signal;

use crate::{
    interface::{Interface, interfaces},
    netns::Netns,
    process::{Process, Recipe, running_from},
    wait,
};

/// Longest time anything of the mesh may take to come up.
pub const START: Duration = Duration::from_secs(30);

/// Longest time the kernel may take to end a namespace that nobody holds.
const END: Duration = Duration::from_secs(20);

/// Lines of each log that a failed test shows.
const TAIL: usize = 25;

/// A process of the mesh. Nodes are 1 and 2; clients and endpoints are counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    /// Gives every process its identity.
    Identity,
    /// On node 1.
    Registry,
    /// Of a node.
    Nsmgr(usize),
    /// Of a node.
    Forwarder(usize),
    /// In a pod.
    Endpoint(usize),
    /// In a pod.
    Client(usize),
}

/// See the module. Dropping it ends everything, and fails the test if anything is left.
#[derive(Debug)]
pub struct Mesh {
    life: Duration,
    /// Sockets, logs and journals.
    folder: PathBuf,
    /// The program, once under the name of each process: identities are made from it.
    programs: PathBuf,
    /// One link leads from here into each namespace; it is gone when the namespace is.
    witness: Option<Netns>,
    nodes: Vec<Netns>,
    /// Namespaces, endpoints and clients so far: no number is given twice.
    made: (usize, usize, usize),
    pods: BTreeMap<Who, Pod>,
    processes: BTreeMap<Who, Process>,
}

/// A namespace with a process that does nothing: as long as it is there, the pod is.
#[derive(Clone, Debug)]
struct Pod {
    netns: Netns,
    _pause: Arc<Process>,
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Identity => write!(f, "identity"),
            Self::Registry => write!(f, "registry"),
            Self::Nsmgr(number) => write!(f, "nsmgr-{number}"),
            Self::Forwarder(number) => write!(f, "forwarder-{number}"),
            Self::Endpoint(number) => write!(f, "nse-{number}"),
            Self::Client(number) => write!(f, "nsc-{number}"),
        }
    }
}

/// The program under test: `NSM_BIN`, or what cargo built beside this test.
pub fn program() -> Result<PathBuf> {
    let beside_this_test = || -> Result<PathBuf> {
        let own = std::env::current_exe()?;
        let profile = own.parent().and_then(Path::parent);
        Ok(profile.ok_or_else(|| anyhow!("{} lies in no target folder", own.display()))?.join("nsm"))
    };
    let path = std::env::var_os("NSM_BIN").map_or_else(beside_this_test, |path| Ok(path.into()))?;
    ensure!(
        path.is_file(),
        "{} is missing: run `cargo build -p nsm-components --bin nsm` first, or set NSM_BIN",
        path.display()
    );
    Ok(path)
}

/// Start of the names of folders; the process id and a number follow.
const FOLDER: &str = "nsm-e2e-";

/// Removes the folders of tests that were killed.
fn remove_abandoned(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name().into_string().unwrap_or_default();
        let owner = name.strip_prefix(FOLDER).and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        if owner.is_some_and(|id| !Path::new(&format!("/proc/{id}")).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

// === impl Mesh ===

impl Mesh {
    /// Starts identity, registry, and nsmgr and forwarder on both nodes. Tokens live for `life`.
    pub fn start(life: Duration) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(1);
        let program = program()?;
        let id = format!("{FOLDER}{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        // Hard links need the program's file system, sockets a short path.
        let beside = program.parent().unwrap_or(Path::new("/"));
        remove_abandoned(beside);
        remove_abandoned(&std::env::temp_dir());
        let programs = beside.join(&id);
        let mut mesh = Self {
            life,
            folder: std::env::temp_dir().join(&id),
            programs,
            witness: Some(Netns::new("witness")?),
            nodes: Vec::new(),
            made: (0, 0, 0),
            pods: BTreeMap::new(),
            processes: BTreeMap::new(),
        };
        fs::create_dir_all(&mesh.folder)?;
        fs::create_dir_all(&mesh.programs)?;
        fs::hard_link(&program, mesh.programs.join("nsm"))
            .with_context(|| format!("cannot link {}", program.display()))?;
        mesh.nodes = vec![mesh.netns("node-1")?, mesh.netns("node-2")?];
        let [one, two] = &mesh.nodes[..] else { bail!("there are two nodes") };
        one.ip(&format!("link add wire type veth peer name wire netns {}", two.path()))?;
        for (number, node) in [(1, one), (2, two)] {
            node.ip(&format!("address add 10.77.0.{number}/24 dev wire"))?;
            node.ip("link set wire up")?;
        }
        mesh.run(Who::Identity, &[])?;
        mesh.run(Who::Registry, &[])?;
        for node in [1, 2] {
            mesh.run(Who::Nsmgr(node), &[])?;
            mesh.run(Who::Forwarder(node), &[])?;
        }
        Ok(mesh)
    }

    /// A namespace with a link to the witness.
    fn netns(&mut self, name: &str) -> Result<Netns> {
        let netns = Netns::new(name)?;
        self.made.0 += 1;
        let number = self.made.0;
        let witness = self.witness.as_ref().ok_or_else(|| anyhow!("the mesh is over"))?;
        let path = netns.path();
        witness.ip(&format!("link add to{number} type veth peer name witness netns {path}"))?;
        Ok(netns)
    }

    /// Starts an endpoint in a pod on a node, with settings beside those that all have.
    pub fn endpoint(&mut self, node: usize, services: &str, settings: &[(&str, &str)]) -> Result<Who> {
        self.made.1 += 1;
        let who = Who::Endpoint(self.made.1);
        let mut all = vec![("NSM_SERVICE_NAMES", services)];
        all.extend(settings);
        self.pod(who, node, &all)
    }

    /// Starts a client in a pod on a node; `services` is a list such as `kernel://finance/nsm-1`.
    pub fn client(&mut self, node: usize, services: &str) -> Result<Who> {
        let who = self.next_client();
        self.pod(who, node, &[("NSM_NETWORK_SERVICES", services)])
    }

    /// Starts one more client in the pod of another.
    pub fn client_beside(&mut self, other: Who, node: usize, services: &str) -> Result<Who> {
        let pod = self.pods.get(&other).cloned().ok_or_else(|| anyhow!("{other} has no pod"))?;
        let who = self.next_client();
        self.pods.insert(who, pod);
        let socket = format!("unix://{}", self.nsmgr_socket(node).display());
        self.run(who, &[("NSM_CONNECT_TO", &socket), ("NSM_NETWORK_SERVICES", services)])?;
        Ok(who)
    }

    /// A pod for a client that the test itself plays.
    pub fn empty_pod(&mut self, node: usize) -> Result<Who> {
        let who = self.next_client();
        self.add_pod(who, node)?;
        Ok(who)
    }

    fn next_client(&mut self) -> Who {
        self.made.2 += 1;
        Who::Client(self.made.2)
    }

    fn add_pod(&mut self, who: Who, node: usize) -> Result<()> {
        let netns = self.netns(&format!("pod of {who}"))?;
        // What a CNI plugin makes: by such a link a node numbers the namespaces of its pods.
        let host = self.nodes.get(node - 1).ok_or_else(|| anyhow!("there is no node {node}"))?;
        host.ip(&format!("link add {who} type veth peer name eth0 netns {}", netns.path()))?;
        let pause = Process::start(Recipe {
            name: format!("pause of {who}"),
            netns: netns.clone(),
            program: "sleep".into(),
            arguments: vec!["infinity".to_owned()],
            environment: Vec::new(),
            log: self.folder.join(format!("pause-of-{who}.log")),
        })?;
        self.pods.insert(who, Pod { netns, _pause: Arc::new(pause) });
        Ok(())
    }

    fn pod(&mut self, who: Who, node: usize, settings: &[(&str, &str)]) -> Result<Who> {
        self.add_pod(who, node)?;
        let socket = format!("unix://{}", self.nsmgr_socket(node).display());
        let mut all = vec![("NSM_CONNECT_TO", socket.as_str())];
        all.extend(settings);
        self.run(who, &all)?;
        Ok(who)
    }

    /// Starts a process that has not run before.
    fn run(&mut self, who: Who, settings: &[(&str, &str)]) -> Result<()> {
        let recipe = self.recipe(who, settings)?;
        self.processes.insert(who, Process::start(recipe)?);
        Ok(())
    }

    /// Ends processes by a signal, all at once, and waits for their ends.
    pub fn end(&mut self, whom: &[Who], signal: Signal) -> Result<()> {
        whom.iter().try_for_each(|who| self.process(*who)?.signal(signal))?;
        for who in whom {
            let process = self.processes.get_mut(who).ok_or_else(|| anyhow!("{who} never ran"))?;
            process.ended()?;
        }
        Ok(())
    }

    /// Starts processes again with the settings they had.
    pub fn start_again(&mut self, whom: &[Who]) -> Result<()> {
        for who in whom {
            self.processes.get_mut(who).ok_or_else(|| anyhow!("{who} never ran"))?.start_again()?;
        }
        Ok(())
    }

    /// Ends a pod as a container runtime does: its process is killed and its namespace let go, and
    /// it ends within `limit` unless somebody else holds it.
    pub fn delete_pod(&mut self, who: Who, limit: Duration) -> Result<()> {
        let names = |netns: &Netns| -> Result<Vec<String>> {
            let links = netns.list("link show")?;
            Ok(links.iter().filter_map(|link| link["ifname"].as_str()).map(str::to_owned).collect())
        };
        let witness = self.witness.clone().ok_or_else(|| anyhow!("the mesh is over"))?;
        let before = names(&witness)?.len();
        self.end(&[who], Signal::SIGKILL)?;
        self.processes.remove(&who);
        self.pods.remove(&who).ok_or_else(|| anyhow!("{who} has no pod"))?;
        wait::until_true(&format!("the namespace of {who} is gone"), limit, || {
            names(&witness).is_ok_and(|names| names.len() < before)
        })
    }

    /// A process.
    pub fn process(&self, who: Who) -> Result<&Process> {
        self.processes.get(&who).ok_or_else(|| anyhow!("{who} never ran"))
    }

    /// The namespace of a pod.
    pub fn pod_of(&self, who: Who) -> Result<&Netns> {
        self.pods.get(&who).map(|pod| &pod.netns).ok_or_else(|| anyhow!("{who} has no pod"))
    }

    /// The namespaces of the nodes.
    pub fn nodes(&self) -> &[Netns] {
        &self.nodes
    }

    /// How long tokens live.
    pub fn life(&self) -> Duration {
        self.life
    }

    /// Where a node's nsmgr listens.
    pub fn nsmgr_socket(&self, node: usize) -> PathBuf {
        self.folder.join(format!("node-{node}/nsm.sock"))
    }

    /// Where a node's forwarder listens.
    pub fn forwarder_socket(&self, node: usize) -> PathBuf {
        self.folder.join(format!("node-{node}/forwarder.sock"))
    }

    /// Where the Workload API is served.
    pub fn workload_api(&self) -> PathBuf {
        self.folder.join("agent.sock")
    }

    /// Waits until a pod has this interface with an address and the way to the other side.
    pub fn connected(&self, who: Who, interface: &str) -> Result<Interface> {
        let netns = self.pod_of(who)?;
        let usable = |found: &Interface| {
            found.name == interface && found.up && found.address.is_some() && found.peer.is_some()
        };
        let look = || interfaces(netns).ok()?.into_iter().find(usable);
        wait::until(&format!("{who} has the interface {interface}"), START, look)
    }

    /// Waits until a process has said this, and answers the line.
    pub fn says(&self, who: Who, text: &str, limit: Duration) -> Result<String> {
        let process = self.process(who)?;
        let line = || process.log().lines().find(|line| line.contains(text)).map(str::to_owned);
        wait::until(&format!("{who} says {text:?}"), limit, line)
    }

    /// Every trace of connections: interfaces in all namespaces, and journal entries.
    pub fn traces(&self) -> Result<Vec<String>> {
        let mut traces = Vec::new();
        for netns in self.nodes.iter().chain(self.pods.values().map(|pod| &pod.netns)) {
            let found = interfaces(netns)?;
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
        names.map(|name| name.trim_end_matches(".json").to_owned()).collect()
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
        let own = interfaces(&Netns::own()?)?;
        ensure!(own.is_empty(), "links of the mesh are left in the host: {own:?}");
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

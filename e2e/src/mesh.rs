//! A whole mesh on one machine: two nodes with a wire between them and a registry on the first,
//! pods beside them, each a network namespace, and the real program in each.

mod leftovers;
mod pods;
mod recipe;

use std::{
    collections::BTreeMap,
    fmt, fs,
    path::{Path, PathBuf},
    process::ExitStatus,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
pub use nix::sys::signal::Signal;
pub use recipe::program;

use crate::{
    interface::{Interface, interfaces},
    leftovers::Before,
    netns::Netns,
    process::Process,
    wait,
};

/// Longest time anything of the mesh may take to come up.
pub const START: Duration = Duration::from_secs(30);

/// Start of the addresses of nodes; the number of the node follows.
const IPV4_UNDERLAY: &str = "10.77.0.";
const IPV6_UNDERLAY: &str = "fd00:77::";

/// Start of the names of folders; the process id and a number follow.
const FOLDER: &str = "nsm-e2e-";

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
    /// Start of the addresses that tunnels leave from; the node's number follows.
    underlay: &'static str,
    /// Settings of every process, beside its own.
    everywhere: Vec<(String, String)>,
    /// Sockets, logs and journals.
    folder: PathBuf,
    /// The program, once under the name of each process: identities are made from it.
    programs: PathBuf,
    /// One link leads from here into each namespace; it is gone when the namespace is.
    witness: Option<Netns>,
    /// How the host was.
    before: Before,
    nodes: Vec<Netns>,
    /// Namespaces, endpoints and clients so far: no number is given twice.
    made: (usize, usize, usize),
    pods: BTreeMap<Who, pods::Pod>,
    processes: BTreeMap<Who, Process>,
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

// === impl Mesh ===

impl Mesh {
    /// Starts identity, registry, and nsmgr and forwarder on both nodes. Tokens live for `life`.
    pub fn start(life: Duration) -> Result<Self> {
        Self::start_with(life, &[])
    }

    /// The same, with these settings for every process.
    pub fn start_with(life: Duration, everywhere: &[(&str, &str)]) -> Result<Self> {
        Self::start_over(life, IPV4_UNDERLAY, everywhere)
    }

    /// The same with tunnels over IPv6.
    pub fn start_over_ipv6(life: Duration) -> Result<Self> {
        Self::start_over(life, IPV6_UNDERLAY, &[])
    }

    fn start_over(life: Duration, underlay: &'static str, everywhere: &[(&str, &str)]) -> Result<Self> {
        let mut mesh = Self::prepare_over(life, underlay, everywhere)?;
        mesh.run(Who::Identity, &[])?;
        mesh.start_nodes()?;
        Ok(mesh)
    }

    /// Two nodes on which nothing runs: for [`Mesh::start_nodes`], once somebody else serves
    /// [`Mesh::workload_api`].
    pub fn prepare(life: Duration, everywhere: &[(&str, &str)]) -> Result<Self> {
        Self::prepare_over(life, IPV4_UNDERLAY, everywhere)
    }

    fn prepare_over(life: Duration, underlay: &'static str, everywhere: &[(&str, &str)]) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(1);
        let program = program()?;
        let id = format!("{FOLDER}{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        // Hard links need the program's file system, sockets a short path.
        let beside = program.parent().unwrap_or(Path::new("/"));
        leftovers::remove_abandoned(beside);
        leftovers::remove_abandoned(&std::env::temp_dir());
        let programs = beside.join(&id);
        let mut mesh = Self {
            life,
            underlay,
            everywhere: everywhere.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
            folder: std::env::temp_dir().join(&id),
            programs,
            before: Before::look()?,
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
            node.ip(&format!("address add {IPV4_UNDERLAY}{number}/24 dev wire"))?;
            node.ip(&format!("address add {IPV6_UNDERLAY}{number}/64 dev wire nodad"))?;
            node.ip("link set wire up")?;
        }
        Ok(mesh)
    }

    /// Starts registry, and nsmgr and forwarder on both nodes.
    pub fn start_nodes(&mut self) -> Result<()> {
        self.run(Who::Registry, &[])?;
        for node in [1, 2] {
            self.run(Who::Nsmgr(node), &[])?;
            self.run(Who::Forwarder(node), &[])?;
        }
        Ok(())
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

    /// Sends a process a signal and waits for its end.
    pub fn end_status(&mut self, who: Who, signal: Signal) -> Result<ExitStatus> {
        self.process(who)?.signal(signal)?;
        self.ended(who)
    }

    /// Has a process run by these words from its next start on, such as a program that takes rights away.
    pub fn run_by(&mut self, who: Who, words: &[String]) -> Result<()> {
        self.processes.get_mut(&who).ok_or_else(|| anyhow!("{who} never ran"))?.run_by(words);
        Ok(())
    }

    /// The folder of sockets, logs and journals.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Waits for a process that ends by itself.
    pub fn ended(&mut self, who: Who) -> Result<ExitStatus> {
        self.processes.get_mut(&who).ok_or_else(|| anyhow!("{who} never ran"))?.ended()
    }

    /// Starts processes again with the settings they had.
    pub fn start_again(&mut self, whom: &[Who]) -> Result<()> {
        for who in whom {
            self.processes.get_mut(who).ok_or_else(|| anyhow!("{who} never ran"))?.start_again()?;
        }
        Ok(())
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

    /// Where a process shows its figures.
    pub fn metrics_socket(&self, who: Who) -> PathBuf {
        self.folder.join(format!("{who}.metrics"))
    }

    /// Where the Workload API is served.
    pub fn workload_api(&self) -> PathBuf {
        self.folder.join("agent.sock")
    }

    /// The program that a process runs: each has one of its own name.
    pub fn program_of(&self, who: Who) -> PathBuf {
        self.programs.join(who.to_string())
    }

    /// Waits until a pod has this interface with an address and the way to the other side.
    pub fn connected(&self, who: Who, interface: &str) -> Result<Interface> {
        let netns = self.pod_of(who)?;
        let usable = |found: &Interface| {
            found.name == interface && found.up && found.address.is_some() && found.peer.is_some()
        };
        let look = || interfaces(netns).ok()?.into_iter().find(usable);
        wait::until(&format!("{who} has the interface {interface}"), START * wait::slowness(), look)
    }

    /// Waits until a process has said this, and answers the line.
    pub fn says(&self, who: Who, text: &str, limit: Duration) -> Result<String> {
        let process = self.process(who)?;
        let line = || process.log().lines().find(|line| line.contains(text)).map(str::to_owned);
        wait::until(&format!("{who} says {text:?}"), limit, line)
    }
}

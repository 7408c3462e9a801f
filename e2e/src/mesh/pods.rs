//! Pods of the mesh: they come, and they go without a word.

use std::{fs, path::Path, sync::Arc, time::Duration};

use anyhow::{Context, Result, anyhow};

use super::{Mesh, Signal, Who, program};
use crate::{
    netns::Netns,
    process::{Process, Recipe},
    wait,
};

/// A namespace with a process that does nothing: as long as it is there, the pod is.
#[derive(Clone, Debug)]
pub(super) struct Pod {
    pub(super) netns: Netns,
    _pause: Arc<Process>,
}

impl Mesh {
    /// A namespace with a link to the witness.
    pub(super) fn netns(&mut self, name: &str) -> Result<Netns> {
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

    /// The same for an endpoint of somebody else's: an example that was built beside the program.
    pub fn example_endpoint(&mut self, example: &str, node: usize, services: &str) -> Result<Who> {
        let built = program()?.with_file_name("examples").join(example);
        let name = Who::Endpoint(self.made.1 + 1).to_string();
        fs::hard_link(&built, self.programs.join(name)).with_context(|| {
            format!("cannot link {}: build it with cargo build --examples", built.display())
        })?;
        self.endpoint(node, services, &[])
    }

    /// Starts a client in a pod on a node; `services` is a list such as `kernel://finance/nsm-1`.
    pub fn client(&mut self, node: usize, services: &str) -> Result<Who> {
        self.client_with(node, services, &[])
    }

    /// The same with settings beside those that all have.
    pub fn client_with(&mut self, node: usize, services: &str, settings: &[(&str, &str)]) -> Result<Who> {
        let who = self.next_client();
        let mut all = vec![("NSM_NETWORK_SERVICES", services)];
        all.extend(settings);
        self.pod(who, node, &all)
    }

    /// Starts a client to which `file` is its `/etc/resolv.conf`: the machine has one for all.
    pub fn client_with_resolv_conf(&mut self, node: usize, services: &str, file: &Path) -> Result<Who> {
        let who = self.next_client();
        self.add_pod(who, node)?;
        let socket = format!("unix://{}", self.nsmgr_socket(node).display());
        let settings = [("NSM_CONNECT_TO", socket.as_str()), ("NSM_NETWORK_SERVICES", services)];
        let mut recipe = self.recipe(who, &settings)?;
        let program = [recipe.program.display().to_string(), recipe.arguments.join(" ")].join(" ");
        let script = format!("mount --bind {} /etc/resolv.conf && exec {program}", file.display());
        recipe.program = "unshare".into();
        recipe.arguments = ["--mount", "sh", "-c", &script].map(str::to_owned).into();
        self.processes.insert(who, Process::start(recipe)?);
        Ok(who)
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

    /// Ends a pod as a container runtime does: its process is killed and its namespace let go, and
    /// it ends within `limit` unless somebody else holds it.
    pub fn delete_pod(&mut self, who: Who, limit: Duration) -> Result<()> {
        self.begin_delete(who)?.wait(limit)
    }

    /// The same without waiting for the end of the namespace.
    pub fn begin_delete(&mut self, who: Who) -> Result<Going> {
        let witness = self.witness.clone().ok_or_else(|| anyhow!("the mesh is over"))?;
        let before = names(&witness)?.len();
        self.end(&[who], Signal::SIGKILL)?;
        self.processes.remove(&who);
        self.pods.remove(&who).ok_or_else(|| anyhow!("{who} has no pod"))?;
        Ok(Going { who, witness, before })
    }
}

/// A pod that is being deleted.
#[derive(Debug)]
pub struct Going {
    who: Who,
    witness: Netns,
    before: usize,
}

impl Going {
    /// Waits for the end of its namespace.
    pub fn wait(&self, limit: Duration) -> Result<()> {
        let Self { who, witness, before } = self;
        wait::until_true(&format!("the namespace of {who} is gone"), limit, || {
            names(witness).is_ok_and(|names| names.len() < *before)
        })
    }
}

fn names(netns: &Netns) -> Result<Vec<String>> {
    let links = netns.list("link show")?;
    Ok(links.iter().filter_map(|link| link["ifname"].as_str()).map(str::to_owned).collect())
}

//! The settings of each process.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow, ensure};

use super::{Mesh, Who};
use crate::{netns::Netns, process::Recipe};

/// Where the registry listens, on node 1.
const REGISTRY: &str = "tcp://10.77.0.1:5002";

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

// === impl Mesh ===

impl Mesh {
    /// Where a node's forwarder keeps its journal.
    pub fn journal_folder(&self, node: usize) -> PathBuf {
        self.folder.join(format!("node-{node}/journal"))
    }

    fn place(&self, who: Who) -> Result<Netns> {
        let node = |number: usize| self.nodes.get(number - 1).cloned();
        let netns = match who {
            Who::Identity => Some(Netns::own()?),
            Who::Registry => node(1),
            Who::Nsmgr(number) | Who::Forwarder(number) => node(number),
            Who::Endpoint(_) | Who::Client(_) => self.pods.get(&who).map(|pod| pod.netns.clone()),
        };
        netns.ok_or_else(|| anyhow!("{who} has no place to run"))
    }

    fn arguments(who: Who) -> &'static [&'static str] {
        match who {
            Who::Identity => &["identity", "standalone"],
            Who::Registry => &["registry"],
            Who::Nsmgr(_) => &["nsmgr"],
            Who::Forwarder(_) => &["forwarder"],
            Who::Endpoint(_) => &["nse"],
            Who::Client(_) => &["nsc"],
        }
    }

    fn settings(&self, who: Who) -> Vec<(&'static str, String)> {
        let unix = |path: PathBuf| format!("unix://{}", path.display());
        let nsmgr = |node| unix(self.nsmgr_socket(node));
        match who {
            Who::Identity => vec![
                ("NSM_LISTEN_ON", unix(self.workload_api())),
                ("NSM_BASE_DIR", self.folder.join("identity").display().to_string()),
            ],
            Who::Registry => vec![("NSM_LISTEN_ON", REGISTRY.to_owned())],
            Who::Nsmgr(node) => vec![
                ("NSM_LISTEN_ON", format!("{},tcp://10.77.0.{node}:5001", nsmgr(node))),
                ("NSM_REGISTRY_URL", REGISTRY.to_owned()),
            ],
            Who::Forwarder(node) => vec![
                ("NSM_LISTEN_ON", unix(self.forwarder_socket(node))),
                ("NSM_CONNECT_TO", nsmgr(node)),
                ("NSM_TUNNEL_IP", format!("{}{node}", self.underlay)),
                ("NSM_BASE_DIR", self.journal_folder(node).display().to_string()),
            ],
            Who::Endpoint(number) => vec![
                ("NSM_LISTEN_ON", unix(self.folder.join(format!("{who}.sock")))),
                ("NSM_CIDR_PREFIX", format!("172.16.{number}.0/24")),
            ],
            Who::Client(_) => vec![("NSM_LISTEN_ON", unix(self.folder.join(format!("{who}.sock"))))],
        }
    }

    /// How a process is run. Later settings count.
    pub(super) fn recipe(&self, who: Who, settings: &[(&str, &str)]) -> Result<Recipe> {
        let program = self.program_of(who);
        if !program.exists() {
            fs::hard_link(self.programs.join("nsm"), &program).context("cannot name the program")?;
        }
        let common = [
            ("NSM_NAME", who.to_string()),
            ("NSM_LOG_LEVEL", std::env::var("NSM_LOG_LEVEL").unwrap_or_else(|_| "debug".to_owned())),
            ("NSM_METRICS_LISTEN_ON", format!("unix://{}", self.metrics_socket(who).display())),
            ("NSM_MAX_TOKEN_LIFETIME", format!("{}s", self.life.as_secs())),
            ("SPIFFE_ENDPOINT_SOCKET", format!("unix://{}", self.workload_api().display())),
        ];
        let own = common.into_iter().chain(self.settings(who));
        let own = own.map(|(name, value)| (name.to_owned(), value));
        let given = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Ok(Recipe {
            name: who.to_string(),
            netns: self.place(who)?,
            program,
            arguments: Self::arguments(who).iter().map(ToString::to_string).collect(),
            environment: own.chain(self.everywhere.iter().cloned()).chain(given).collect(),
            log: self.folder.join(format!("{who}.log")),
        })
    }

    /// The environment a process of the mesh has, to run `nsm health` in.
    pub fn environment(&self, who: Who) -> Result<Vec<(String, String)>> {
        Ok(self.recipe(who, &[])?.environment)
    }
}

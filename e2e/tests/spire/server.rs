//! SPIRE's server and agent, beside a mesh of ours.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use nsm_e2e::{
    mesh::{Mesh, START, Signal, Who},
    netns::Netns,
    process::{Process, Recipe},
    wait::{self, until, until_true},
};
use serde_json::{Value, json};

use crate::configuration::{self, DOMAIN};

/// Life of SVIDs, in seconds. SPIRE dates them back by ten and renews at half: every eight or so.
pub(crate) const SVID_LIFE: u32 = 24;

/// Lines of its log that a failed test shows.
const TAIL: usize = 25;

/// See the module.
pub(crate) struct Spire {
    administrator: Administrator,
    /// ID of the agent: parent of all entries.
    node: String,
    server: Process,
    agent: Process,
    // Ends after the processes.
    folder: Folder,
}

/// Whoever may talk to the server's own socket.
struct Administrator {
    program: PathBuf,
    socket: PathBuf,
}

/// Configuration, database, keys, sockets and logs.
struct Folder(PathBuf);

/// Whether a test may run; says in one line why not.
pub(crate) fn may_run() -> bool {
    let built = std::env::var_os("NSM_SPIRE_BIN").is_some();
    if !built {
        // Past the capture of output, which shows that of failed tests only.
        let _ = writeln!(std::io::stderr(), "SKIPPED: needs SPIRE; `make test TIER=spire` builds it");
    }
    built && wait::may_run()
}

// === impl Administrator ===

impl Administrator {
    /// What a command prints.
    fn try_ask(&self, arguments: &[&str]) -> Result<String, String> {
        let command = [&["server"], arguments, &["-socketPath", self.socket.to_str().unwrap()]].concat();
        let output = Command::new(&self.program).args(command).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
    }

    fn ask(&self, arguments: &[&str]) -> String {
        self.try_ask(arguments).unwrap_or_else(|error| panic!("spire server {arguments:?}: {error}"))
    }

    fn ask_json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.ask(&[arguments, &["-output", "json"]].concat())).unwrap()
    }
}

// === impl Folder ===

impl Folder {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(1);
        // The harness removes such folders of tests that were killed.
        let name = format!("nsm-e2e-{}-spire-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

// === impl Spire ===

impl Spire {
    /// Starts both for a mesh that was prepared; who is to be known is added with [`Self::knows`].
    pub(crate) fn start(mesh: &Mesh) -> Self {
        let program = PathBuf::from(std::env::var_os("NSM_SPIRE_BIN").unwrap());
        let folder = Folder::new();
        let path: &Path = &folder.0;
        let netns = Netns::new("spire").unwrap();
        let run = |role: &str, configuration: String| {
            let file = path.join(format!("{role}.conf"));
            fs::write(&file, configuration).unwrap();
            let recipe = Recipe {
                name: format!("SPIRE's {role}"),
                netns: netns.clone(),
                program: program.clone(),
                arguments: [role, "run", "-config", file.to_str().unwrap()].map(str::to_owned).into(),
                environment: Vec::new(),
                log: path.join(format!("{role}.log")),
            };
            Process::start(recipe).unwrap()
        };
        let administrator =
            Administrator { program: program.clone(), socket: configuration::server_socket(path) };
        let server = run("server", configuration::server(path));
        let healthy =
            until("SPIRE's server is healthy", START, || administrator.try_ask(&["healthcheck"]).ok());
        healthy.unwrap_or_else(|error| panic!("{error}\n{}", server.log_tail(TAIL)));
        let token = administrator.ask_json(&["token", "generate"]);
        let token = token["value"].as_str().unwrap();
        fs::write(path.join("bundle.pem"), administrator.ask(&["bundle", "show"])).unwrap();
        let agent = run("agent", configuration::agent(path, &mesh.workload_api(), token));
        let listening = until_true("SPIRE's agent serves", START, || mesh.workload_api().exists());
        listening.unwrap_or_else(|error| panic!("{error}\n{}", agent.log_tail(TAIL)));
        let node = format!("spiffe://{DOMAIN}/spire/agent/join_token/{token}");
        Self { administrator, node, server, agent, folder }
    }

    /// Makes an entry for each process: who runs its program has this ID.
    pub(crate) fn knows(&self, mesh: &Mesh, whom: &[(Who, String)]) {
        let entry = |(who, id): &(Who, String)| {
            json!({
                "parent_id": self.node,
                "spiffe_id": id,
                "selectors": [{"type": "unix", "value": format!("path:{}", mesh.program_of(*who).display())}],
                "x509_svid_ttl": SVID_LIFE,
            })
        };
        let entries: Vec<_> = whom.iter().map(entry).collect();
        let file = self.folder.0.join("entries.json");
        fs::write(&file, json!({ "entries": entries }).to_string()).unwrap();
        self.administrator.ask(&["entry", "create", "-data", file.to_str().unwrap()]);
    }

    /// Replaces the CA as after the theft of its key: a new one signs, and once nobody has an SVID of
    /// the old one it is trusted no more. `spread` waits until each process has heard of a change.
    pub(crate) fn replace_authority(&self, spread: impl Fn(&dyn Fn())) {
        let authority = |what: &str, id: &str| {
            self.administrator.ask(&["localauthority", "x509", what, "-authorityID", id]);
        };
        let id = |value: &Value| value["authority_id"].as_str().unwrap().to_owned();
        let ask = |what: &str| self.administrator.ask_json(&["localauthority", "x509", what]);
        let old = id(&ask("show")["active"]);
        spread(&|| drop(ask("prepare")));
        let new = id(&ask("show")["prepared"]);
        spread(&|| {
            authority("activate", &new);
            authority("taint", &old);
        });
        spread(&|| authority("revoke", &old));
    }

    /// Kills the agent, and starts it again.
    pub(crate) fn restart_agent(&mut self) {
        self.agent.signal(Signal::SIGKILL).unwrap();
        self.agent.ended().unwrap();
        self.agent.start_again().unwrap();
    }
}

impl Drop for Spire {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for (role, process) in [("server", &self.server), ("agent", &self.agent)] {
                eprintln!("--- SPIRE's {role}, its last words\n{}", process.log_tail(TAIL));
            }
        }
    }
}

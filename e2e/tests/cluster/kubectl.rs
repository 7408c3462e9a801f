//! kubectl and the API server's audit log, as a user has them.

use std::{
    env, fs,
    path::PathBuf,
    process::{Command, Output},
    time::{Duration, Instant},
};

use nsm_e2e::wait::until_every;
use serde_json::Value;

/// Time between two looks at a condition.
const LOOK: Duration = Duration::from_millis(200);

/// Waits for a condition, and fails with its name when it does not come.
pub fn eventually(what: &str, limit: Duration, holds: impl Fn() -> bool) {
    until_every(LOOK, what, limit, || holds().then_some(())).unwrap();
}

/// kubectl against the cluster of this tier.
pub struct Kubectl {
    driver: PathBuf,
    root: PathBuf,
}

impl Kubectl {
    pub fn new() -> Self {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
        let driver =
            env::var_os("NSM_CLUSTER_BIN").map_or(root.join("e2e/cluster/bin/cluster"), PathBuf::from);
        assert!(driver.exists(), "{} is missing: run `make test TIER=cluster`", driver.display());
        assert!(env::var_os("NSM_CLUSTER_NAME").is_some(), "no cluster: run `make test TIER=cluster`");
        Self { driver, root }
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.driver);
        command.arg("kubectl").args(arguments).current_dir(&self.root);
        command
    }

    fn output(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("the cluster driver runs")
    }

    /// Standard output; fails with standard error when kubectl does.
    pub fn text(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "kubectl {}: {error}", arguments.join(" "));
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn run(&self, arguments: &[&str]) {
        self.text(arguments);
    }

    pub fn get(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.text(arguments)).unwrap()
    }

    /// A field by JSONPath; empty when the object or the field is not there.
    pub fn field(&self, namespace: &str, kind: &str, name: &str, path: &str) -> String {
        let path = format!("jsonpath={{{path}}}");
        let output = self.output(&["-n", namespace, "get", kind, name, "-o", &path, "--ignore-not-found"]);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    pub fn is_gone(&self, arguments: &[&str]) -> bool {
        let output = self.output(arguments);
        !output.status.success() && String::from_utf8_lossy(&output.stderr).contains("NotFound")
    }

    pub fn apply(&self, file: &str) {
        self.run(&["apply", "--server-side", "--force-conflicts", "-f", file]);
    }
}

/// One request as the API server logged it.
#[derive(Debug)]
pub struct Request {
    pub verb: String,
    #[allow(dead_code)] // shown when a test fails
    pub uri: String,
}

impl Request {
    pub fn is_write(&self) -> bool {
        // Events and leases tell of the operator itself, not of what it keeps.
        let about_itself = self.uri.contains("/events") || self.uri.contains("/leases");
        !["get", "list", "watch"].contains(&self.verb.as_str()) && !about_itself
    }
}

/// The requests of one user.
pub struct Audit {
    user: String,
    log: PathBuf,
}

impl Audit {
    pub fn of(user: &str) -> Self {
        let log = env::var_os("NSM_AUDIT_LOG").expect("no audit log: run `make test TIER=cluster`");
        Self { user: user.to_owned(), log: log.into() }
    }

    fn all(&self) -> Vec<Request> {
        let text = fs::read_to_string(&self.log).expect("the audit log is readable");
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines
            .filter(|line| line["user"]["username"] == self.user.as_str())
            // Whoever leads renews its Lease for ever.
            .filter(|line| line["objectRef"]["resource"] != "leases")
            // A watch is logged at its opening and at its end, all else at its end alone.
            .filter(|line| (line["verb"] == "watch") == (line["stage"] == "ResponseStarted"))
            .map(|line| Request {
                verb: line["verb"].as_str().unwrap_or_default().to_owned(),
                uri: line["requestURI"].as_str().unwrap_or_default().to_owned(),
            })
            .collect()
    }

    pub fn len(&self) -> usize {
        self.all().len()
    }

    pub fn since(&self, mark: usize) -> Vec<Request> {
        self.all().into_iter().skip(mark).collect()
    }

    /// Waits until the user has asked nothing for this long: the only sign of having nothing to do.
    pub fn quiet_for(&self, quiet: Duration, limit: Duration) {
        let (mut seen, mut since) = (self.len(), Instant::now());
        until_every(LOOK, &format!("{} asks the API server for nothing", self.user), limit, || {
            let now = self.len();
            if now != seen {
                (seen, since) = (now, Instant::now());
            }
            (since.elapsed() >= quiet).then_some(())
        })
        .unwrap();
    }
}

//! A control plane of a test's own.

use std::{
    ffi::OsStr,
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result, bail};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};

use nix::unistd::Pid;

use super::{Audit, programs};

/// Waits for the end of its standard input, which comes when the test closes it or dies in whatever
/// way, then removes the control plane and its folder.
const GUARD: &str = r#"cat > /dev/null; "$1" --name "$2" down 2> "$3/down.log" && rm -rf "$3""#;

/// etcd and an API server on the loopback, with a folder for their state. Both are gone when this
/// is dropped, and also when the test is killed or keeps it in a static.
#[derive(Debug)]
pub struct ControlPlane {
    name: String,
    folder: PathBuf,
    driver: PathBuf,
    guard: Child,
}

impl ControlPlane {
    /// Starts an API server without controllers: nothing is there that a test did not make.
    pub fn start() -> Result<Self> {
        Self::up(&[])
    }

    /// Starts an API server with Kubernetes' controllers, garbage collection among them.
    pub fn start_with_controllers() -> Result<Self> {
        Self::up(&["--with-controller-manager"])
    }

    fn up(options: &[&str]) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let driver = programs::driver()?;
        let name = format!("cp-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = tempfile::Builder::new().prefix("nsm-e2e-").tempdir()?.keep();
        let guard = Command::new("sh")
            .args(["-c", GUARD, "guard"])
            .args([driver.as_os_str(), OsStr::new(&name), folder.as_os_str()])
            .env("NSM_CLUSTER_STATE", folder.join("state"))
            // Ctrl-C at a terminal must not end the guard before its work is done.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("start the guard of the control plane")?;
        let plane = Self { name, folder, driver, guard };
        let audit = plane.audit_log();
        let log: [&OsStr; 2] = ["--audit-log".as_ref(), audit.as_os_str()];
        let up = ["up", "--control-plane-only"].iter().chain(options).map(OsStr::new).chain(log);
        plane.cluster(up)?;
        Ok(plane)
    }

    /// A client with all rights. It belongs to the test's own runtime.
    pub async fn client(&self) -> Result<Client> {
        client(&self.kubeconfig()).await
    }

    /// The record of all requests.
    pub async fn audit(&self) -> Result<Audit> {
        Ok(Audit::new(self.audit_log(), self.client().await?))
    }

    /// What kubectl prints, with all rights.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.cluster(["kubectl"].iter().chain(arguments))
    }

    /// Helm with these arguments, with all rights; it keeps nothing of its own outside of this folder.
    pub fn helm(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = Command::new(programs::helm()?);
        command.args(arguments).env("KUBECONFIG", self.kubeconfig()).stdin(Stdio::null());
        for folder in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
            command.env(folder, self.folder.join("helm"));
        }
        Ok(command)
    }

    /// Kills the API server, starts it again and waits until it is ready.
    pub fn restart_api(&self) -> Result<()> {
        self.cluster(["api", "restart"]).map(|_| ())
    }

    /// The process of etcd, which holds what the API server knows.
    pub fn etcd(&self) -> Result<Pid> {
        let folder = self.folder.as_os_str().as_encoded_bytes();
        for entry in fs::read_dir("/proc")?.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let has = |part: &[u8]| line.windows(part.len()).any(|window| window == part);
            if has(b"--data-dir") && has(folder) {
                return Ok(Pid::from_raw(pid));
            }
        }
        bail!("no etcd runs for {}", self.name)
    }

    /// A place for files of the test, gone with the control plane.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn kubeconfig(&self) -> PathBuf {
        self.state().join(&self.name).join("kubeconfig")
    }

    fn state(&self) -> PathBuf {
        self.folder.join("state")
    }

    fn audit_log(&self) -> PathBuf {
        self.folder.join("audit.log")
    }

    /// Runs a command of the driver.
    fn cluster<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Result<String> {
        let mut command = Command::new(&self.driver);
        command.args(["--name", &self.name]).args(arguments);
        command.env("NSM_CLUSTER_STATE", self.state()).stdin(Stdio::null());
        let output = command.output().with_context(|| format!("start {}", self.driver.display()))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("{command:?} failed, {}: {said}", output.status);
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        match self.guard.wait() {
            Ok(status) if status.success() => {}
            ended => eprintln!("{} was not removed ({ended:?}): {}", self.name, self.folder.display()),
        }
    }
}

/// A client as this kubeconfig says.
pub(super) async fn client(kubeconfig: &Path) -> Result<Client> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

//! The operator's real process.

use std::{
    fs::{self, OpenOptions},
    io,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
};

use anyhow::{Context, Result, anyhow, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{Account, ControlPlane, eventually, programs};

/// Lines of its log that are shown when a test fails.
const TAIL: usize = 60;

/// A running operator. It ends with the test, however that ends; when the test fails, the last of
/// what it said is shown.
#[derive(Debug)]
pub struct Operator {
    child: Child,
    log: PathBuf,
}

impl Operator {
    /// Image of the mesh that operators of tests are installed with.
    pub const MESH_IMAGE: &str = "nsm.local/nsm:dev";

    /// Starts the operator of the pod with this name, with the rights of the account.
    pub fn start(plane: &ControlPlane, account: &Account, pod: &str) -> Result<Self> {
        Self::start_with(plane, account, pod, &[])
    }

    /// The same with more variables.
    pub fn start_with(
        plane: &ControlPlane,
        account: &Account,
        pod: &str,
        variables: &[(&str, &str)],
    ) -> Result<Self> {
        let program = programs::operator()?;
        let log = plane.folder().join(format!("{pod}.log"));
        // Alone the signal at the parent's death tells it that the test was killed.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program).arg("run");
        command.env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        command.env("KUBECONFIG", account.kubeconfig()).env("NSM_MESH_IMAGE", Self::MESH_IMAGE);
        command.env("POD_NAME", pod).env("NSM_OPERATOR_LISTEN_ON", "127.0.0.1:0");
        // Nothing of a test takes long.
        command.env("NSM_NODE_TIMEOUT", "15s");
        command.env("NSM_LOG_LEVEL", "info,nsm_operator=debug");
        command.envs(variables.iter().copied());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let child = spawn(command, &log).context("start the operator")?;
        Ok(Self { child, log })
    }

    /// Removes the mesh by the operator's own command, with all rights.
    pub fn remove(plane: &ControlPlane) -> Result<()> {
        let mut command = Command::new(programs::operator()?);
        command.arg("remove").env("KUBECONFIG", plane.kubeconfig()).stdin(Stdio::null());
        let output = command.output().context("start the command")?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// Runs the operator's command that tells what would change, with all rights: its exit code, what it prints,
    /// and what it says.
    pub fn plan(plane: &ControlPlane, arguments: &[&str], config: &str) -> Result<(i32, String, String)> {
        let file = plane.folder().join("plan.yaml");
        fs::write(&file, config)?;
        let mut command = Command::new(programs::operator()?);
        command.arg("plan").arg("--filename").arg(&file).args(arguments);
        command.env("KUBECONFIG", plane.kubeconfig()).stdin(Stdio::null());
        let output = command.output().context("start the command")?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let code = output.status.code().context("the command was killed")?;
        Ok((code, text(&output.stdout), text(&output.stderr)))
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(i32::try_from(self.child.id())?), signal)?)
    }

    /// Asks it to end, and waits until it has.
    pub async fn stop(mut self) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        eventually("end of the operator", async || {
            self.child.try_wait()?.ok_or_else(|| anyhow!("it runs on"))
        })
        .await
    }

    /// Memory that it holds now, in KiB.
    pub fn resident(&self) -> Result<u64> {
        self.memory("VmRSS:")
    }

    /// Most memory that it ever held, in KiB.
    pub fn peak(&self) -> Result<u64> {
        self.memory("VmHWM:")
    }

    fn memory(&self, name: &str) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(name)).context("no such line")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }

    /// The program.
    pub fn program() -> Result<PathBuf> {
        programs::operator()
    }

    /// Fails when it ended by itself.
    pub fn ensure_running(&mut self) -> Result<()> {
        let ended = self.child.try_wait()?;
        ensure!(ended.is_none(), "the operator ended by itself: {ended:?}");
        Ok(())
    }

    /// What it and those before it under its name on this control plane said.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            let log = self.log();
            let lines: Vec<_> = log.lines().collect();
            eprintln!(
                "last lines of the operator:\n{}",
                lines[lines.len().saturating_sub(TAIL)..].join("\n")
            );
        }
    }
}

/// Starts a process and adds its standard error to a file. The kernel ends it with the thread that
/// started it, so this one stays until there is nothing left to read.
fn spawn(mut command: Command, log: &Path) -> Result<Child> {
    let mut log = OpenOptions::new().create(true).append(true).open(log)?;
    let (sender, child) = mpsc::channel();
    thread::spawn(move || {
        let mut spawned = command.spawn();
        let output = spawned.as_mut().ok().and_then(|child| child.stderr.take());
        let _ = sender.send(spawned);
        if let Some(mut output) = output {
            let _ = io::copy(&mut output, &mut log);
        }
    });
    Ok(child.recv()??)
}

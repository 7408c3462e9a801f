//! Processes that a test starts, kills and starts again. They end with the test, however it ends.

use std::{
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        LazyLock, Mutex,
        mpsc::{Sender, channel},
    },
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{netns::Netns, wait};

/// Longest time a process may take to end when it is asked to.
const END: Duration = Duration::from_secs(15);

/// What is run, and how.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// For people.
    pub name: String,
    /// Where.
    pub netns: Netns,
    /// What.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// All of its environment but for the search path.
    pub environment: Vec<(String, String)>,
    /// Where its output is added.
    pub log: PathBuf,
}

/// A process made by a recipe, and after it the next one by the same recipe.
#[derive(Debug)]
pub struct Process {
    recipe: Recipe,
    child: Option<Child>,
}

type Job = (Command, Sender<io::Result<Child>>);

/// Starts a process that the kernel kills when this process ends; its output goes to a file or to
/// pipes. Of the environment it has the search path and what the command sets.
///
/// The kernel looks at the thread that started it, so one thread starts all and never ends.
pub fn spawn(command: &Command, log: Option<File>) -> io::Result<Child> {
    static STARTER: LazyLock<Mutex<Sender<Job>>> = LazyLock::new(|| {
        let (jobs, to_do) = channel::<Job>();
        std::thread::spawn(move || {
            for (mut command, answer) in to_do {
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(jobs)
    });
    let gone = || io::Error::other("the thread that starts processes is gone");
    let mut bound = Command::new("setpriv");
    bound.args(["--pdeathsig", "KILL", "--"]).arg(command.get_program()).args(command.get_args());
    bound.env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
    bound.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    bound.stdin(Stdio::null());
    match log {
        Some(log) => bound.stdout(log.try_clone()?).stderr(log),
        None => bound.stdout(Stdio::piped()).stderr(Stdio::null()),
    };
    let (answer, answered) = channel();
    STARTER.lock().map_err(|_| gone())?.send((bound, answer)).map_err(|_| gone())?;
    answered.recv().map_err(|_| gone())?
}

// === impl Process ===

impl Process {
    /// Starts the first one.
    pub fn start(recipe: Recipe) -> Result<Self> {
        let mut process = Self { recipe, child: None };
        process.start_again()?;
        Ok(process)
    }

    /// Starts another one like the last, which has ended.
    pub fn start_again(&mut self) -> Result<()> {
        let Recipe { name, netns, program, arguments, environment, log } = &self.recipe;
        if self.child.is_some() {
            bail!("{name} runs already");
        }
        let log = OpenOptions::new().create(true).append(true).open(log);
        let log = log.with_context(|| format!("cannot open the log of {name}"))?;
        let mut command = netns.command(program);
        command.args(arguments).envs(environment.iter().map(|(name, value)| (name, value)));
        let child = spawn(&command, Some(log)).with_context(|| format!("cannot start {name}"))?;
        self.child = Some(child);
        Ok(())
    }

    /// From the next start on it is run by these words, which come before the program.
    pub fn run_by(&mut self, words: &[String]) {
        let Some((first, rest)) = words.split_first() else { return };
        let recipe = &mut self.recipe;
        let program = std::mem::replace(&mut recipe.program, first.into());
        let program = [program.display().to_string()];
        recipe.arguments = [rest, &program, &recipe.arguments].concat();
    }

    /// Its process id, while it runs.
    pub fn id(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Sends it a signal and does not wait.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let id = self.id().ok_or_else(|| anyhow!("{} does not run", self.recipe.name))?;
        kill(Pid::from_raw(i32::try_from(id)?), signal)?;
        Ok(())
    }

    /// Waits for its end.
    pub fn ended(&mut self) -> Result<ExitStatus> {
        let name = &self.recipe.name;
        let child = self.child.as_mut().ok_or_else(|| anyhow!("{name} does not run"))?;
        let status = wait::until(&format!("the end of {name}"), END, || child.try_wait().transpose())??;
        self.child = None;
        Ok(status)
    }

    /// Whether it ended by itself.
    pub fn is_over(&mut self) -> bool {
        self.child.as_mut().is_none_or(|child| matches!(child.try_wait(), Ok(Some(_)) | Err(_)))
    }

    /// All it and those before it have said.
    pub fn log(&self) -> String {
        fs::read(&self.recipe.log).map(|text| String::from_utf8_lossy(&text).into_owned()).unwrap_or_default()
    }

    /// The last lines of [`Process::log`].
    pub fn log_tail(&self, lines: usize) -> String {
        let log = self.log();
        let all: Vec<_> = log.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Ids of the processes whose program lies in this folder.
pub fn running_from(folder: &Path) -> Vec<u32> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|id: &u32| fs::read_link(format!("/proc/{id}/exe")).is_ok_and(|exe| exe.starts_with(folder)))
        .collect()
}

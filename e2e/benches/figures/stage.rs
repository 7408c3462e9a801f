//! What all figures stand on: an identity source, processes, and channels to them.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nsm_components::{
    api::peer::Address,
    settings::Target,
    transport::{Channel, Channels, Source},
};
use nsm_e2e::{
    netns::Netns,
    process::{Process, Recipe},
    wait::eventually,
};
use tokio_util::sync::CancellationToken;

/// Life of tokens, as users have it.
pub(crate) const LIFE: Duration = Duration::from_mins(10);

/// Longest wait for anything to come up.
pub(crate) const START: Duration = Duration::from_secs(20);

/// Pause between two dials: short, for it is part of how long a start takes.
const DIAL: Duration = Duration::from_millis(2);

/// Where the registry listens.
pub(crate) const REGISTRY: &str = "127.0.0.1:5002";

/// See the module. Dropping it ends everything.
pub(crate) struct Stage {
    folder: tempfile::TempDir,
    netns: Netns,
    nsm: PathBuf,
    source: Source,
    _identity: Process,
}

impl Stage {
    /// Starts the identity source and gets an identity from it.
    pub(crate) async fn start() -> Result<Self> {
        let nsm = std::env::var_os("NSM_BIN").context("NSM_BIN names no program: use `make bench`")?;
        read_anew(Path::new(&nsm)).context("the program of NSM_BIN")?;
        let folder = tempfile::tempdir()?;
        let (netns, nsm) = (Netns::own()?, PathBuf::from(nsm));
        let identity = Process::start(Recipe {
            name: "identity".into(),
            netns: netns.clone(),
            program: nsm.clone(),
            arguments: vec!["identity".into(), "standalone".into()],
            environment: vec![
                ("NSM_LISTEN_ON".into(), format!("unix://{}", folder.path().join("identity.sock").display())),
                ("NSM_BASE_DIR".into(), folder.path().join("identity").display().to_string()),
            ],
            log: folder.path().join("identity.log"),
        })?;
        let source = Source::start(&Target::Unix(folder.path().join("identity.sock")));
        source.wait(START, &CancellationToken::new()).await?;
        Ok(Self { folder, netns, nsm, source, _identity: identity })
    }

    pub(crate) fn socket(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.sock"))
    }

    fn recipe(&self, name: &str, program: PathBuf, arguments: &[&str], settings: &[(&str, &str)]) -> Recipe {
        let identity = format!("unix://{}", self.socket("identity").display());
        let common = [
            ("NSM_NAME", name),
            ("NSM_LOG_LEVEL", "INFO"),
            ("NSM_MAX_TOKEN_LIFETIME", "10m"),
            // What this program plays is no process of the mesh by its name.
            ("NSM_TRUSTED_IDS", "*"),
            ("SPIFFE_ENDPOINT_SOCKET", &identity),
        ];
        let environment = common.iter().chain(settings);
        Recipe {
            name: name.to_owned(),
            netns: self.netns.clone(),
            program,
            arguments: arguments.iter().map(ToString::to_string).collect(),
            environment: environment.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            log: self.folder.path().join(format!("{name}.log")),
        }
    }

    /// Starts a process of the mesh.
    pub(crate) fn nsm(&self, name: &str, process: &str, settings: &[(&str, &str)]) -> Result<Process> {
        Process::start(self.recipe(name, self.nsm.clone(), &[process], settings))
    }

    /// Starts this program as one of the bare processes.
    pub(crate) fn bare(&self, name: &str, arguments: &[&str]) -> Result<Process> {
        Process::start(self.recipe(name, std::env::current_exe()?, arguments, &[]))
    }

    /// A registry that answers.
    pub(crate) async fn registry(&self, name: &str, address: &str) -> Result<Process> {
        let process = self.nsm(name, "registry", &[("NSM_LISTEN_ON", &format!("tcp://{address}"))])?;
        self.channel(&Address::Tcp(address.into())).await?;
        Ok(process)
    }

    /// An nsmgr that answers, above the registry at [`REGISTRY`].
    pub(crate) async fn nsmgr(&self) -> Result<Process> {
        let socket = self.socket("nsmgr");
        let listen_on = format!("unix://{},tcp://127.0.0.1:5001", socket.display());
        let settings = [("NSM_LISTEN_ON", &*listen_on), ("NSM_REGISTRY_URL", &format!("tcp://{REGISTRY}"))];
        let process = self.nsm("nsmgr", "nsmgr", &settings)?;
        self.channel(&Address::Unix(socket)).await?;
        Ok(process)
    }

    /// Channels that share none of their connections with others.
    pub(crate) fn channels(&self) -> Channels {
        Channels::new(self.source.clone(), START)
    }

    /// A channel to a process as soon as it answers.
    pub(crate) async fn channel(&self, address: &Address) -> Result<Channel> {
        connect(&self.channels(), address).await
    }

    /// What the processes have said, for a failure.
    pub(crate) fn logs(&self) -> String {
        let files = fs::read_dir(self.folder.path()).into_iter().flatten().flatten();
        let logs = files.filter(|file| file.path().extension().is_some_and(|end| end == "log"));
        let tail = |text: &str| text.lines().rev().take(5).map(str::to_owned).collect::<Vec<_>>().join("\n");
        let read = |file: fs::DirEntry| fs::read_to_string(file.path()).unwrap_or_default();
        let said = logs.map(|file| (file.file_name(), tail(&read(file))));
        said.map(|(name, tail)| format!("{}:\n{tail}", name.display())).collect::<Vec<_>>().join("\n")
    }
}

/// Lets the program be read from the disk as on a node. One that was just built still lies in memory as
/// it was written, of which the kernel shows more to a process than it asks for.
fn read_anew(program: &Path) -> Result<()> {
    let file = fs::File::open(program)?;
    file.sync_all()?;
    Ok(posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?)
}

/// Dials until somebody answers.
pub(crate) async fn connect(channels: &Channels, address: &Address) -> Result<Channel> {
    eventually(DIAL, &format!("{address} answers"), START, async || channels.get(address).await).await
}

/// Memory of a process in MiB (proc(5), `VmRSS`).
pub(crate) fn resident(process: &Process) -> Result<f64> {
    let id = process.id().context("the process is gone")?;
    let status = fs::read_to_string(format!("/proc/{id}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: f64 =
        line.and_then(|line| line.trim().strip_suffix("kB")).context("no VmRSS")?.trim().parse()?;
    Ok(kib / 1024.0)
}

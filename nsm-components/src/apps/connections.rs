//! `nsm connections`: what runs on this node, by its nsmgr.

mod listing;
mod table;
mod text;

use std::{
    io::{self, IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use clap::{Args, ValueEnum};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Streaming};

use self::{listing::Listing, table::Style};
use crate::{
    api::{
        node::{
            DrainRequest, NodeConnections, Process, WatchConnectionsRequest,
            node_status_client::NodeStatusClient,
        },
        peer::Address,
    },
    chain::Backoff,
    settings::{Connections, Target},
    transport::{self, Channels, MAX_MESSAGE, Source},
};

/// Largest message that is read, in bytes: some tens of connections, each as large as a Request may be.
const LARGEST: usize = 64 * MAX_MESSAGE;

/// Pauses between tries to reach an nsmgr that went away while it was watched.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(3));

/// How long an nsmgr may take to ask its forwarders.
const PATIENCE: Duration = Duration::from_secs(10);

/// What clears a terminal and begins at its top (ECMA-48: ED, CUP).
const CLEAR: &str = "\x1b[2J\x1b[H";

/// What the command line says.
#[derive(Args, Clone, Copy, Debug)]
pub struct Options {
    /// table, wide (with ids, paths and both interfaces) or json.
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
    /// Prints it again whenever something changes, until it is interrupted.
    #[arg(short, long)]
    watch: bool,
    /// How long to wait for an identity and for the nsmgr.
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Wide,
    Json,
}

/// Why nothing can be shown.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is nothing where a socket should be.
    #[error("there is no {what} at {}: is it running on this host? {variable} says where to look", .socket.display())]
    Absent {
        /// What should be there.
        what: &'static str,
        /// Where.
        socket: PathBuf,
        /// The setting that says so.
        variable: &'static str,
    },
    /// No identity.
    #[error("cannot get an identity; SPIFFE_ENDPOINT_SOCKET says where to ask")]
    Identity(#[source] transport::Error),
    /// The nsmgr cannot be reached.
    #[error("cannot reach the nsmgr: is it running on this host? NSM_CONNECT_TO says where to look")]
    Unreachable(#[source] transport::Error),
    /// It says no.
    #[error("the nsmgr at {socket} refuses: {reason}")]
    Refused {
        /// Its socket.
        socket: String,
        /// What it says.
        reason: String,
    },
    /// It knows no such question.
    #[error("the nsmgr at {0} does not know what was asked of it: it is an older one, or not this project's")]
    Unknown(String),
    /// The output cannot be written.
    #[error("cannot print")]
    Print(#[source] io::Error),
}

/// Prints what runs here, once or until the stop.
pub async fn run(options: Options, settings: Connections, stop: CancellationToken) -> Result<(), Error> {
    let showing = async {
        let nsmgr = Nsmgr::reach(&settings, options.timeout).await?;
        let mut screen = Screen::new(options);
        let mut answers = nsmgr.ask().await?;
        loop {
            match nsmgr.next(&mut answers).await {
                Ok(told) => screen.show(&Listing::new(told))?,
                // It stops, or was started anew.
                Err(error) if options.watch => {
                    eprintln!("nsm: {error}; asking again");
                    answers = nsmgr.ask_until_it_answers().await?;
                    continue;
                }
                Err(error) => return Err(error),
            }
            if !options.watch {
                return Ok(());
            }
        }
    };
    let shown = tokio::select! {
        shown = showing => shown,
        () = stop.cancelled() => Ok(()),
    };
    match shown {
        // Whoever reads has seen enough.
        Err(Error::Print(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        shown => shown,
    }
}

/// The nsmgr of this node.
pub(super) struct Nsmgr {
    channels: Channels,
    address: Address,
    limit: Duration,
}

/// Where it is printed, and what is there.
struct Screen {
    options: Options,
    style: Style,
    clears: bool,
    printed: bool,
}

// === impl Nsmgr ===

impl Nsmgr {
    /// Gets an identity to ask it with. What is not there is named at once.
    pub(super) async fn reach(settings: &Connections, limit: Duration) -> Result<Self, Error> {
        let (agent, nsmgr) = (path(&settings.workload_api), path(&settings.connect_to));
        let absent = |what, socket: &Path, variable| Error::Absent { what, socket: socket.into(), variable };
        if !nsmgr.exists() {
            return Err(absent("nsmgr", nsmgr, "NSM_CONNECT_TO"));
        }
        if !agent.exists() {
            return Err(absent("SPIFFE Workload API", agent, "SPIFFE_ENDPOINT_SOCKET"));
        }
        let source = Source::start(&settings.workload_api);
        source.wait(limit, &CancellationToken::new()).await.map_err(Error::Identity)?;
        Ok(Self {
            channels: Channels::new(source, limit),
            address: settings.connect_to.clone().into(),
            limit,
        })
    }

    /// Has the node take no new connections, or take them again; answers how far its processes are.
    pub(super) async fn drain(&self, what: DrainRequest) -> Result<Vec<Process>, Error> {
        let channel = self.channels.get(&self.address).await.map_err(Error::Unreachable)?;
        let mut client = NodeStatusClient::new(channel.grpc).max_decoding_message_size(MAX_MESSAGE);
        let asked = tokio::time::timeout(self.limit.max(PATIENCE), client.drain(what));
        let answer = asked.await.map_err(|_| self.silent())?;
        Ok(answer.map_err(|status| self.refused(&status))?.into_inner().processes)
    }

    async fn ask(&self) -> Result<Streaming<NodeConnections>, Error> {
        let channel = self.channels.get(&self.address).await.map_err(Error::Unreachable)?;
        let mut client = NodeStatusClient::new(channel.grpc).max_decoding_message_size(LARGEST);
        let asked = tokio::time::timeout(self.limit, client.watch_connections(WatchConnectionsRequest {}));
        let answer = asked.await.map_err(|_| self.silent())?;
        Ok(answer.map_err(|status| self.refused(&status))?.into_inner())
    }

    /// Ends with what no later try will change.
    async fn ask_until_it_answers(&self) -> Result<Streaming<NodeConnections>, Error> {
        let mut pauses = Backoff::new(RETRY.0, RETRY.1);
        loop {
            tokio::time::sleep(pauses.pause()).await;
            match self.ask().await {
                Err(Error::Unreachable(_) | Error::Refused { .. }) => {}
                answer => return answer,
            }
        }
    }

    async fn next(&self, answers: &mut Streaming<NodeConnections>) -> Result<NodeConnections, Error> {
        let mut all = NodeConnections::default();
        loop {
            let part = answers.message().await.map_err(|status| self.refused(&status))?;
            let part = part.ok_or_else(|| self.says("it stops"))?;
            let NodeConnections { nsmgr, connections, more, processes } = part;
            all.nsmgr = nsmgr;
            all.connections.extend(connections);
            all.processes.extend(processes);
            if !more {
                return Ok(all);
            }
        }
    }

    fn says(&self, reason: &str) -> Error {
        Error::Refused { socket: self.address.to_string(), reason: reason.to_owned() }
    }

    fn silent(&self) -> Error {
        self.says("no answer in time")
    }

    fn refused(&self, status: &tonic::Status) -> Error {
        match status.code() {
            Code::Unimplemented => Error::Unknown(self.address.to_string()),
            _ => self.says(status.message()),
        }
    }
}

/// Of a unix socket: the settings allow no other here.
fn path(target: &Target) -> &Path {
    match target {
        Target::Unix(path) => path,
        Target::Tcp(address) => Path::new(address),
    }
}

// === impl Screen ===

impl Screen {
    fn new(options: Options) -> Self {
        let terminal = io::stdout().is_terminal();
        let plain = std::env::var_os("NO_COLOR").is_some_and(|set| !set.is_empty());
        let style = Style { wide: options.output == Output::Wide, coloured: terminal && !plain };
        let clears = terminal && options.watch && options.output != Output::Json;
        Self { options, style, clears, printed: false }
    }

    fn show(&mut self, listing: &Listing) -> Result<(), Error> {
        let mut text = match self.options.output {
            // One document a line, where there are several.
            Output::Json if self.options.watch => listing.json_line(),
            Output::Json => listing.json(),
            Output::Table | Output::Wide => {
                let above = table::processes(listing, self.style);
                above + &table::table(listing, SystemTime::now(), self.style)
            }
        };
        if self.clears {
            text.insert_str(0, CLEAR);
        } else if self.printed && self.options.output != Output::Json {
            text.insert(0, '\n');
        }
        self.printed = true;
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Error::Print)?;
        if listing.connections.is_empty() {
            eprintln!("nsm: {} has no connections", listing.nsmgr);
        }
        Ok(())
    }
}

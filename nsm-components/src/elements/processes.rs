//! The processes of a node as its nsmgr knows them: itself, and what its forwarders tell of themselves. A command
//! to drain goes to all of them.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;
use tonic::{Code, Status};
use tracing::{debug, info};

use super::{
    LocalEntries,
    drain::{Draining, Level},
    processstatus::incarnation,
};
use crate::{
    api::{
        node::{DrainRequest, Process, WatchProcessRequest, process_status_client::ProcessStatusClient},
        peer::Address,
        with_causes,
    },
    chain::{Backoff, Session},
    transport::Channels,
};

/// Pauses between tries to reach a forwarder.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// Pause before one is asked again that knows no such question.
const OTHER: Duration = Duration::from_mins(1);

/// How long a forwarder may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is said of a forwarder that knows no such question.
const MUTE: &str = "it tells nothing of itself: it is an older one, or not this project's";

/// See the module.
pub struct Processes {
    own: Process,
    draining: Draining,
    session: Arc<Session>,
    local: LocalEntries,
    forwarder_service: String,
    channels: Channels,
    /// Forwarders by name.
    known: watch::Sender<BTreeMap<String, Process>>,
}

/// A forwarder that is followed, and where it is.
struct Followed {
    address: Address,
    _task: AbortOnDropHandle<()>,
}

fn unknown(name: &str, why: String) -> Process {
    Process { name: name.to_owned(), unknown: why, ..Process::default() }
}

fn why(status: &Status) -> String {
    if status.code() == Code::Unimplemented { MUTE.to_owned() } else { status.message().to_owned() }
}

// === impl Processes ===

impl Processes {
    /// Those of the node of this nsmgr; `local` has its forwarders.
    pub fn new(
        name: &str,
        draining: Draining,
        session: Arc<Session>,
        local: LocalEntries,
        forwarder_service: &str,
        channels: Channels,
    ) -> Self {
        let (known, forwarder_service) = (watch::Sender::default(), forwarder_service.to_owned());
        Self { own: incarnation(name), draining, session, local, forwarder_service, channels, known }
    }

    /// This process first, then its forwarders by name.
    pub fn all(&self) -> Vec<Process> {
        let drain = self.draining.tell(self.session.len(), true);
        let own = Process { drain: Some(drain), ..self.own.clone() };
        let known = self.known.borrow();
        let forwarders = self.local.serving(&self.forwarder_service).into_iter();
        let told = |name: &str| known.get(name).cloned();
        let forwarders = forwarders.map(|(entry, _)| {
            told(&entry.name).unwrap_or_else(|| unknown(&entry.name, "not asked yet".into()))
        });
        [own].into_iter().chain(forwarders).collect()
    }

    /// Tells when something has changed that is known of forwarders.
    pub fn changes(&self) -> watch::Receiver<BTreeMap<String, Process>> {
        self.known.subscribe()
    }

    /// Has all take no new connections, or take them again: first this process, so that nothing new comes to the
    /// others. What is to be closed is closed here, along its path; forwarders close what they have beyond that.
    /// Answers how far each is: it is asked again until that is enough.
    pub async fn drain(&self, level: Level) -> Vec<Process> {
        if (self.draining.is_on(), self.draining.closes()) != (level != Level::Serve, level == Level::Close) {
            info!(?level, connections = self.session.len(), "drains by command");
        }
        self.draining.set(level);
        if level == Level::Close {
            self.session.end_all();
        }
        let level = if level == Level::Close && !self.session.is_empty() { Level::Refuse } else { level };
        let forwarders = self.local.serving(&self.forwarder_service);
        let told = forwarders.iter().map(|(entry, address)| async move {
            let told = timeout(PATIENCE, self.drain_one(address, level)).await;
            let told = told.unwrap_or_else(|_| Err("no answer in time".to_owned()));
            told.unwrap_or_else(|why| unknown(&entry.name, why))
        });
        let told = futures::future::join_all(told).await;
        self.known.send_modify(|known| {
            known.extend(told.into_iter().map(|process| (process.name.clone(), process)));
        });
        self.all()
    }

    async fn drain_one(&self, address: &Address, level: Level) -> Result<Process, String> {
        let channel = self.channels.get(address).await.map_err(|error| with_causes(&error))?;
        let answer = ProcessStatusClient::new(channel.grpc.clone()).drain(DrainRequest::from(level)).await;
        Ok(answer.map_err(|status| why(&status))?.into_inner())
    }

    /// Follows the forwarders until dropped.
    pub async fn run(self: Arc<Self>) {
        let mut changes = self.local.changes();
        let mut followed: HashMap<String, Followed> = HashMap::new();
        loop {
            let there = self.local.serving(&self.forwarder_service);
            followed.retain(|name, known| {
                there.iter().any(|(entry, address)| entry.name == *name && *address == known.address)
            });
            for (entry, address) in there {
                followed.entry(entry.name.clone()).or_insert_with(|| {
                    let follow = self.clone().follow(entry.name, address.clone());
                    Followed { address, _task: AbortOnDropHandle::new(tokio::spawn(follow)) }
                });
            }
            self.known.send_if_modified(|known| {
                let before = known.len();
                known.retain(|name, _| followed.contains_key(name));
                known.len() != before
            });
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Follows one.
    async fn follow(self: Arc<Self>, name: String, address: Address) {
        let mut pauses = Backoff::new(RETRY.0, RETRY.1);
        loop {
            let ended = self.listen(&name, &address, &mut pauses).await;
            debug!(forwarder = %name, reason = %ended.1, "tells nothing of itself now");
            self.note(&unknown(&name, ended.1));
            sleep(if ended.0 == Code::Unimplemented { OTHER } else { pauses.pause() }).await;
        }
    }

    /// Until the forwarder stops to tell; answers why.
    async fn listen(&self, name: &str, address: &Address, pauses: &mut Backoff) -> (Code, String) {
        let channel = match self.channels.get(address).await {
            Ok(channel) => channel,
            Err(error) => return (Code::Unavailable, with_causes(&error)),
        };
        let mut client = ProcessStatusClient::new(channel.grpc.clone());
        let mut told = match client.watch_process(WatchProcessRequest {}).await {
            Ok(told) => told.into_inner(),
            Err(status) => return (status.code(), why(&status)),
        };
        pauses.reset();
        loop {
            match told.message().await {
                Ok(Some(process)) => self.note(&Process { name: name.to_owned(), ..process }),
                Ok(None) => return (Code::Unavailable, "it stops".to_owned()),
                Err(status) => return (status.code(), why(&status)),
            }
        }
    }

    fn note(&self, process: &Process) {
        self.known.send_if_modified(|known| {
            let before = known.insert(process.name.clone(), process.clone());
            before.as_ref() != Some(process)
        });
    }
}

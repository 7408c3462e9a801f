//! The real kernel, over rtnetlink.
//!
//! Every call runs on a thread of its own that enters the namespaces it needs, opens its sockets
//! there and ends. A runtime's thread never changes its namespace, the kernel's work (done inside
//! `sendmsg`, partly under a global lock) never blocks the runtime, and nothing of a pod stays
//! open between calls.

mod apply;
mod events;
mod message;
mod parse;
mod read;
mod rule;
mod session;
mod socket;
mod survey;
mod wireguard;

use std::{
    io,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use tokio::sync::{Semaphore, oneshot};

pub use self::events::{Broken, LinkEvents};
use self::session::Session;
use super::{
    desired::Footprint,
    netns::{Namespaces, Netns},
    observed::{Observed, OwnedLink},
    operation::Operation,
    port::{Decide, Depth, Failure, Kernel, KernelError, Stopped},
    survey::Found,
};
use crate::api::with_causes;

/// The kernel of this machine.
#[derive(Debug, Clone)]
pub struct Netlink {
    underlay: Netns,
    tally: Arc<Tally>,
    threads: Arc<Semaphore>,
}

/// Threads at a time. The kernel makes links one after the other, so more would only wait.
const THREADS: usize = 8;

/// What was asked of the kernel since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Messages that change something.
    pub writes: u64,
    /// System calls that sent them; one carries several messages.
    pub write_sends: u64,
    /// Questions: single objects or dumps.
    pub reads: u64,
    /// Files written under /proc/sys.
    pub sysctls: u64,
    /// Files there that could not be written, and need not be.
    pub unavailable: u64,
}

#[derive(Debug, Default)]
struct Tally {
    writes: AtomicU64,
    write_sends: AtomicU64,
    reads: AtomicU64,
    sysctls: AtomicU64,
    unavailable: AtomicU64,
}

// === impl Netlink ===

impl Netlink {
    /// The underlay is the calling thread's namespace.
    pub fn new() -> io::Result<Self> {
        Ok(Self::with_underlay(Netns::current()?))
    }

    /// Tunnels leave from this namespace.
    pub fn with_underlay(underlay: Netns) -> Self {
        Self { underlay, tally: Arc::default(), threads: Arc::new(Semaphore::new(THREADS)) }
    }

    /// What was asked so far.
    pub fn counters(&self) -> Counters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counters {
            writes: read(&self.tally.writes),
            write_sends: read(&self.tally.write_sends),
            reads: read(&self.tally.reads),
            sysctls: read(&self.tally.sysctls),
            unavailable: read(&self.tally.unavailable),
        }
    }

    /// MTU in bytes of the underlay interface that has this address; `None` when none has it.
    pub async fn underlay_mtu(&self, local: IpAddr) -> Result<Option<u32>, KernelError> {
        self.on_thread(Namespaces::default(), move |session| session.underlay_mtu(local)).await
    }

    /// Why there are no encrypted tunnels here; `None` where the kernel has WireGuard, whose module this loads.
    pub async fn lacks_wireguard(&self) -> Option<String> {
        let asked = self.on_thread(Namespaces::default(), |_| wireguard::family()).await;
        match asked {
            Ok(Some(_)) => None,
            Ok(None) => Some(session::NO_WIREGUARD.to_owned()),
            Err(error) => Some(with_causes(&error)),
        }
    }

    /// Runs `work` on a thread that may change its namespace.
    async fn on_thread<T: Send + 'static>(
        &self,
        netns: Namespaces,
        work: impl FnOnce(&mut Session) -> Result<T, KernelError> + Send + 'static,
    ) -> Result<T, KernelError> {
        let permit = self.threads.clone().acquire_owned().await;
        let (sender, receiver) = oneshot::channel();
        let mut session = Session::new(self.underlay.clone(), netns, self.tally.clone());
        let run = move || {
            // The receiver may be gone: the work counts, not the answer.
            let _ = sender.send(work(&mut session));
            drop(permit);
        };
        let thread = std::thread::Builder::new().name("netns".into()).spawn(run);
        thread.map_err(|source| KernelError::Io { doing: "start a thread", source })?;
        receiver.await.unwrap_or_else(|_| {
            let source = io::Error::other("it ended without an answer");
            Err(KernelError::Io { doing: "finish the work on the thread", source })
        })
    }
}

#[async_trait]
impl Kernel for Netlink {
    async fn observe(
        &self,
        footprint: &Footprint,
        depth: Depth,
        netns: &Namespaces,
    ) -> Result<Observed, KernelError> {
        let footprint = footprint.clone();
        self.on_thread(netns.clone(), move |session| session.observe(&footprint, depth)).await
    }

    async fn apply(&self, operations: Vec<Operation>, netns: &Namespaces) -> Result<(), Box<Failure>> {
        let Some(first) = operations.first().cloned() else { return Ok(()) };
        let work = move |session: &mut Session| Ok(session.apply(&operations));
        match self.on_thread(netns.clone(), work).await {
            Ok(outcome) => outcome,
            Err(source) => Err(Box::new(Failure { operation: first, applied: Vec::new(), source })),
        }
    }

    async fn converge(
        &self,
        footprint: &Footprint,
        depth: Depth,
        netns: &Namespaces,
        decide: Decide,
    ) -> Result<(), Stopped> {
        let footprint = footprint.clone();
        let work = move |session: &mut Session| {
            let observed = session.observe(&footprint, depth)?;
            Ok(session.apply(&decide(observed)))
        };
        let done = self.on_thread(netns.clone(), work).await.map_err(Stopped::Observe)?;
        done.map_err(Stopped::Apply)
    }

    async fn list_owned(&self, netns: &Netns) -> Result<Vec<OwnedLink>, KernelError> {
        let key = netns.key();
        self.on_thread([netns.clone()].into_iter().collect(), move |session| session.list_owned(key)).await
    }

    async fn survey(&self) -> Result<Vec<Found>, KernelError> {
        self.on_thread(Namespaces::default(), Session::survey).await
    }
}

// === impl Tally ===

impl Tally {
    fn add(counter: &AtomicU64, n: usize) {
        counter.fetch_add(n as u64, Ordering::Relaxed);
    }
}

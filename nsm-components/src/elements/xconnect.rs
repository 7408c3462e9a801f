//! `xconnect`: makes the kernel carry the packets once both sides are known, on the way back
//! (dataplane §16.3).
//!
//! What is there already is adopted untouched, so a refresh and the first Request after a restart
//! look alike. What an earlier process left and nobody asks for again is removed, but not before a
//! whole life of a token is over; so is what no connection has ([`audit`]).

mod adoption;
mod audit;
mod sides;
mod table;

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use tokio::sync::RwLock;
use tracing::{info, warn};

pub use self::{
    adoption::{Adoption, Report as AdoptionReport},
    audit::{Findings, Rules as AuditRules},
};
use self::{
    sides::{Half, namespaces, side},
    table::{Standing, Table},
};
use super::wireguard::Wireguards;

use crate::{
    api::{Connection, Mechanism, peer::Files},
    chain::{Cx, Element, Error, Kind, Next, Reply, Request, Result},
    dataplane::{
        self, Applied, ConnectionId, Dataplane, Entry, Footprint, Journal, Kernel, Namespaces, NetnsKey,
        Removed, Role, Traffic, plan, segment_metrics,
    },
};

/// How often another VNI or port is tried when the kernel has the one that was drawn.
const TRIES: usize = 3;

/// See the module. Clones share it.
pub struct Xconnect<K> {
    dataplane: Dataplane<K>,
    journal: Journal,
    known: Table,
    /// Calls for connections hold it together, the sweep alone: it works outside of their tasks.
    sweeping: Arc<RwLock<()>>,
    findings: Arc<Findings>,
    adoption: Arc<Adoption>,
    host: NetnsKey,
    wireguards: Wireguards,
}

impl<K> Clone for Xconnect<K> {
    fn clone(&self) -> Self {
        let Self { dataplane, journal, known, sweeping, findings, adoption, host, wireguards } = self;
        let (dataplane, journal, known) = (dataplane.clone(), journal.clone(), known.clone());
        let (sweeping, findings) = (sweeping.clone(), findings.clone());
        let (adoption, wireguards) = (adoption.clone(), wireguards.clone());
        Self { dataplane, journal, known, sweeping, findings, adoption, host: *host, wireguards }
    }
}

fn refused(error: &dataplane::Error) -> Error {
    let kind = match error {
        dataplane::Error::Conflict(_)
        | dataplane::Error::VniTaken { .. }
        | dataplane::Error::PortTaken { .. } => Kind::Taken,
        _ => Kind::Unavailable,
    };
    Error::caused(kind, error)
}

// === impl Xconnect ===

impl<K: Kernel> Xconnect<K> {
    /// Builds in this data plane and keeps `journal`; `left` is what an earlier process wrote there.
    /// `host` is this process's own network namespace, into which no connection leads.
    pub fn new(dataplane: Dataplane<K>, journal: Journal, left: Vec<Entry>, host: NetnsKey) -> Self {
        let adoption = Arc::new(Adoption::new(left.len(), journal.quiesced()));
        let known = Table::of(left);
        // Two connections that want one interface: the one that is refreshed keeps it.
        let in_use = known.clone();
        let dataplane = dataplane.with_in_use(move |id| in_use.standing(id) == Some(Standing::Asked));
        let (sweeping, findings, wireguards) = (Arc::default(), Arc::default(), Wireguards::default());
        Self { dataplane, journal, known, sweeping, findings, adoption, host, wireguards }
    }

    /// Encrypted tunnels have these ports and keys.
    #[must_use]
    pub fn with_wireguards(self, wireguards: Wireguards) -> Self {
        Self { wireguards, ..self }
    }

    /// Reads the key of a tunnel that an earlier process left, so that its peer has to learn no other.
    async fn recall(&self, id: &str, files: &Files) {
        if !self.wireguards.lacks_key(id) {
            return;
        }
        let Ok(id) = ConnectionId::new(id) else { return };
        let Some(footprint) = self.known.footprint(&id) else { return };
        match self.dataplane.wireguard(&footprint, &namespaces(files)).await {
            Ok(Some(tunnel)) => self.wireguards.found(id.as_str(), &tunnel),
            Ok(None) => {}
            Err(error) => warn!(connection.id = %id, %error, "cannot read the tunnel's key: it gets another"),
        }
    }

    /// What became of the connections that an earlier process left.
    pub fn adoption(&self) -> Arc<Adoption> {
        self.adoption.clone()
    }

    /// Leaves a word for the next process: this one stops, and everything is in place. Answers whether it could.
    pub async fn quiesce(&self) -> bool {
        let left = self.journal.quiesce(self.len()).await;
        match &left {
            Ok(()) => info!(connections = self.len(), "stopping; all links stay"),
            Err(error) => warn!(%error, "could not leave a word for the next process"),
        }
        left.is_ok()
    }

    /// Takes that word back. Answers whether it could.
    pub async fn resume(&self) -> bool {
        let taken = self.journal.resume().await;
        taken.inspect_err(|error| warn!(%error, "could not take the word for the next process back")).is_ok()
    }

    /// What the audit has found.
    pub fn findings(&self) -> Arc<Findings> {
        self.findings.clone()
    }

    async fn build(
        &self,
        connection: &Connection,
        downstream: Option<&Mechanism>,
        files: &Files,
    ) -> Result<std::result::Result<Vec<(Role, Traffic)>, dataplane::Error>> {
        self.recall(&connection.id, files).await;
        let of = |mechanism, half| side(&connection.id, mechanism, half, &self.wireguards);
        let (server, client) =
            (of(connection.mechanism.as_ref(), Half::Server)?, of(downstream, Half::Client)?);
        let mut desired =
            plan(connection, &server, &client).map_err(|error| Error::caused(Kind::Invalid, &error))?;
        let namespaces = namespaces(files);
        self.check_shown(&desired.footprint(), &namespaces)?;
        let _no_sweep = self.sweeping.read().await;
        // Policy routes that are no longer wanted are still there.
        desired.has_policies |= self.known.has_policies(&desired.id);
        let standing = self.known.standing(&desired.id);
        let before = self.known.ask(desired.footprint());
        let footprint = desired.footprint();
        // Before the kernel has it, so that it is found after a kill in between.
        if before.as_ref() != Some(&footprint) {
            let expires =
                connection.segment(-1).and_then(|segment| segment.expires).map_or(0, |time| time.seconds);
            let expires: SystemTime = UNIX_EPOCH + Duration::from_secs(u64::try_from(expires).unwrap_or(0));
            let entry = Entry::new(&desired, expires);
            self.journal.put(entry).await.map_err(|error| Error::caused(Kind::Unavailable, &error))?;
        }
        // The pods changed places: what stands at the old ones carries nothing any more.
        if let Some(old) = before.filter(|old| old.places != footprint.places)
            && let Err(error) = self.dataplane.remove(&old, &namespaces).await
        {
            warn!(%error, "could not remove the links of the old places");
        }
        let done = self.dataplane.ensure_counted(&desired, &namespaces).await;
        if let Ok((applied, _)) = &done {
            self.adoption.asked(standing, *applied);
        }
        if let Ok((applied @ (Applied::Created | Applied::Changed(_)), _)) = &done {
            info!(connection.id = %desired.id, ?applied, "links are up");
        }
        Ok(done.map(|(_, counted)| counted))
    }

    /// Interfaces are made only where both sides have shown that they are at home: a number alone is
    /// easily guessed, and the host's own namespace is nobody's pod.
    fn check_shown(&self, footprint: &Footprint, shown: &Namespaces) -> Result<()> {
        for place in &footprint.places {
            if place.netns == self.host {
                let message = format_args!("{} is the host's own network namespace", place.netns);
                return Err(Error::new(Kind::Denied, message));
            }
            if shown.get(place.netns).is_none() {
                let message = format_args!("the descriptor of {} did not come with the Request", place.netns);
                return Err(Error::new(Kind::Denied, message));
            }
        }
        Ok(())
    }

    /// Removes the links and forgets them. What fails is left for the sweep.
    async fn remove(&self, id: &ConnectionId, files: &Files) -> Result<()> {
        let Some((footprint, before)) = self.known.end(id) else { return Ok(()) };
        let removed =
            self.dataplane.remove(&footprint, &namespaces(files)).await.map_err(|error| refused(&error))?;
        if removed == Removed::OutOfReach && before == Standing::Asked {
            // Gone with its pods, or in namespaces that cannot be seen just now.
            info!(connection.id = %id, "no way into its namespaces: looking once more later");
            return Ok(());
        }
        self.known.forget(id);
        self.journal.remove(id).await.map_err(|error| Error::caused(Kind::Unavailable, &error))
    }

    /// [`Self::remove`] by the connection's own task.
    async fn remove_now(&self, id: &ConnectionId, files: &Files) -> Result<()> {
        let _no_sweep = self.sweeping.read().await;
        self.remove(id, files).await
    }

    /// How many connections have links here.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether it was asked for since the start, and not closed since.
    pub fn is_in_use(&self, id: &ConnectionId) -> bool {
        self.known.standing(id) == Some(Standing::Asked)
    }

    /// Whether none has.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes a connection back whose packets cannot be carried.
    async fn undo(&self, cx: &Cx, connection: Connection, files: Files, next: Next<'_>) {
        if let Ok(id) = ConnectionId::new(connection.id.clone())
            && let Err(error) = self.remove_now(&id, &files).await
        {
            warn!(%error, "could not remove the links of a half-built connection");
        }
        let request = Request { connection, files, ..Request::default() };
        if let Err(error) = next.close(&cx.undo(), request).await {
            warn!(%error, "could not close a half-built connection");
        }
    }
}

/// Tells the others on the path what the links have counted (upstream's `metrics`).
fn note_traffic(connection: &mut Connection, counted: &[(Role, Traffic)]) {
    let Some(segment) = connection.segment_mut(0) else { return };
    let noted = segment_metrics(counted).into_iter().map(|(name, value)| (name, value.to_string()));
    segment.metrics.extend(noted);
}

#[async_trait]
impl<K: Kernel> Element for Xconnect<K> {
    fn name(&self) -> &'static str {
        "xconnect"
    }

    async fn request(&self, cx: &Cx, request: Request, next: Next<'_>) -> Result<Reply> {
        let name = request.connection.id.clone();
        let id = ConnectionId::new(name.clone()).ok();
        let standing = id.as_ref().and_then(|id| self.known.standing(id));
        self.recall(&name, &request.files).await;
        let mut tries = 0;
        loop {
            tries += 1;
            let mut reply = next.request(cx, request.clone()).await?;
            let downstream = cx.memory.with(|memory| memory.downstream.clone());
            let failed = match self.build(&reply.connection, downstream.as_ref(), &reply.files).await {
                Ok(Ok(counted)) => {
                    note_traffic(&mut reply.connection, &counted);
                    return Ok(reply);
                }
                Ok(Err(error @ dataplane::Error::VniTaken { .. })) => {
                    let drawn_by_peer = downstream.as_ref().is_some_and(Mechanism::is_vxlan);
                    let error = refused(&error);
                    if drawn_by_peer && tries < TRIES {
                        // The peer draws another one for a Request without mechanism.
                        self.undo(cx, reply.connection, reply.files, next).await;
                        continue;
                    }
                    error
                }
                Ok(Err(error @ dataplane::Error::PortTaken { .. })) => {
                    // The next Request draws another one; towards the endpoint it is this node's own.
                    self.wireguards.release(&name);
                    let offered_here = downstream.as_ref().is_some_and(Mechanism::is_wireguard);
                    let error = refused(&error);
                    if offered_here && tries < TRIES {
                        self.undo(cx, reply.connection, reply.files, next).await;
                        continue;
                    }
                    error
                }
                Ok(Err(error)) => refused(&error),
                Err(error) => error,
            };
            match (standing, &id) {
                // What an earlier process left goes on to count as left.
                (Some(standing), Some(id)) => self.known.restore(id, standing),
                _ => self.undo(cx, reply.connection, reply.files, next).await,
            }
            return Err(failed);
        }
    }

    async fn close(&self, cx: &Cx, request: Request, next: Next<'_>) -> Result<()> {
        let removed = match ConnectionId::new(request.connection.id.clone()) {
            Ok(id) => {
                self.adoption.closed(self.known.standing(&id));
                self.remove_now(&id, &request.files).await
            }
            Err(_) => Ok(()),
        };
        next.close(cx, request).await.and(removed)
    }
}

#[cfg(test)]
mod tests;

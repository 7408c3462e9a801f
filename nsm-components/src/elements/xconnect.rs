//! `xconnect`: makes the kernel carry the packets once both sides are known, on the way back
//! (dataplane §16.3).
//!
//! What is there already is adopted untouched, so a refresh and the first Request after a restart
//! look alike. What an earlier process left and nobody asks for again is removed, but not before a
//! whole life of a token is over.

use std::{
    collections::HashMap,
    os::fd::AsFd,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::RwLock;
use tracing::{info, warn};

use super::wireguard::{self, Wireguards};
use crate::{
    api::{
        Connection, Mechanism,
        mechanism::{DST_IP, DST_PORT, INODE_URL, MTU, NAME, SRC_IP},
        peer::{FileKey, Files},
    },
    chain::{Cx, Element, Error, Kind, Next, Reply, Request, Result},
    dataplane::{
        self, Applied, ConnectionId, Dataplane, Entry, Footprint, Journal, Kernel, Namespaces, Netns,
        NetnsKey, Removed, Role, Side, Traffic, VxlanLink, plan, segment_metrics,
    },
};

/// How often another VNI or port is tried when the kernel has the one that was drawn.
const TRIES: usize = 3;

/// See the module. Clones share it.
pub struct Xconnect<K> {
    dataplane: Dataplane<K>,
    journal: Journal,
    known: Arc<Mutex<HashMap<ConnectionId, Known>>>,
    /// Calls for connections hold it together, the sweep alone: it works outside of their tasks.
    sweeping: Arc<RwLock<()>>,
    host: NetnsKey,
    wireguards: Wireguards,
}

/// A connection that has links here.
#[derive(Clone, Debug)]
struct Known {
    footprint: Footprint,
    /// Whether it was asked for since this process started, and not closed since.
    claimed: bool,
}

/// Which half of the forwarder a tunnel belongs to.
#[derive(Clone, Copy)]
enum Half {
    /// Towards the client: this is the tunnel's dst.
    Server,
    /// Towards the endpoint: this is its src.
    Client,
}

impl<K> Clone for Xconnect<K> {
    fn clone(&self) -> Self {
        let Self { dataplane, journal, known, sweeping, host, wireguards } = self;
        let (dataplane, journal) = (dataplane.clone(), journal.clone());
        let (known, sweeping, wireguards) = (known.clone(), sweeping.clone(), wireguards.clone());
        Self { dataplane, journal, known, sweeping, host: *host, wireguards }
    }
}

fn side(id: &str, mechanism: Option<&Mechanism>, half: Half, wireguards: &Wireguards) -> Result<Side> {
    let invalid = |what: &str| Error::new(Kind::Invalid, what);
    let mechanism = mechanism.ok_or_else(|| invalid("one side has no mechanism"))?;
    if mechanism.is_kernel() {
        let url = mechanism.get(INODE_URL).and_then(|url| url.parse::<FileKey>().ok());
        let key = url.ok_or_else(|| invalid("the kernel mechanism names no network namespace"))?;
        let ifname = mechanism.get(NAME).ok_or_else(|| invalid("the kernel mechanism names no interface"))?;
        return Ok(Side::Kernel {
            netns: NetnsKey { dev: key.dev, ino: key.ino },
            ifname: ifname.to_owned(),
        });
    }
    if mechanism.is_wireguard() {
        let peer = match half {
            Half::Server => wireguard::SRC,
            Half::Client => wireguard::DST,
        };
        let tunnel = wireguards.link(id, mechanism, peer)?;
        return Ok(Side::Wireguard { tunnel, mtu: mechanism.parse(MTU).unwrap_or(0) });
    }
    let (own, peer) = match half {
        Half::Server => (DST_IP, SRC_IP),
        Half::Client => (SRC_IP, DST_IP),
    };
    let missing = |key: &str| invalid(&format!("the VXLAN mechanism has no valid {key}"));
    let tunnel = VxlanLink {
        local: mechanism.parse(own).ok_or_else(|| missing(own))?,
        remote: mechanism.parse(peer).ok_or_else(|| missing(peer))?,
        vni: mechanism.vni().ok_or_else(|| missing("vni"))?,
        port: mechanism.parse(DST_PORT).ok_or_else(|| missing(DST_PORT))?,
    };
    Ok(Side::Vxlan { tunnel, mtu: mechanism.parse(MTU).unwrap_or(0) })
}

fn namespaces(files: &Files) -> Namespaces {
    files.iter().filter_map(|(_, file)| Netns::from_fd(file.as_fd()).ok()).collect()
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
        let known = left.into_iter().map(|entry| {
            let known = Known { footprint: entry.footprint, claimed: false };
            (known.footprint.id.clone(), known)
        });
        let known = Arc::new(Mutex::new(known.collect::<HashMap<_, _>>()));
        // Two connections that want one interface: the one that is refreshed keeps it.
        let in_use = known.clone();
        let dataplane =
            dataplane.with_in_use(move |id| in_use.lock().get(id).is_some_and(|known: &Known| known.claimed));
        Self { dataplane, journal, known, sweeping: Arc::default(), host, wireguards: Wireguards::default() }
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
        let Some(footprint) = self.known.lock().get(&id).map(|known| known.footprint.clone()) else { return };
        match self.dataplane.wireguard(&footprint, &namespaces(files)).await {
            Ok(Some(tunnel)) => self.wireguards.found(id.as_str(), &tunnel),
            Ok(None) => {}
            Err(error) => warn!(connection.id = %id, %error, "cannot read the tunnel's key: it gets another"),
        }
    }

    /// Removes what an earlier process left and nobody asked for during `life`, and whenever that
    /// time is over again, what could not be removed when it was closed.
    pub async fn sweep(self, life: Duration) {
        loop {
            tokio::time::sleep(life).await;
            let known = self.known.lock().clone();
            for (id, _) in known.iter().filter(|(_, known)| !known.claimed) {
                let _alone = self.sweeping.write().await;
                // It may have been asked for while others were removed.
                if self.known.lock().get(id).is_none_or(|known| known.claimed) {
                    continue;
                }
                info!(connection.id = %id, "left behind and not asked for again: removing");
                if let Err(error) = self.remove(id, &Files::default()).await {
                    warn!(connection.id = %id, %error, "could not remove what was left behind");
                }
            }
        }
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
        let before = {
            let mut known = self.known.lock();
            // Policy routes that are no longer wanted are still there.
            desired.has_policies |= known.get(&desired.id).is_some_and(|known| known.footprint.has_policies);
            let claimed = Known { footprint: desired.footprint(), claimed: true };
            known.insert(desired.id.clone(), claimed).map(|known| known.footprint)
        };
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
        let (footprint, first_look) = {
            let mut known = self.known.lock();
            let Some(known) = known.get_mut(id) else { return Ok(()) };
            (known.footprint.clone(), std::mem::take(&mut known.claimed))
        };
        let removed =
            self.dataplane.remove(&footprint, &namespaces(files)).await.map_err(|error| refused(&error))?;
        if removed == Removed::OutOfReach && first_look {
            // Gone with its pods, or in namespaces that cannot be seen just now.
            info!(connection.id = %id, "no way into its namespaces: looking once more later");
            return Ok(());
        }
        self.known.lock().remove(id);
        self.journal.remove(id).await.map_err(|error| Error::caused(Kind::Unavailable, &error))
    }

    /// [`Self::remove`] by the connection's own task.
    async fn remove_now(&self, id: &ConnectionId, files: &Files) -> Result<()> {
        let _no_sweep = self.sweeping.read().await;
        self.remove(id, files).await
    }

    /// How many connections have links here.
    pub fn len(&self) -> usize {
        self.known.lock().len()
    }

    /// Whether none has.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the connection has links here, and whether it was asked for since the start.
    fn knows(&self, id: &str) -> (bool, bool) {
        let known = self.known.lock();
        let known = ConnectionId::new(id).ok().and_then(|id| known.get(&id).map(|known| known.claimed));
        (known.is_some(), known.unwrap_or(false))
    }

    /// What an earlier process left goes on to count as left.
    fn unclaim(&self, id: &str) {
        if let Ok(id) = ConnectionId::new(id)
            && let Some(known) = self.known.lock().get_mut(&id)
        {
            known.claimed = false;
        }
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
        let id = request.connection.id.clone();
        let (known, claimed) = self.knows(&id);
        self.recall(&id, &request.files).await;
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
                    self.wireguards.release(&id);
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
            if !known {
                self.undo(cx, reply.connection, reply.files, next).await;
            } else if !claimed {
                self.unclaim(&id);
            }
            return Err(failed);
        }
    }

    async fn close(&self, cx: &Cx, request: Request, next: Next<'_>) -> Result<()> {
        let removed = match ConnectionId::new(request.connection.id.clone()) {
            Ok(id) => self.remove_now(&id, &request.files).await,
            Err(_) => Ok(()),
        };
        next.close(cx, request).await.and(removed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::{Memory, Place};

    fn footprint(netns: NetnsKey) -> Footprint {
        let id = ConnectionId::new("a").unwrap();
        let places = vec![Place { role: Role::Client, netns, name: "nsm-1".into() }];
        Footprint { id, places, has_policies: false }
    }

    #[test]
    fn an_interface_is_made_only_where_a_descriptor_was_shown_and_never_in_the_hosts_namespace() {
        let folder = tempfile::tempdir().unwrap();
        let (journal, left) = Journal::open(folder.path()).unwrap();
        let host = Netns::current().unwrap();
        let shown: Namespaces = [host.clone()].into_iter().collect();
        let xconnect =
            |host| Xconnect::new(Dataplane::new(Memory::new()), journal.clone(), left.clone(), host);
        let elsewhere = NetnsKey { dev: 0, ino: 0 };
        xconnect(elsewhere).check_shown(&footprint(host.key()), &shown).unwrap();
        let refused =
            xconnect(elsewhere).check_shown(&footprint(host.key()), &Namespaces::default()).unwrap_err();
        assert!(refused.message.contains("did not come"), "{}", refused.message);
        let refused = xconnect(host.key()).check_shown(&footprint(host.key()), &shown).unwrap_err();
        assert_eq!(refused.kind, Kind::Denied);
        assert!(refused.message.contains("the host's own"), "{}", refused.message);
    }
}

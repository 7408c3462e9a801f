//! The steps put together.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use nix::errno::Errno;
use tokio::sync::{Mutex, oneshot};

use super::{
    desired::{Desired, Footprint, INDEX_TRIES, Link, Role},
    diff::{Conflict, diff, removal},
    ids::{ConnectionId, ForwarderId, NetnsKey},
    netns::{Namespaces, Netns},
    observed::{Observed, ObservedEnd, ObservedKind, OwnedLink},
    operation::{At, Operation},
    port::{Decide, Depth, Failure, Kernel, KernelError, Stopped},
    retired::{Retired, split},
    survey::{Found, Orphan, orphans},
    traffic::{Traffic, counted},
    wireguard::WireguardLink,
};

/// What `ensure` had to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// The link was made.
    Created,
    /// All was there already and nothing was touched: a refresh, or the first one after a restart.
    Adopted,
    /// The link was there; this many changes were made on it.
    Changed(usize),
}

/// What `remove` found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removed {
    /// Links were there and are deleted.
    Deleted,
    /// No link was there.
    Nothing,
    /// No namespace of the connection could be entered and no link of it be found from outside.
    /// Where this process sees all namespaces (host PIDs or `/run/netns`), they are gone and the
    /// links with them. Elsewhere a later Request or Close of the pod brings the way in.
    OutOfReach,
}

/// The connection was not built, or not removed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something that is not ours stands in the way.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// A device with this VNI and port exists on the underlay, whoever its peer is. Ask the
    /// server for another one (dataplane §5.2).
    #[error("vni {vni} is taken on this node: draw another one")]
    VniTaken {
        /// The VNI.
        vni: u32,
    },
    /// Somebody else has the UDP port of an encrypted tunnel.
    #[error("UDP port {port} is taken on this node: choose another one")]
    PortTaken {
        /// The port.
        port: u16,
    },
    /// A change failed; what this call had made before is taken back.
    #[error(transparent)]
    Apply(#[from] Box<Failure>),
    /// The kernel's state could not be read.
    #[error("cannot read the state of connection {id}")]
    Observe {
        /// The connection.
        id: ConnectionId,
        /// Why.
        #[source]
        source: KernelError,
    },
    /// The namespaces of this machine could not be looked through.
    #[error("cannot look through the namespaces of this machine")]
    Survey(#[source] KernelError),
    /// The links of a namespace could not be listed.
    #[error("cannot list the links of {netns}")]
    List {
        /// The namespace.
        netns: NetnsKey,
        /// Why.
        #[source]
        source: KernelError,
    },
}

/// Builds, keeps and removes connections in a kernel.
///
/// Calls for one connection must not overlap; the caller keeps their order. Calls for different
/// connections run side by side.
pub struct Dataplane<K: ?Sized> {
    kernel: Arc<K>,
    in_use: Arc<dyn Fn(&ConnectionId) -> bool + Send + Sync>,
    forwarder: Option<ForwarderId>,
    /// Held from looking for free tables until they are taken.
    tables: Arc<Mutex<()>>,
    /// Links to delete, which are out of use.
    retired: Arc<Retired>,
    /// Whether that is done by [`Dataplane::delete_retired`] alone.
    deletes_later: bool,
}

/// What was decided on after a look.
struct Decision {
    applied: Applied,
    counted: Vec<(Role, Traffic)>,
    out_of_reach: bool,
    /// Links to delete, which are out of use then.
    deletions: Vec<Operation>,
}

// === impl Dataplane ===

impl<K: ?Sized> Clone for Dataplane<K> {
    fn clone(&self) -> Self {
        let Self { kernel, in_use, forwarder, tables, retired, deletes_later } = self;
        let (kernel, in_use, retired) = (kernel.clone(), in_use.clone(), retired.clone());
        let (forwarder, tables) = (forwarder.clone(), tables.clone());
        Self { kernel, in_use, forwarder, tables, retired, deletes_later: *deletes_later }
    }
}

impl<K: Kernel + ?Sized> Dataplane<K> {
    /// Over this kernel.
    pub fn new(kernel: impl Into<Arc<K>>) -> Self {
        let (kernel, in_use) = (kernel.into(), Arc::new(|_: &ConnectionId| false));
        let (tables, retired) = (Arc::default(), Arc::default());
        Self { kernel, in_use, forwarder: None, tables, retired, deletes_later: false }
    }

    /// Names this forwarder on all that is made, and leaves alone what names another one.
    #[must_use]
    pub fn with_forwarder(mut self, forwarder: ForwarderId) -> Self {
        self.forwarder = Some(forwarder);
        self
    }

    /// Asks `in_use` before a link of another connection is replaced because its name is wanted.
    /// Without it such a link counts as left behind: the pod asks for the name, so it has no use
    /// for the old one.
    #[must_use]
    pub fn with_in_use(mut self, in_use: impl Fn(&ConnectionId) -> bool + Send + Sync + 'static) -> Self {
        self.in_use = Arc::new(in_use);
        self
    }

    /// Links that end are taken out of use at once and deleted by [`Dataplane::delete_retired`], which has
    /// to run.
    #[must_use]
    pub fn deleting_later(mut self) -> Self {
        self.deletes_later = true;
        self
    }

    /// Deletes links that were taken out of use, for as long as it runs.
    pub async fn delete_retired(self) {
        self.retired.work(&*self.kernel).await;
    }

    /// Until no link is out of use and not deleted.
    pub async fn emptied(&self) {
        self.retired.emptied().await;
    }

    /// The kernel underneath.
    pub fn kernel(&self) -> &K {
        &self.kernel
    }

    /// Brings the kernel to `desired`. What is right is not touched; on failure what this call
    /// made is taken back. `netns` holds the namespaces whose descriptors came with the Request;
    /// others are searched.
    pub async fn ensure(&self, desired: &Desired, netns: &Namespaces) -> Result<Applied, Error> {
        self.ensure_counted(desired, netns).await.map(|(applied, _)| applied)
    }

    /// The same, with what the links had counted before.
    pub async fn ensure_counted(
        &self,
        desired: &Desired,
        netns: &Namespaces,
    ) -> Result<(Applied, Vec<(Role, Traffic)>), Error> {
        let _tables = if desired.has_policies { Some(self.tables.lock().await) } else { None };
        let desired = &Desired { forwarder: self.forwarder.clone(), ..desired.clone() };
        let mut attempt = 0;
        loop {
            let desired = if attempt == 0 { desired.clone() } else { desired.reindexed(attempt) };
            attempt += 1;
            let (decide, decided) = self.decide(&desired, attempt);
            let footprint = desired.footprint();
            let outcome = self.kernel.converge(&footprint, depth(&desired), netns, decide).await;
            let failure = match outcome {
                Ok(()) => None,
                Err(Stopped::Observe(source)) => return Err(Error::Observe { id: footprint.id, source }),
                Err(Stopped::Apply(failure)) => Some(failure),
            };
            let decision = received(decided, &desired.id)??;
            self.delete(&decision.deletions, netns).await;
            let Some(failure) = failure else { return Ok((decision.applied, decision.counted)) };
            self.roll_back(&failure, netns).await;
            // Between looking and creating someone may have taken the name; it is looked at once more.
            if attempt >= INDEX_TRIES || !is_race(&failure) {
                return Err(refused(&desired, failure));
            }
        }
    }

    /// What follows from a look for these links, and where it is told.
    fn decide(
        &self,
        desired: &Desired,
        next: u32,
    ) -> (Decide, oneshot::Receiver<Result<Decision, Conflict>>) {
        let (told, decided) = oneshot::channel();
        let (desired, in_use, own) = (desired.clone(), self.in_use.clone(), self.forwarder.clone());
        let decide = move |mut observed: Observed| {
            disown(&mut observed, own.as_ref());
            let decided = diff(&desired, &observed, &*in_use).and_then(|operations| {
                let makes_room = operations.iter().any(|op| takes_number(op, &desired));
                if makes_room { diff(&desired.reindexed(next), &observed, &*in_use) } else { Ok(operations) }
            });
            let operations = match decided {
                Ok(operations) => operations,
                Err(conflict) => {
                    let _ = told.send(Err(conflict));
                    return Vec::new();
                }
            };
            let applied = summary(&operations);
            let roles = desired.ends.iter().map(|end| end.role);
            // What was replaced does not count.
            let counted = counted(roles, (applied != Applied::Created).then_some(&observed));
            let (at_once, deletions) = split(operations);
            let _ = told.send(Ok(Decision { applied, counted, out_of_reach: false, deletions }));
            at_once
        };
        (Box::new(decide), decided)
    }

    /// The same for their end.
    fn decide_removal(&self, footprint: &Footprint) -> (Decide, oneshot::Receiver<Decision>) {
        let (told, decided) = oneshot::channel();
        let (footprint, own) = (footprint.clone(), self.forwarder.clone());
        let decide = move |mut observed: Observed| {
            disown(&mut observed, own.as_ref());
            let operations = removal(&footprint, own.as_ref(), &observed);
            let applied = summary(&operations);
            let out_of_reach = observed.ends.iter().all(|end| *end == ObservedEnd::Unreachable);
            let (at_once, deletions) = split(operations);
            let _ = told.send(Decision { applied, counted: Vec::new(), out_of_reach, deletions });
            at_once
        };
        (Box::new(decide), decided)
    }

    /// Removes every link of the connection that is still there. Places whose namespace is gone
    /// need nothing: links die with it.
    ///
    /// Where no descriptor comes along, namespaces are searched, and links also from the
    /// underlay's namespace by nsid.
    pub async fn remove(&self, footprint: &Footprint, netns: &Namespaces) -> Result<Removed, Error> {
        let (decide, decided) = self.decide_removal(footprint);
        let outcome = self.kernel.converge(footprint, Depth::Links, netns, decide).await;
        outcome.map_err(|stopped| match stopped {
            Stopped::Observe(source) => Error::Observe { id: footprint.id.clone(), source },
            Stopped::Apply(failure) => Error::Apply(failure),
        })?;
        let decision = received(decided, &footprint.id)?;
        self.delete(&decision.deletions, netns).await;
        Ok(match decision.applied {
            Applied::Adopted if decision.out_of_reach => Removed::OutOfReach,
            Applied::Adopted => Removed::Nothing,
            _ => Removed::Deleted,
        })
    }

    /// Deletes what is out of use, or has it deleted.
    async fn delete(&self, deletions: &[Operation], netns: &Namespaces) {
        self.retired.add(deletions, netns);
        if !self.deletes_later {
            self.retired.delete(&*self.kernel).await;
        }
    }

    /// The encrypted tunnel of a connection as the kernel has it, key included; `None` when there is none.
    pub async fn wireguard(
        &self,
        footprint: &Footprint,
        netns: &Namespaces,
    ) -> Result<Option<WireguardLink>, Error> {
        let observed = self.kernel.observe(footprint, Depth::Routes, netns).await;
        let observed = observed.map_err(|source| Error::Observe { id: footprint.id.clone(), source })?;
        Ok(observed.ends.iter().find_map(|end| match end {
            ObservedEnd::Reachable { own: Some(link), .. } => match link.kind {
                ObservedKind::Wireguard(tunnel) => tunnel,
                _ => None,
            },
            _ => None,
        }))
    }

    /// Whether the kernel is as desired; changes nothing.
    pub async fn is_in_sync(&self, desired: &Desired, netns: &Namespaces) -> Result<bool, Error> {
        let desired = &Desired { forwarder: self.forwarder.clone(), ..desired.clone() };
        let observed = self.kernel.observe(&desired.footprint(), depth(desired), netns).await;
        let mut observed = observed.map_err(|source| Error::Observe { id: desired.id.clone(), source })?;
        disown(&mut observed, self.forwarder.as_ref());
        Ok(diff(desired, &observed, &*self.in_use)?.is_empty())
    }

    /// What of the mesh is in the kernel and serves none of these connections, as far as this forwarder
    /// can say, and how many of them have no link that can be seen.
    pub async fn audit(
        &self,
        known: &HashMap<ConnectionId, Footprint>,
    ) -> Result<(Vec<Orphan>, usize), Error> {
        let found = self.kernel.survey().await.map_err(Error::Survey)?;
        let linked: HashSet<_> = found.iter().filter_map(Found::connection).collect();
        let unlinked = known.keys().filter(|id| !linked.contains(id)).count();
        Ok((orphans(&found, self.forwarder.as_ref(), known), unlinked))
    }

    /// Removes orphans that this forwarder has made, as [`Dataplane::audit`] has just shown them: those
    /// of one namespace together.
    pub async fn remove_orphans(&self, orphans: &[Orphan]) -> Result<(), Error> {
        let operations = orphans.iter().filter(|orphan| orphan.is_own()).map(Orphan::operation).collect();
        Ok(self.kernel.apply(operations, &Namespaces::default()).await?)
    }

    /// All of the mesh that is in the kernel, whoever made it and whether it serves a connection or not.
    pub async fn survey(&self) -> Result<Vec<Found>, Error> {
        self.kernel.survey().await.map_err(Error::Survey)
    }

    /// Removes what [`Dataplane::survey`] has shown, whoever made it. What went meanwhile is removed.
    pub async fn remove_found(&self, found: &Found) -> Result<(), Error> {
        Ok(self.kernel.apply(vec![found.operation()], &Namespaces::default()).await?)
    }

    /// All links of ours in a namespace.
    pub async fn list_owned(&self, netns: &Netns) -> Result<Vec<OwnedLink>, Error> {
        let listed = self.kernel.list_owned(netns).await;
        listed.map_err(|source| Error::List { netns: netns.key(), source })
    }

    /// Removes a link that [`Dataplane::list_owned`] has shown, unless it has changed hands since.
    ///
    /// Returns whether it was there.
    pub async fn remove_owned(&self, link: &OwnedLink, netns: &Netns) -> Result<bool, Error> {
        if !self.list_owned(netns).await?.contains(link) {
            return Ok(false);
        }
        let at = At { netns: link.netns, index: link.index, name: link.name.clone() };
        let at_hand = [netns.clone()].into_iter().collect();
        self.kernel.apply(vec![Operation::Delete(at)], &at_hand).await?;
        Ok(true)
    }

    /// Takes back what a failed call made, as far as that goes. A deleted link takes all on it
    /// along.
    async fn roll_back(&self, failure: &Failure, netns: &Namespaces) {
        let ended =
            |op: &Operation| matches!(op, Operation::Create(_) | Operation::Delete(_) | Operation::Retire(_));
        let inverse: Vec<Operation> = if failure.applied.iter().any(ended) {
            // Back to nothing. Rules alone outlive the link.
            let made = |op: &&Operation| matches!(op, Operation::Create(_) | Operation::AddRule(..));
            failure.applied.iter().rev().filter(made).filter_map(Operation::inverse).collect()
        } else {
            failure.applied.iter().rev().filter_map(Operation::inverse).collect()
        };
        for operation in inverse {
            if let Err(error) = self.kernel.apply(vec![operation], netns).await {
                tracing::warn!(%error, cause = %error.source, "could not take back a change");
            }
        }
    }
}

/// Whether a link that goes out of use has a number that a new one is to have: it keeps that until it is deleted.
fn takes_number(operation: &Operation, desired: &Desired) -> bool {
    let has = |at: &At| desired.ends.iter().any(|end| (end.netns, end.index) == (at.netns, at.index));
    matches!(operation, Operation::Retire(at) if has(at))
}

/// How closely to look for these links.
fn depth(desired: &Desired) -> Depth {
    let plain = desired.ends.iter().all(|end| end.neighbours.is_empty());
    if plain { Depth::Routes } else { Depth::Neighbours }
}

/// Rules of other forwarders are not this connection's, whatever their number.
fn disown(observed: &mut Observed, own: Option<&ForwarderId>) {
    let Some(own) = own else { return };
    for end in &mut observed.ends {
        if let ObservedEnd::Reachable { policies, .. } = end {
            policies.disown(own.mark());
        }
    }
}

/// What was decided on; a kernel that did not fail has asked.
fn received<T>(mut decided: oneshot::Receiver<T>, id: &ConnectionId) -> Result<T, Error> {
    let missing = |_| KernelError::Answer("nothing was decided on".into());
    decided.try_recv().map_err(missing).map_err(|source| Error::Observe { id: id.clone(), source })
}

fn summary(operations: &[Operation]) -> Applied {
    if operations.is_empty() {
        Applied::Adopted
    } else if operations.iter().any(|op| matches!(op, Operation::Create(_))) {
        Applied::Created
    } else {
        Applied::Changed(operations.len())
    }
}

/// EEXIST: a name appeared meanwhile; EBUSY: one of the chosen indexes is taken; ENODEV: what was
/// to be changed disappeared.
fn is_race(failure: &Failure) -> bool {
    matches!(failure.source.errno(), Some(Errno::EEXIST | Errno::EBUSY | Errno::ENODEV))
}

/// Names were looked at right before: what still exists is the VNI.
fn refused(desired: &Desired, failure: Box<Failure>) -> Error {
    match (desired.link, &failure.operation, failure.source.errno()) {
        (Link::Vxlan(tunnel), Operation::Create(_), Some(Errno::EEXIST)) => {
            Error::VniTaken { vni: tunnel.vni }
        }
        (Link::Wireguard(tunnel), _, Some(Errno::EADDRINUSE)) => Error::PortTaken { port: tunnel.port },
        _ => Error::Apply(failure),
    }
}

#[cfg(test)]
mod tests;

//! A kernel in memory, for tests of what stands above it.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use nix::errno::Errno;
use parking_lot::Mutex;

use super::{
    desired::{Desired, Footprint, Link, Place, Role, VxlanLink, altname},
    ids::{ConnectionId, NetnsKey},
    netns::{Namespaces, Netns},
    observed::{Observed, ObservedEnd, ObservedKind, ObservedLink, OwnedLink, Owner},
    operation::{At, Operation},
    policy::{MAIN, Policies, Rule, tag},
    port::{Depth, Failure, Kernel, KernelError},
    survey::{Found, Whereabouts},
    traffic::Traffic,
};
use crate::api::{
    context::Hop,
    names::{LINK_GROUP, RETIRED_LINK_GROUP},
};

/// Behaves as the kernel does where `diff` and the facade can see it: unique names, indexes and
/// VNIs, peers that go together, marks and aliases. Namespaces exist when they are first named.
#[derive(Debug, Default)]
pub struct Memory(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    links: BTreeMap<(NetnsKey, u32), MemoryLink>,
    rules: Vec<(NetnsKey, Rule)>,
    gone: BTreeSet<NetnsKey>,
    operations: Vec<Operation>,
    fail: Option<(usize, Errno)>,
    fail_observe: Option<Errno>,
}

#[derive(Debug, Clone, PartialEq)]
struct MemoryLink {
    link: ObservedLink,
    alias: Option<String>,
    altname: Option<String>,
    foreign: bool,
    retired: bool,
    policy_routes: Vec<(u8, Hop)>,
    peer: Option<(NetnsKey, u32)>,
}

// === impl Memory ===

impl Memory {
    /// An empty kernel.
    pub fn new() -> Self {
        Self::default()
    }

    /// The `nth` operation from now, counted from 0, fails with this number; those after it work.
    pub fn fail_at(&self, nth: usize, errno: Errno) {
        self.0.lock().fail = Some((nth, errno));
    }

    /// The next look fails with this number; those after it work.
    pub fn fail_observe(&self, errno: Errno) {
        self.0.lock().fail_observe = Some(errno);
    }

    /// Takes all addresses, routes and neighbours from a link, and lowers it.
    pub fn strip(&self, netns: NetnsKey, name: &str) {
        let mut state = self.0.lock();
        let found = state.links.iter_mut().find(|((key, _), link)| *key == netns && link.link.name == name);
        if let Some((_, MemoryLink { link, .. })) = found {
            (link.addresses, link.routes, link.neighbours) = Default::default();
            link.up = false;
        }
    }

    /// Takes [`Memory::fail_at`] back.
    pub fn clear_failure(&self) {
        self.0.lock().fail = None;
    }

    /// Ends a namespace, with all links in it and their peers.
    pub fn end_netns(&self, netns: NetnsKey) {
        let mut state = self.0.lock();
        state.gone.insert(netns);
        state.rules.retain(|(key, _)| *key != netns);
        let links: Vec<_> = state.links.keys().copied().filter(|(key, _)| *key == netns).collect();
        for link in links {
            state.delete(link);
        }
    }

    /// Puts a link of someone else into a namespace.
    pub fn add_foreign(&self, netns: NetnsKey, name: &str) {
        let mut state = self.0.lock();
        let index = u32::try_from(state.links.len()).unwrap_or_default() + 1;
        let link = ObservedLink {
            index,
            name: name.to_owned(),
            has_altname: false,
            kind: ObservedKind::Other,
            mac: [2, 0, 0, 0, 0, 1],
            mtu: 1500,
            up: true,
            ipv6_disabled: false,
            addresses: Vec::new(),
            routes: Vec::new(),
            neighbours: Vec::new(),
            traffic: Traffic::default(),
            forwarder: None,
        };
        let link = MemoryLink {
            link,
            alias: None,
            altname: None,
            foreign: true,
            retired: false,
            policy_routes: Vec::new(),
            peer: None,
        };
        state.links.insert((netns, index), link);
    }

    /// All links by namespace and name, for comparisons.
    pub fn links(&self) -> Vec<(NetnsKey, String)> {
        let state = self.0.lock();
        let mut links: Vec<_> = state.links.iter().map(|((key, _), l)| (*key, l.link.name.clone())).collect();
        links.sort();
        links
    }

    /// All rules by namespace, in the order in which they came.
    pub fn rules(&self) -> Vec<(NetnsKey, Rule)> {
        self.0.lock().rules.clone()
    }

    /// Puts a rule into a namespace.
    pub fn add_rule(&self, netns: NetnsKey, rule: Rule) {
        self.0.lock().rules.push((netns, rule));
    }

    /// The operations made so far.
    pub fn operations(&self) -> Vec<Operation> {
        self.0.lock().operations.clone()
    }
}

#[async_trait]
impl Kernel for Memory {
    async fn observe(
        &self,
        footprint: &Footprint,
        _: Depth,
        _: &Namespaces,
    ) -> Result<Observed, KernelError> {
        let mut state = self.0.lock();
        if let Some(errno) = state.fail_observe.take() {
            return Err(KernelError::Refused { errno, text: None });
        }
        let look = |place| state.end(footprint, place);
        Ok(Observed { ends: footprint.places.iter().map(look).collect() })
    }

    async fn apply(&self, operations: Vec<Operation>, _: &Namespaces) -> Result<(), Box<Failure>> {
        let mut state = self.0.lock();
        let mut applied = Vec::new();
        for operation in operations {
            if let Err(errno) = state.apply(&operation) {
                let source = KernelError::Refused { errno, text: None };
                return Err(Box::new(Failure { operation, applied, source }));
            }
            applied.push(operation);
        }
        Ok(())
    }

    async fn list_owned(&self, netns: &Netns) -> Result<Vec<OwnedLink>, KernelError> {
        let state = self.0.lock();
        let here = state.links.iter().filter(|((key, _), _)| *key == netns.key());
        let owned = here.map(|((key, _), link)| link.owned(*key));
        Ok(owned.filter(|link| link.owner != Owner::Foreign).collect())
    }

    async fn survey(&self) -> Result<Vec<Found>, KernelError> {
        let state = self.0.lock();
        let links = state.links.iter().map(|((key, _), link)| link.owned(*key)).map(|link| {
            let OwnedLink { netns, index, name, owner, forwarder } = link;
            Found::Link { at: Whereabouts::Netns(netns), index, name, owner, forwarder }
        });
        let ours = links.filter(|link| !matches!(link, Found::Link { owner: Owner::Foreign, .. }));
        let rules = state.rules.iter().map(|(netns, rule)| Found::Rule { netns: *netns, rule: *rule });
        Ok(ours.chain(rules).collect())
    }
}

// === impl State ===

impl State {
    fn end(&self, footprint: &Footprint, place: &Place) -> ObservedEnd {
        let id = &footprint.id;
        if self.gone.contains(&place.netns) {
            return ObservedEnd::Unreachable;
        }
        let here = || self.links.iter().filter(|((key, _), _)| *key == place.netns).map(|(_, link)| link);
        let is_own = |link: &&MemoryLink| link.owner() == Owner::Connection(id.clone());
        let tag = altname(id, place.role);
        let by_tag = here().filter(is_own).find(|link| link.altname.as_ref() == Some(&tag));
        let by_name = here().find(|link| link.link.name == place.name);
        let own = by_tag.or(by_name.filter(is_own));
        let occupant = by_name.filter(|link| own != Some(*link));
        let looked_for = footprint.has_policies && place.role == Role::Client;
        let policies = if looked_for { self.policies(id, place, own) } else { Policies::default() };
        ObservedEnd::Reachable {
            own: own.map(|link| Box::new(link.observed())),
            occupant: occupant.map(|link| link.owned(place.netns)),
            policies,
        }
    }

    fn policies(&self, id: &ConnectionId, place: &Place, own: Option<&MemoryLink>) -> Policies {
        let here = self.rules.iter().filter(|(key, _)| *key == place.netns);
        let rules: Vec<_> =
            here.map(|(_, rule)| (rule.table, (rule.tag == tag(id)).then_some(*rule))).collect();
        let links = self.links.iter().filter(|((key, _), _)| *key == place.netns).map(|(_, link)| link);
        let routes = links.flat_map(|link| {
            let is_own = own == Some(link);
            link.policy_routes.iter().map(move |(table, hop)| (*table, is_own.then_some(*hop)))
        });
        Policies::new(&rules, &routes.collect::<Vec<_>>())
    }

    fn apply(&mut self, operation: &Operation) -> Result<(), Errno> {
        match &mut self.fail {
            Some((0, errno)) => {
                let errno = *errno;
                self.fail = None;
                return Err(errno);
            }
            Some((left, _)) => *left -= 1,
            None => {}
        }
        match operation {
            Operation::Create(desired) => self.create(desired)?,
            Operation::Delete(at) => self.delete((at.netns, at.index)),
            Operation::Retire(at) => {
                let link = self.link(at)?;
                (link.retired, link.link.up) = (true, false);
            }
            Operation::MarkRetired(at) => self.link(at)?.retired = true,
            Operation::Rename(at, name) => self.link(at)?.link.name.clone_from(name),
            Operation::RemoveAltname(at, name) => {
                let link = self.link(at)?;
                link.altname = link.altname.take().filter(|known| known != name);
                link.link.has_altname = link.altname.is_some();
            }
            Operation::DeleteRetired(netns) => {
                let retired = self.links.iter().filter(|((key, _), link)| key == netns && link.retired);
                let retired: Vec<_> = retired.map(|(key, _)| *key).collect();
                for key in retired {
                    self.delete(key);
                }
            }
            Operation::AllowPing(_) | Operation::DeleteDistant(_) | Operation::Acquaint(..) => {}
            Operation::AddAltname(at, name) => {
                let link = self.link(at)?;
                link.altname = Some(name.clone());
                link.link.has_altname = true;
            }
            Operation::SetMac { at, to, .. } => self.link(at)?.link.mac = *to,
            Operation::SetMtu { at, to, .. } => self.link(at)?.link.mtu = *to,
            Operation::SetWireguard { at, to, .. } => {
                self.link(at)?.link.kind = ObservedKind::Wireguard(Some(*to));
            }
            Operation::Raise(at, alias) => {
                self.open_port((at.netns, at.index))?;
                let link = self.link(at)?;
                link.alias = Some(alias.clone());
                link.link.up = true;
            }
            Operation::EnableIpv6(at) => self.link(at)?.link.ipv6_disabled = false,
            Operation::AddAddress(at, net) => self.link(at)?.link.addresses.push(*net),
            Operation::RemoveAddress(at, net) => self.link(at)?.link.addresses.retain(|a| a != net),
            Operation::AddRoute(at, MAIN, hop) => self.link(at)?.link.routes.push(*hop),
            Operation::RemoveRoute(at, MAIN, hop) => self.link(at)?.link.routes.retain(|r| r != hop),
            Operation::AddRoute(at, table, hop) => self.link(at)?.policy_routes.push((*table, *hop)),
            Operation::RemoveRoute(at, table, hop) => {
                self.link(at)?.policy_routes.retain(|route| *route != (*table, *hop));
            }
            Operation::AddRule(netns, rule) => self.rules.push((*netns, *rule)),
            Operation::RemoveRule(netns, rule) => {
                self.rules.retain(|(key, known)| (key, known) != (netns, rule));
            }
            Operation::SetNeighbour(at, neighbour) => {
                let neighbours = &mut self.link(at)?.link.neighbours;
                neighbours.retain(|n| n.ip != neighbour.ip);
                neighbours.push(*neighbour);
            }
            Operation::RemoveNeighbour(at, neighbour) => {
                self.link(at)?.link.neighbours.retain(|n| n != neighbour);
            }
        }
        self.operations.push(operation.clone());
        Ok(())
    }

    fn link(&mut self, at: &At) -> Result<&mut MemoryLink, Errno> {
        self.links.get_mut(&(at.netns, at.index)).ok_or(Errno::ENODEV)
    }

    fn create(&mut self, desired: &Desired) -> Result<(), Errno> {
        for end in &desired.ends {
            let taken = |((key, _), link): (&(NetnsKey, u32), &MemoryLink)| {
                *key == end.netns && link.link.name == end.name
            };
            if self.gone.contains(&end.netns) {
                return Err(Errno::EINVAL);
            }
            if self.links.iter().any(taken) {
                return Err(Errno::EEXIST);
            }
            if self.links.contains_key(&(end.netns, end.index)) {
                return Err(Errno::EBUSY);
            }
        }
        if matches!(desired.link, Link::Vxlan(tunnel) if self.vni_taken(tunnel)) {
            return Err(Errno::EEXIST);
        }
        let keys: Vec<_> = desired.ends.iter().map(|end| (end.netns, end.index)).collect();
        for (at, end) in desired.ends.iter().enumerate() {
            let peer = keys.iter().enumerate().find(|(i, _)| *i != at).map(|(_, key)| *key);
            let kind = match desired.link {
                Link::Vxlan(tunnel) => ObservedKind::Vxlan(tunnel),
                Link::Wireguard(_) => ObservedKind::Wireguard(None),
                Link::Veth => ObservedKind::Veth { peer: peer.map(|(_, index)| index).unwrap_or_default() },
            };
            let link = ObservedLink {
                index: end.index,
                name: end.name.clone(),
                has_altname: false,
                kind,
                mac: end.mac,
                mtu: end.mtu.unwrap_or(1500),
                up: false,
                ipv6_disabled: false,
                addresses: Vec::new(),
                routes: Vec::new(),
                neighbours: Vec::new(),
                traffic: Traffic::default(),
                forwarder: None,
            };
            let link = MemoryLink {
                link,
                alias: None,
                altname: None,
                foreign: false,
                retired: false,
                policy_routes: Vec::new(),
                peer,
            };
            self.links.insert((end.netns, end.index), link);
        }
        Ok(())
    }

    /// One device a VNI, port and family, whoever the peer (dataplane §5.3).
    fn vni_taken(&self, wanted: VxlanLink) -> bool {
        self.links.values().any(|link| match link.link.kind {
            ObservedKind::Vxlan(other) => {
                (other.vni, other.port, other.local.is_ipv4())
                    == (wanted.vni, wanted.port, wanted.local.is_ipv4())
            }
            _ => false,
        })
    }

    /// A device that is raised opens its port, which no other one has, whatever pod it is in.
    fn open_port(&self, key: (NetnsKey, u32)) -> Result<(), Errno> {
        let port = |link: &MemoryLink| match link.link.kind {
            ObservedKind::Wireguard(Some(tunnel)) => Some(tunnel.port),
            _ => None,
        };
        let Some(wanted) = self.links.get(&key).and_then(port) else { return Ok(()) };
        let mut others = self.links.iter().filter(|(other, link)| **other != key && link.link.up);
        if others.any(|(_, link)| port(link) == Some(wanted)) { Err(Errno::EADDRINUSE) } else { Ok(()) }
    }

    fn delete(&mut self, key: (NetnsKey, u32)) {
        if let Some(peer) = self.links.remove(&key).and_then(|link| link.peer) {
            self.links.remove(&peer);
        }
    }
}

// === impl MemoryLink ===

impl MemoryLink {
    fn owner(&self) -> Owner {
        let group = match (self.foreign, self.retired) {
            (true, _) => 0,
            (_, true) => RETIRED_LINK_GROUP,
            _ => LINK_GROUP,
        };
        Owner::of(group, self.alias.as_deref())
    }

    fn observed(&self) -> ObservedLink {
        ObservedLink { forwarder: Owner::forwarder(self.alias.as_deref()), ..self.link.clone() }
    }

    fn owned(&self, netns: NetnsKey) -> OwnedLink {
        let ObservedLink { index, name, forwarder, .. } = self.observed();
        OwnedLink { netns, index, name, owner: self.owner(), forwarder }
    }
}

//! What of the mesh is in the kernel, whoever knows of it, and what of that nobody knows of. Pure.

use std::{
    collections::{HashMap, HashSet},
    fmt,
};

use super::{
    desired::{Footprint, Role},
    ids::{ConnectionId, ForwarderId, NetnsKey},
    observed::{Distant, Owner},
    operation::{At, Operation},
    policy::{Rule, tag},
};

/// Where something was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Whereabouts {
    /// In a namespace that can be entered.
    Netns(NetnsKey),
    /// In one that the underlay's namespace has a number for, and nobody a path to.
    Nsid(i32),
}

/// A link or a rule with the mark of the mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// A link.
    Link {
        /// Where it is.
        at: Whereabouts,
        /// Interface index.
        index: u32,
        /// Interface name.
        name: String,
        /// Whose it is.
        owner: Owner,
        /// Who made it, if it says so.
        forwarder: Option<ForwarderId>,
    },
    /// A rule of a policy route.
    Rule {
        /// Where it is.
        netns: NetnsKey,
        /// The rule.
        rule: Rule,
    },
}

/// Why something counts as orphaned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A link of this forwarder whose connection it does not know, or not there.
    Link,
    /// The same of a rule.
    Rule,
    /// A link with the mark alone, of no connection that is known here. It may be another forwarder's.
    Unfinished,
    /// A link or rule of an earlier version: it names no forwarder, and the connection is not known here.
    Unnamed,
}

/// Something of the mesh that serves no connection.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Orphan {
    /// Why it counts as one.
    pub kind: Kind,
    /// What it says it is of: connection and forwarder, as far as they are known.
    pub owner: String,
    /// The change that removes it.
    pub(super) removal: Removal,
}

/// [`Operation`]s have no order and no hash; these are those that remove.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Removal {
    Link { at: Whereabouts, index: u32, name: String },
    Rule { netns: NetnsKey, rule: Rule },
}

/// What this forwarder knows of, for comparisons.
struct Known<'a> {
    footprints: &'a HashMap<ConnectionId, Footprint>,
    /// Namespaces with the numbers of connections that may have rules there.
    rules: HashSet<(NetnsKey, u32)>,
}

/// What of `found` no connection of `footprints` has, and no other forwarder made.
pub(super) fn orphans(
    found: &[Found],
    forwarder: Option<&ForwarderId>,
    footprints: &HashMap<ConnectionId, Footprint>,
) -> Vec<Orphan> {
    let policed = footprints.values().filter(|footprint| footprint.has_policies);
    let rules = policed.flat_map(|footprint| {
        let clients = footprint.places.iter().filter(|place| place.role == Role::Client);
        clients.map(|place| (place.netns, tag(&footprint.id)))
    });
    let known = Known { footprints, rules: rules.collect() };
    found.iter().filter_map(|found| known.orphan(found, forwarder)).collect()
}

// === impl Known ===

impl Known<'_> {
    fn orphan(&self, found: &Found, own: Option<&ForwarderId>) -> Option<Orphan> {
        let kind = match found {
            Found::Link { at, index, owner, forwarder, .. } => {
                self.link(*at, *index, owner, forwarder.as_ref(), own)?
            }
            Found::Rule { netns, rule } => self.rule(*netns, rule, own)?,
        };
        Some(Orphan { kind, owner: found.owner(), removal: found.removal() })
    }

    fn link(
        &self,
        at: Whereabouts,
        index: u32,
        owner: &Owner,
        forwarder: Option<&ForwarderId>,
        own: Option<&ForwarderId>,
    ) -> Option<Kind> {
        match owner {
            Owner::Foreign => None,
            // Its connection has gone on without it, so none has it any more.
            Owner::Retired => (forwarder.is_some() && forwarder == own).then_some(Kind::Link),
            Owner::Unfinished => (!self.is_begun(at, index)).then_some(Kind::Unfinished),
            Owner::Connection(id) => match (self.footprints.get(id), forwarder) {
                (_, Some(_)) if forwarder != own => None,
                (None, None) => Some(Kind::Unnamed),
                (None, Some(_)) => Some(Kind::Link),
                // Left at a place that its connection has no more.
                (Some(footprint), Some(_)) => (!footprint.may_be(at)).then_some(Kind::Link),
                (Some(_), None) => None,
            },
        }
    }

    /// Whether a connection that is known here is just being built there, or was not finished.
    fn is_begun(&self, at: Whereabouts, index: u32) -> bool {
        let Whereabouts::Netns(key) = at else { return false };
        self.footprints.values().any(|footprint| {
            let mut places = footprint.places.iter().filter(|place| place.netns == key);
            places.any(|place| footprint.has_index(place, index))
        })
    }

    fn rule(&self, netns: NetnsKey, rule: &Rule, own: Option<&ForwarderId>) -> Option<Kind> {
        if self.rules.contains(&(netns, rule.tag)) {
            return None;
        }
        match rule.mark {
            0 => Some(Kind::Unnamed),
            mark => (own.map(ForwarderId::mark) == Some(mark)).then_some(Kind::Rule),
        }
    }
}

// === impl Footprint ===

impl Footprint {
    /// Whether a link of the connection belongs there; of a namespace that is only a number nobody knows.
    fn may_be(&self, at: Whereabouts) -> bool {
        match at {
            Whereabouts::Netns(key) => self.places.iter().any(|place| place.netns == key),
            Whereabouts::Nsid(_) => true,
        }
    }
}

// === impl Found ===

impl Found {
    /// The connection that it says it serves.
    pub fn connection(&self) -> Option<&ConnectionId> {
        match self {
            Self::Link { owner: Owner::Connection(id), .. } => Some(id),
            _ => None,
        }
    }

    /// What it says it is of: connection and forwarder, as far as they are known.
    pub fn owner(&self) -> String {
        match self {
            Self::Link { owner: Owner::Connection(id), forwarder, .. } => match forwarder {
                Some(forwarder) => format!("connection {id} of {forwarder}"),
                None => format!("connection {id} of an unknown forwarder"),
            },
            Self::Link { owner: Owner::Retired, .. } => {
                "a connection that has ended or another link".to_owned()
            }
            Self::Link { .. } => "unknown: the link was never finished".to_owned(),
            Self::Rule { rule, .. } => format!("connection with number {:#x}", rule.tag),
        }
    }

    /// Who made it, if it says so; a rule has no room for that.
    pub fn forwarder(&self) -> Option<&ForwarderId> {
        match self {
            Self::Link { forwarder, .. } => forwarder.as_ref(),
            Self::Rule { .. } => None,
        }
    }

    /// Whether it says that one of these made it.
    pub fn is_of(&self, forwarders: &[ForwarderId]) -> bool {
        match self {
            Self::Link { forwarder, .. } => forwarder.as_ref().is_some_and(|own| forwarders.contains(own)),
            Self::Rule { rule, .. } => forwarders.iter().any(|forwarder| forwarder.mark() == rule.mark),
        }
    }

    /// `link` or `rule`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Link { .. } => "link",
            Self::Rule { .. } => "rule",
        }
    }

    pub(super) fn operation(&self) -> Operation {
        self.removal().operation()
    }

    fn removal(&self) -> Removal {
        match self {
            Self::Link { at, index, name, .. } => {
                Removal::Link { at: *at, index: *index, name: name.clone() }
            }
            Self::Rule { netns, rule } => Removal::Rule { netns: *netns, rule: *rule },
        }
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.removal().fmt(f)
    }
}

// === impl Orphan ===

impl Orphan {
    /// Whether this forwarder may remove it: it has made it.
    pub fn is_own(&self) -> bool {
        matches!(self.kind, Kind::Link | Kind::Rule)
    }

    pub(super) fn operation(&self) -> Operation {
        self.removal.operation()
    }
}

impl fmt::Display for Orphan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.removal.fmt(f)
    }
}

// === impl Removal ===

impl Removal {
    fn operation(&self) -> Operation {
        match self {
            Self::Link { at: Whereabouts::Netns(netns), index, name } => {
                Operation::Delete(At { netns: *netns, index: *index, name: name.clone() })
            }
            Self::Link { at: Whereabouts::Nsid(nsid), index, name } => {
                let distant = Distant { nsid: *nsid, index: *index, name: name.clone(), forwarder: None };
                Operation::DeleteDistant(distant)
            }
            Self::Rule { netns, rule } => Operation::RemoveRule(*netns, *rule),
        }
    }
}

impl fmt::Display for Removal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Link { at: Whereabouts::Netns(netns), name, .. } => write!(f, "link {name} in {netns}"),
            Self::Link { at: Whereabouts::Nsid(nsid), name, .. } => {
                write!(f, "link {name} in the namespace with nsid {nsid}")
            }
            Self::Rule { netns, rule } => write!(f, "{rule} in {netns}"),
        }
    }
}

// === impl Kind ===

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Link, Self::Rule, Self::Unfinished, Self::Unnamed];

    /// As it is called in figures.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Link => "link",
            Self::Rule => "rule",
            Self::Unfinished => "unfinished",
            Self::Unnamed => "unnamed",
        }
    }
}

#[cfg(test)]
mod tests;

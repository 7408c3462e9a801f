//! Policy routes in the kernel: a rule and a table for each.
//!
//! Whose a rule is, is on the rule, as it is on a link: `FRA_PROTOCOL` is the mesh's, and the group
//! that its routes are not to lead to (`suppress_ifgroup`) is a number made from the connection. No
//! link has that group, so it changes nothing but that the rule can be told from all others. It has
//! to stand there: rules outlive their links, and the routes in their tables do not. The forwarder's
//! number is a packet mark of which no bit is looked at (`fwmark N/0`).
//!
//! Tables are the first that nobody in the namespace uses, which is where upstream's tests look for
//! them. What is last in the list is looked at first, as with rules that get their priority from
//! the kernel; but all come after the pod's own.

use std::{collections::BTreeSet, fmt};

use super::ids::ConnectionId;
use crate::api::{
    context::Hop,
    mechanism::fnv1a,
    policies::{Policy, Ports, Selector},
};

/// Table of routes that no policy has (`RT_TABLE_MAIN`).
pub const MAIN: u8 = 254;

/// Last table a policy may have: the kernel keeps 253 to 255 for itself.
pub(super) const LAST: u8 = 252;

/// Priority of the first policy's rule: right before the rule of the main table.
const FIRST_PRIORITY: u32 = 32_765;

/// A rule as it is in the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rule {
    /// The connection's number.
    pub tag: u32,
    /// The forwarder's number; 0 on rules of earlier versions.
    pub mark: u32,
    /// Smaller ones are looked at first.
    pub priority: u32,
    /// Which packets.
    pub selector: Selector,
    /// Where their routes are, 1 to [`LAST`].
    pub table: u8,
}

/// A rule of the connection with its routes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedPolicy {
    /// The rule.
    pub rule: Rule,
    /// Routes of ours in its table over the connection's link.
    pub hops: Vec<Hop>,
    /// Whether another rule leads to that table too.
    pub shared: bool,
}

/// What there is in the client's namespace.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policies {
    /// The connection's.
    pub own: Vec<ObservedPolicy>,
    /// Tables that others use, by a rule or by a route.
    pub taken: BTreeSet<u8>,
}

/// The number of a connection on its rules: above every group that people give to links.
pub(super) fn tag(id: &ConnectionId) -> u32 {
    (1 << 30) | u32::try_from(fnv1a(id.as_str().as_bytes()) >> 34).unwrap_or_default()
}

/// Rules that `policies` want, with their priorities and without tables.
pub(super) fn wanted(policies: &[Policy]) -> impl Iterator<Item = (u32, &Policy)> {
    (0..=FIRST_PRIORITY).rev().zip(policies)
}

// === impl Rule ===

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let selector = &self.selector;
        f.write_str(if selector.ipv6 { "IPv6 rule" } else { "IPv4 rule" })?;
        if let Some(from) = selector.from {
            write!(f, " from {from}")?;
        }
        if let Some(proto) = selector.proto {
            write!(f, " ipproto {proto}")?;
        }
        for (name, ports) in [("sport", selector.src_ports), ("dport", selector.dst_ports)] {
            if let Some(Ports { first, last }) = ports {
                write!(f, " {name} {first}-{last}")?;
            }
        }
        write!(f, " table {}", self.table)
    }
}

// === impl Policies ===

impl Policies {
    /// Sorts rules, each with whether it is the connection's, and routes, each with its table and,
    /// if it is ours and over the connection's link, where it leads.
    pub(super) fn new(rules: &[(u8, Option<Rule>)], routes: &[(u8, Option<Hop>)]) -> Self {
        let own = rules.iter().filter_map(|(_, rule)| *rule).map(|rule| ObservedPolicy {
            rule,
            hops: routes
                .iter()
                .filter(|(table, _)| *table == rule.table)
                .filter_map(|(_, hop)| *hop)
                .collect(),
            shared: rules.iter().filter(|(table, _)| *table == rule.table).count() > 1,
        });
        let by_rule = rules.iter().filter(|(_, rule)| rule.is_none()).map(|(table, _)| *table);
        let by_route = routes.iter().filter(|(_, hop)| hop.is_none()).map(|(table, _)| *table);
        Self { own: own.collect(), taken: by_rule.chain(by_route).collect() }
    }

    /// Takes rules that name another forwarder for somebody else's.
    pub(super) fn disown(&mut self, mark: u32) {
        let (own, others) =
            std::mem::take(&mut self.own).into_iter().partition(|own| [0, mark].contains(&own.rule.mark));
        self.own = own;
        let others: Vec<ObservedPolicy> = others;
        self.taken.extend(others.iter().map(|other| other.rule.table));
    }
}

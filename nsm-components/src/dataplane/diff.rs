//! From desired and observed to the changes between them. Pure.

use super::{
    desired::{Desired, End, Footprint, Link, Neighbour, Role, alias, altname},
    ids::{ConnectionId, ForwarderId, NetnsKey},
    observed::{Observed, ObservedEnd, ObservedKind, ObservedLink, OwnedLink, Owner},
    operation::{At, Operation},
    policy::{self, MAIN, Policies},
    traffic::Traffic,
};

/// Something that is not ours to change stands in the way.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// The interface name belongs to someone else.
    #[error(
        "interface {name} exists in {netns} and is not ours: remove it or ask for another interface name"
    )]
    Foreign {
        /// The pod's namespace.
        netns: NetnsKey,
        /// The name that is taken.
        name: String,
    },
    /// The interface name belongs to another connection that is in use.
    #[error("interface {name} in {netns} serves connection {connection}: ask for another interface name")]
    InUse {
        /// The pod's namespace.
        netns: NetnsKey,
        /// The name that is taken.
        name: String,
        /// Whose it is.
        connection: ConnectionId,
    },
    /// The interface name belongs to a connection of another forwarder on this machine.
    #[error(
        "interface {name} in {netns} serves connection {connection} of forwarder {forwarder}: end it there, \
         or ask for another interface name"
    )]
    OtherForwarder {
        /// The pod's namespace.
        netns: NetnsKey,
        /// The name that is taken.
        name: String,
        /// Whose it is.
        connection: ConnectionId,
        /// Who made it.
        forwarder: ForwarderId,
    },
    /// More policy routes than tables.
    #[error("{netns} has no table left for {policies} policy routes: a namespace has 252 tables")]
    NoTable {
        /// The pod's namespace.
        netns: NetnsKey,
        /// How many the connection has.
        policies: usize,
    },
    /// There is no way into the pod.
    #[error("{0} is gone or cannot be entered: the pod's descriptor has to come with the Request")]
    Unreachable(NetnsKey),
}

/// The changes that lead from `observed` to `desired`, in the order in which the kernel takes
/// them; empty when nothing is missing. `in_use` says of another connection whether it may lose
/// an interface whose name is wanted here.
pub fn diff(
    desired: &Desired,
    observed: &Observed,
    in_use: &dyn Fn(&ConnectionId) -> bool,
) -> Result<Vec<Operation>, Conflict> {
    let looks = looks(desired, observed)?;
    if let Some(own) = reusable(desired, &looks) {
        let mut operations = Vec::new();
        for ((end, link), look) in desired.ends.iter().zip(own).zip(&looks) {
            operations.extend(change(desired, end, link, look.policies)?);
        }
        return Ok(operations);
    }
    // Rules first: once the link is gone there is no way back.
    let mut operations = Vec::new();
    for (end, look) in desired.ends.iter().zip(&looks) {
        operations.extend(rules(end.netns, look.policies));
    }
    let (aside, deletions) = clear(desired, &looks, in_use)?;
    operations.extend(aside);
    operations.push(Operation::Create(Box::new(desired.clone())));
    for (end, look) in desired.ends.iter().zip(&looks) {
        // Once a pod: what it sets later is its own affair.
        operations.push(Operation::AllowPing(end.netns));
        let policies = Policies { own: Vec::new(), taken: look.policies.taken.clone() };
        operations.extend(change(desired, end, &newborn(end), &policies)?);
        operations.extend(acquaint(desired, end));
    }
    operations.extend(deletions);
    Ok(operations)
}

/// The changes by which this forwarder removes everything of a connection; empty when nothing is there.
/// What names another forwarder stays: ids and inode numbers come again.
pub fn removal(
    footprint: &Footprint,
    forwarder: Option<&ForwarderId>,
    observed: &Observed,
) -> Vec<Operation> {
    let is_ours =
        |other: &Option<ForwarderId>| other.is_none() || forwarder.is_none() || other.as_ref() == forwarder;
    let places = || footprint.places.iter().zip(&observed.ends);
    let links = places().filter_map(|(place, end)| match end {
        ObservedEnd::Reachable { own: Some(link), .. } if is_ours(&link.forwarder) => {
            Some((place.role, place.netns, &**link))
        }
        _ => None,
    });
    let links: Vec<_> = links.collect();
    let mut operations = match links.as_slice() {
        // An endpoint has many, and to lower one takes the kernel a look at all its routes.
        [first, second] if peers(first.2, second.2) => {
            let mut operations = retire(&footprint.id, &[*second]);
            operations.push(Operation::MarkRetired(at(first)));
            operations.extend(without_altname(&footprint.id, first));
            operations
        }
        links => retire(&footprint.id, links),
    };
    for (place, end) in places() {
        match end {
            ObservedEnd::Distant(distant) if is_ours(&distant.forwarder) => {
                operations.push(Operation::DeleteDistant(distant.clone()));
            }
            ObservedEnd::Reachable { own: None, occupant: Some(link), .. }
                if link.owner == Owner::Unfinished && footprint.has_index(place, link.index) =>
            {
                let at = At { netns: place.netns, index: link.index, name: link.name.clone() };
                operations.push(Operation::Delete(at));
            }
            _ => {}
        }
    }
    operations.extend(places().flat_map(|(place, end)| match end {
        ObservedEnd::Reachable { policies, .. } => rules(place.netns, policies),
        _ => Vec::new(),
    }));
    operations.extend(deletions(&links));
    operations
}

/// Removes the rules; the routes in their tables go with the link.
fn rules(netns: NetnsKey, policies: &Policies) -> Vec<Operation> {
    policies.own.iter().map(|own| Operation::RemoveRule(netns, own.rule)).collect()
}

/// A connection's link: whom it serves, where it is, and how it is.
type Standing<'a> = (Role, NetnsKey, &'a ObservedLink);

/// Takes links of a connection out of use: their names are free and nothing passes them any more. That takes a
/// fraction of a millisecond; to delete a link takes the kernel tens of them.
fn retire(id: &ConnectionId, links: &[Standing<'_>]) -> Vec<Operation> {
    let retired = |link| set_aside(at(link)).into_iter().chain(without_altname(id, link));
    links.iter().flat_map(retired).collect()
}

fn without_altname(id: &ConnectionId, link: &Standing<'_>) -> Option<Operation> {
    link.2.has_altname.then(|| Operation::RemoveAltname(at(link), altname(id, link.0)))
}

fn at((_, netns, link): &Standing<'_>) -> At {
    At { netns: *netns, index: link.index, name: link.name.clone() }
}

fn set_aside(at: At) -> [Operation; 2] {
    let name = format!("nsx{:x}", at.index);
    [Operation::Retire(at.clone()), Operation::Rename(at, name)]
}

/// Deletes them, those of a pair by its first end: an endpoint's namespace has most of them.
fn deletions(links: &[Standing<'_>]) -> impl Iterator<Item = Operation> {
    let links = match links {
        [(_, _, a), (_, _, b)] if peers(a, b) => &links[..1],
        links => links,
    };
    links.iter().map(|(_, netns, _)| Operation::DeleteRetired(*netns))
}

struct Look<'a> {
    own: Option<&'a ObservedLink>,
    occupant: Option<&'a OwnedLink>,
    policies: &'a Policies,
}

fn looks<'a>(desired: &Desired, observed: &'a Observed) -> Result<Vec<Look<'a>>, Conflict> {
    let look = |(at, end): (usize, &End)| match observed.ends.get(at) {
        Some(ObservedEnd::Reachable { own, occupant, policies }) => {
            Ok(Look { own: own.as_deref(), occupant: occupant.as_ref(), policies })
        }
        Some(ObservedEnd::Unreachable | ObservedEnd::Distant(_)) | None => {
            Err(Conflict::Unreachable(end.netns))
        }
    };
    desired.ends.iter().enumerate().map(look).collect()
}

/// The links as they are, when they are the right ones; the rest can be changed in place.
fn reusable<'a>(desired: &Desired, looks: &[Look<'a>]) -> Option<Vec<&'a ObservedLink>> {
    let own: Vec<&ObservedLink> = looks.iter().map(|look| look.own).collect::<Option<_>>()?;
    let named = desired.ends.iter().zip(&own).all(|(end, link)| end.name == link.name);
    let kind = match (desired.link, own.as_slice()) {
        (Link::Veth, [a, b]) => peers(a, b),
        (Link::Vxlan(tunnel), [link]) => link.kind == ObservedKind::Vxlan(tunnel),
        // Whatever differs can be changed on it.
        (Link::Wireguard(_), [link]) => matches!(link.kind, ObservedKind::Wireguard(_)),
        _ => false,
    };
    (named && kind).then_some(own)
}

fn peers(a: &ObservedLink, b: &ObservedLink) -> bool {
    let is_peer = |a: &ObservedLink, b: &ObservedLink| a.kind == ObservedKind::Veth { peer: b.index };
    is_peer(a, b) && is_peer(b, a)
}

/// What takes that out of the way which stands at the places and is ours to remove, and what deletes it.
fn clear(
    desired: &Desired,
    looks: &[Look<'_>],
    in_use: &dyn Fn(&ConnectionId) -> bool,
) -> Result<(Vec<Operation>, Vec<Operation>), Conflict> {
    let own = desired.ends.iter().zip(looks).filter_map(|(end, look)| Some((end.role, end.netns, look.own?)));
    let own: Vec<_> = own.collect();
    // The kernel has one device with a VNI and a port, in use or not.
    let same_vni = |link: &ObservedLink| match (desired.link, link.kind) {
        (Link::Vxlan(new), ObservedKind::Vxlan(old)) => (new.vni, new.port) == (old.vni, old.port),
        _ => false,
    };
    let (mut operations, mut later) = match own.as_slice() {
        [link] if same_vni(link.2) => (vec![Operation::Delete(at(link))], Vec::new()),
        own => (retire(&desired.id, own), deletions(own).collect()),
    };
    for (end, occupant) in
        desired.ends.iter().zip(looks).filter_map(|(end, look)| Some((end, look.occupant?)))
    {
        let (netns, name) = (end.netns, end.name.clone());
        match &occupant.owner {
            Owner::Foreign => return Err(Conflict::Foreign { netns, name }),
            Owner::Connection(id)
                if let (Some(other), Some(own)) = (&occupant.forwarder, &desired.forwarder)
                    && other != own =>
            {
                let (connection, forwarder) = (id.clone(), other.clone());
                return Err(Conflict::OtherForwarder { netns, name, connection, forwarder });
            }
            Owner::Connection(id) if *id != desired.id && in_use(id) => {
                return Err(Conflict::InUse { netns, name, connection: id.clone() });
            }
            owner @ (Owner::Connection(_) | Owner::Unfinished | Owner::Retired) => {
                let at = At { netns, index: occupant.index, name };
                operations.extend(set_aside(at.clone()));
                // One that was never finished may have this connection's second name already.
                let id = if let Owner::Connection(id) = owner { id } else { &desired.id };
                let altnames = [Role::Client, Role::Endpoint].map(|role| altname(id, role));
                operations.extend(altnames.map(|name| Operation::RemoveAltname(at.clone(), name)));
                later.push(Operation::DeleteRetired(netns));
            }
        }
    }
    Ok((operations, later))
}

/// An end right after its creation.
fn newborn(end: &End) -> ObservedLink {
    ObservedLink {
        index: end.index,
        name: end.name.clone(),
        has_altname: false,
        kind: ObservedKind::Other,
        mac: end.mac,
        mtu: end.mtu.unwrap_or_default(),
        up: false,
        // A namespace may have IPv6 off by default, which nobody has asked yet.
        ipv6_disabled: true,
        addresses: Vec::new(),
        routes: Vec::new(),
        neighbours: Vec::new(),
        traffic: Traffic::default(),
        forwarder: None,
    }
}

/// Tells a new end of a pair where the other's addresses are, unless it has such neighbours for good. What a
/// program sends before the pair carries packets would be lost, the search for the neighbour too, which is not
/// repeated for a second.
fn acquaint(desired: &Desired, end: &End) -> Vec<Operation> {
    let at = || At { netns: end.netns, index: end.index, name: end.name.clone() };
    let others = desired.ends.iter().filter(|other| other.role != end.role);
    let others = others.flat_map(|other| other.addresses.iter().map(|net| (net.addr(), other.mac)));
    let new = others.filter(|(ip, _)| end.neighbours.iter().all(|known| known.ip != *ip));
    new.map(|(ip, mac)| Operation::Acquaint(at(), Neighbour { ip, mac })).collect()
}

/// What one end still lacks. Sysctls first, so that the rest is one batch; the link is up before
/// its routes, and old routes go before new ones come.
fn change(
    desired: &Desired,
    end: &End,
    link: &ObservedLink,
    policies: &Policies,
) -> Result<Vec<Operation>, Conflict> {
    let at = || At { netns: end.netns, index: link.index, name: end.name.clone() };
    let mut operations = Vec::new();
    if link.ipv6_disabled {
        operations.push(Operation::EnableIpv6(at()));
    }
    if let Some(to) = end.mtu.filter(|mtu| *mtu != link.mtu) {
        operations.push(Operation::SetMtu { at: at(), from: link.mtu, to });
    }
    if end.mac != link.mac {
        operations.push(Operation::SetMac { at: at(), from: link.mac, to: end.mac });
    }
    operations.extend(wireguard(desired, link, at));
    if !link.has_altname {
        operations.push(Operation::AddAltname(at(), altname(&desired.id, end.role)));
    }
    // Whoever made it, from here on it is this forwarder's; one that an earlier version made says nothing.
    let of_another =
        link.forwarder.is_some() && desired.forwarder.is_some() && link.forwarder != desired.forwarder;
    if !link.up || of_another {
        operations.push(Operation::Raise(at(), alias(&desired.id, desired.forwarder.as_ref())));
    }
    let [gone, new] = change_of(&link.addresses, &end.addresses);
    operations.extend(gone.into_iter().map(|net| Operation::RemoveAddress(at(), net)));
    operations.extend(new.into_iter().map(|net| Operation::AddAddress(at(), net)));
    let [gone, new] = change_of(&link.routes, &end.routes);
    operations.extend(gone.into_iter().map(|hop| Operation::RemoveRoute(at(), MAIN, hop)));
    operations.extend(new.into_iter().map(|hop| Operation::AddRoute(at(), MAIN, hop)));
    let [gone, new] = change_of(&link.neighbours, &end.neighbours);
    // One address has one entry: a new hardware address replaces the old entry.
    let replaced = |ip| new.iter().any(|neighbour| neighbour.ip == ip);
    let gone = gone.into_iter().filter(|neighbour| !replaced(neighbour.ip));
    operations.extend(gone.map(|neighbour| Operation::RemoveNeighbour(at(), neighbour)));
    operations.extend(new.iter().map(|neighbour| Operation::SetNeighbour(at(), *neighbour)));
    let tag = policy::tag(&desired.id);
    let mark = desired.forwarder.as_ref().map_or(0, ForwarderId::mark);
    operations.extend(policies::change([tag, mark], end, &at(), policies)?);
    Ok(operations)
}

/// Key, port and peer of an encrypted tunnel, before it is raised: its socket is opened then.
fn wireguard(desired: &Desired, link: &ObservedLink, at: impl Fn() -> At) -> Option<Operation> {
    let Link::Wireguard(to) = desired.link else { return None };
    let from = if let ObservedKind::Wireguard(from) = link.kind { from } else { None };
    let is_served = from.is_some_and(|from| to.is_served_by(&from));
    (!is_served).then(|| Operation::SetWireguard { at: at(), from, to })
}

/// What is there and not wanted, and what is wanted and not there, each in order.
fn change_of<T: PartialEq + Copy>(observed: &[T], desired: &[T]) -> [Vec<T>; 2] {
    let without = |of: &[T], other: &[T]| of.iter().copied().filter(|item| !other.contains(item)).collect();
    [without(observed, desired), without(desired, observed)]
}

mod policies;
#[cfg(test)]
mod tests;

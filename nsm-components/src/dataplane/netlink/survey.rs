//! Looking through all namespaces that can be reached, one after the other: nothing of them stays open.
//! Not counted among the questions that connections ask.

use std::{
    collections::HashSet,
    os::fd::{AsFd, AsRawFd},
};

use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkMessage},
    nsid::{NsidAttribute, NsidMessage},
    rule::RuleMessage,
};
use nix::errno::Errno;
use tracing::debug;

use super::{
    parse::{as_link, forwarder, name, nsid, owner},
    read::no_statistics,
    rule::parse,
    session::Session,
    socket::Rtnl,
};
use crate::dataplane::{
    netns::Netns,
    observed::Owner,
    port::KernelError,
    survey::{Found, Whereabouts},
};

fn enter(netns: &Netns) -> Result<Rtnl, KernelError> {
    netns.enter().map_err(|source| KernelError::Io { doing: "enter a network namespace", source })?;
    Rtnl::route()
}

/// Links with the mark of the mesh.
fn links(found: &[RouteNetlinkMessage], at: Whereabouts) -> impl Iterator<Item = Found> {
    let ours = found.iter().filter_map(as_link).map(|link| (link, owner(link)));
    let ours = ours.filter(|(_, owner)| *owner != Owner::Foreign);
    ours.map(move |(link, owner)| Found::Link {
        at,
        index: link.header.index,
        name: name(link).unwrap_or_default().to_owned(),
        owner,
        forwarder: forwarder(link),
    })
}

fn all_links(more: Option<LinkAttribute>) -> RouteNetlinkMessage {
    let mut all = LinkMessage::default();
    all.attributes.push(no_statistics());
    all.attributes.extend(more);
    RouteNetlinkMessage::GetLink(all)
}

/// All of the mesh in a namespace.
fn look(netns: &Netns) -> Result<Vec<Found>, KernelError> {
    let mut socket = enter(netns)?;
    let mut found: Vec<_> = links(&socket.dump(&all_links(None))?, Whereabouts::Netns(netns.key())).collect();
    let rules = socket.dump(&RouteNetlinkMessage::GetRule(RuleMessage::default()))?;
    let rules = rules.iter().filter_map(parse).filter_map(|(_, rule)| rule);
    found.extend(rules.map(|rule| Found::Rule { netns: netns.key(), rule }));
    Ok(found)
}

/// The number that the socket's namespace has for another one, if any.
fn number(socket: &mut Rtnl, netns: &Netns) -> Option<i32> {
    let mut asked = NsidMessage::default();
    let descriptor = u32::try_from(netns.as_fd().as_raw_fd()).ok()?;
    asked.attributes.push(NsidAttribute::Fd(descriptor));
    let found = socket.get(RouteNetlinkMessage::GetNsId(asked)).ok()??;
    nsid(&found).filter(|number| *number >= 0)
}

// === impl Session ===

impl Session {
    /// See the module. The thread ends with it: it is in some namespace or other afterwards.
    pub(super) fn survey(&mut self) -> Result<Vec<Found>, KernelError> {
        let underlay = self.underlay_netns();
        let mut socket = enter(&underlay)?;
        let (mut found, mut seen) = (Vec::new(), HashSet::new());
        for netns in Netns::all() {
            match look(&netns) {
                Ok(more) => {
                    found.extend(more);
                    seen.extend(number(&mut socket, &netns));
                }
                // It ended meanwhile, or belongs to another user.
                Err(error) => debug!(netns = %netns.key(), %error, "not looked at"),
            }
        }
        let numbered = socket.dump(&RouteNetlinkMessage::GetNsId(NsidMessage::default()))?;
        for nsid in numbered.iter().filter_map(nsid).filter(|nsid| !seen.contains(nsid)) {
            match socket.dump(&all_links(Some(LinkAttribute::IfNetnsId(nsid)))) {
                Ok(all) => found.extend(links(&all, Whereabouts::Nsid(nsid))),
                Err(error) if error.errno() == Some(Errno::EINVAL) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }
}

//! Links of connections that somebody deletes or sets down, as the kernel tells it: in the own namespace and
//! in all that it has a number for, which those of pods do (`NETLINK_LISTEN_ALL_NSID`).

use std::time::{Duration, SystemTime};

use futures::FutureExt;
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkFlags, LinkMessage},
};
use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket, protocols::NETLINK_ROUTE};

use super::parse::{forwarder, name, owner};
use crate::dataplane::{
    ids::{ConnectionId, ForwarderId},
    observed::Owner,
    port::KernelError,
};

/// `RTMGRP_LINK` of linux/rtnetlink.h.
const LINKS: u32 = 1;

/// `RTM_NEWLINK` and `RTM_DELLINK` of linux/rtnetlink.h.
const NEW: u16 = 16;
const DELETED: u16 = 17;

/// Where the flags of the link stand: behind netlink's header, family, type and index (linux/rtnetlink.h).
const FLAGS: std::ops::Range<usize> = 24..28;

/// Events of this time are read together: making a connection's links alone causes some ten.
const GATHER: Duration = Duration::from_millis(50);

/// Room for those events in the kernel, and for one message, in bytes.
const RECEIVE: (usize, usize) = (4 << 20, 64 << 10);

/// A link that carries no packets any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// Whose it is.
    pub connection: ConnectionId,
    /// Who made it, if it says so.
    pub forwarder: Option<ForwarderId>,
    /// Its name.
    pub name: String,
    /// Whether it is gone; else it is down.
    pub gone: bool,
}

/// See the module.
pub struct LinkEvents {
    socket: TokioSocket,
    buffer: Vec<u8>,
}

// === impl LinkEvents ===

impl LinkEvents {
    /// Hears from now on of what happens seen from this thread's namespace. Needs `CAP_NET_BROADCAST`.
    pub fn open() -> Result<Self, KernelError> {
        let open = || {
            let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
            let netlink = socket.socket_mut();
            netlink.set_listen_all_namespaces(true)?;
            // The usual room is soon full; less of it is no reason to hear nothing.
            let _ = rustix::net::sockopt::set_socket_recv_buffer_size_force(&*netlink, RECEIVE.0);
            netlink.bind(&SocketAddr::new(0, LINKS))?;
            Ok(Self { socket, buffer: Vec::with_capacity(RECEIVE.1) })
        };
        open().map_err(|source| KernelError::Io { doing: "hear of links in all namespaces", source })
    }

    /// Those that broke next, and since when that may be known. After an overflow (`ENOBUFS`) it does not say
    /// which, and goes on.
    pub async fn next(&mut self) -> Result<(SystemTime, Vec<Broken>), KernelError> {
        loop {
            let mut all = self.receive().await?;
            let heard = SystemTime::now();
            tokio::time::sleep(GATHER).await;
            while let Some(more) = self.receive().now_or_never() {
                all.extend(more?);
            }
            if !all.is_empty() {
                return Ok((heard, all));
            }
        }
    }

    async fn receive(&mut self) -> Result<Vec<Broken>, KernelError> {
        self.buffer.clear();
        match self.socket.recv_from(&mut self.buffer).await {
            Ok(_) => Ok(broken(&self.buffer)),
            Err(error) if error.raw_os_error() == Some(nix::errno::Errno::ENOBUFS as i32) => Ok(Vec::new()),
            Err(source) => Err(KernelError::Io { doing: "hear of links", source }),
        }
    }
}

/// Whether it may tell of a link that broke, from its header alone: most tell of others.
fn may_matter(message: &[u8]) -> bool {
    let Some(kind) = message.get(4..6).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes) else {
        return false;
    };
    let flags = message.get(FLAGS).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_ne_bytes);
    kind == DELETED || kind == NEW && !LinkFlags::from_bits_retain(flags).contains(LinkFlags::Up)
}

fn broken(mut rest: &[u8]) -> Vec<Broken> {
    let mut all = Vec::new();
    while !rest.is_empty() {
        let length = rest.first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes)) as usize;
        if may_matter(rest)
            && let Ok(NetlinkMessage { payload: NetlinkPayload::InnerMessage(message), .. }) =
                NetlinkMessage::deserialize(rest)
        {
            all.extend(of(&message));
        }
        rest = rest.get(length.next_multiple_of(4).max(16)..).unwrap_or_default();
    }
    all
}

fn of(message: &RouteNetlinkMessage) -> Option<Broken> {
    let (link, gone): (&LinkMessage, bool) = match message {
        RouteNetlinkMessage::DelLink(link) => (link, true),
        RouteNetlinkMessage::NewLink(link) => (link, false),
        _ => return None,
    };
    // A link that is being made has no alias yet.
    let Owner::Connection(connection) = owner(link) else { return None };
    let name = name(link).unwrap_or_default().to_owned();
    Some(Broken { connection, forwarder: forwarder(link), name, gone })
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::link::LinkAttribute;

    use super::*;
    use crate::api::names::LINK_GROUP;

    fn link(flags: LinkFlags, alias: &str) -> LinkMessage {
        let mut link = LinkMessage::default();
        link.header.flags = flags;
        link.attributes = vec![
            LinkAttribute::IfName("nsm-1".into()),
            LinkAttribute::Group(LINK_GROUP),
            LinkAttribute::IfAlias(alias.into()),
        ];
        link
    }

    fn bytes(messages: impl IntoIterator<Item = RouteNetlinkMessage>) -> Vec<u8> {
        let mut bytes = Vec::new();
        for message in messages {
            let mut message = NetlinkMessage::from(message);
            message.finalize();
            let start = bytes.len();
            bytes.resize(start + message.buffer_len().next_multiple_of(4), 0);
            message.serialize(&mut bytes[start..]);
        }
        bytes
    }

    #[test]
    fn connections_links_that_are_deleted_or_down_are_told_and_nothing_else() {
        use RouteNetlinkMessage::{DelLink, NewLink};
        let up = LinkFlags::Up;
        let all = broken(&bytes([
            NewLink(link(up, "nsm:fine")),
            NewLink(link(LinkFlags::empty(), "nsm:down")),
            NewLink(link(LinkFlags::empty(), "")),
            DelLink(link(up, "somebody's")),
            DelLink(link(up, "nsm:gone")),
        ]));
        let told: Vec<_> =
            all.iter().map(|it| (it.connection.to_string(), it.name.as_str(), it.gone)).collect();
        assert_eq!(told, [("down".to_owned(), "nsm-1", false), ("gone".to_owned(), "nsm-1", true)]);
    }

    #[test]
    fn what_is_cut_short_is_passed_over() {
        let whole = bytes([RouteNetlinkMessage::DelLink(link(LinkFlags::Up, "nsm:gone"))]);
        for length in 0..whole.len() {
            assert!(broken(&whole[..length]).len() <= 1);
        }
    }
}

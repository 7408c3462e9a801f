//! Interfaces of this process's network namespace that go away or stop to carry packets, as the kernel
//! tells it.

use std::io;

use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkFlags, LinkMessage},
};
use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket, protocols::NETLINK_ROUTE};

/// `RTMGRP_LINK` of linux/rtnetlink.h.
const LINKS: u32 = 1;

/// See the module.
pub(super) struct Links {
    socket: TokioSocket,
    buffer: Vec<u8>,
}

/// Room for many messages.
const RECEIVE: usize = 64 * 1024;

impl Links {
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
        socket.socket_mut().bind(&SocketAddr::new(0, LINKS))?;
        Ok(Self { socket, buffer: Vec::with_capacity(RECEIVE) })
    }

    /// Names of those that broke next. After an overflow it does not say which.
    pub(super) async fn broken(&mut self) -> io::Result<Vec<String>> {
        loop {
            self.buffer.clear();
            self.socket.recv_from(&mut self.buffer).await?;
            let broken = broken(&self.buffer);
            if !broken.is_empty() {
                return Ok(broken);
            }
        }
    }
}

fn broken(mut rest: &[u8]) -> Vec<String> {
    let mut broken = Vec::new();
    while !rest.is_empty() {
        let length = rest.first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes)) as usize;
        if let Ok(NetlinkMessage { payload: NetlinkPayload::InnerMessage(message), .. }) =
            NetlinkMessage::deserialize(rest)
        {
            broken.extend(name_if_broken(&message));
        }
        rest = rest.get(length.next_multiple_of(4).max(16)..).unwrap_or_default();
    }
    broken
}

fn name_if_broken(message: &RouteNetlinkMessage) -> Option<String> {
    let is_broken = |link: &LinkMessage| !link.header.flags.contains(LinkFlags::Up | LinkFlags::LowerUp);
    let link = match message {
        RouteNetlinkMessage::DelLink(link) => link,
        RouteNetlinkMessage::NewLink(link) if is_broken(link) => link,
        _ => return None,
    };
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(flags: LinkFlags) -> LinkMessage {
        let mut link = LinkMessage::default();
        link.header.flags = flags;
        link.attributes.push(LinkAttribute::IfName("nsm-1".into()));
        link
    }

    #[test]
    fn a_link_that_is_gone_is_down_or_has_no_carrier_is_broken() {
        let works = LinkFlags::Up | LinkFlags::LowerUp;
        let new = |flags| name_if_broken(&RouteNetlinkMessage::NewLink(link(flags)));
        assert_eq!(new(works), None);
        assert_eq!(new(LinkFlags::Up).as_deref(), Some("nsm-1"));
        assert_eq!(new(LinkFlags::empty()).as_deref(), Some("nsm-1"));
        assert_eq!(name_if_broken(&RouteNetlinkMessage::DelLink(link(works))).as_deref(), Some("nsm-1"));
    }

    #[test]
    fn all_messages_that_come_together_are_read() {
        let mut bytes = Vec::new();
        for _ in 0..2 {
            let mut message = NetlinkMessage::from(RouteNetlinkMessage::DelLink(link(LinkFlags::empty())));
            message.finalize();
            let start = bytes.len();
            bytes.resize(start + message.buffer_len().next_multiple_of(4), 0);
            message.serialize(&mut bytes[start..]);
        }
        assert_eq!(broken(&bytes), ["nsm-1", "nsm-1"]);
    }
}

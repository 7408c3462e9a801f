//! A blocking netlink socket: several requests in one send, every answer told apart.

use std::{fmt::Debug, io, marker::PhantomData, time::Duration};

use netlink_packet_core::{
    DoneMessage, ErrorMessage, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable,
};
use netlink_packet_generic::GenlMessage;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{
    SocketAddr,
    protocols::{NETLINK_GENERIC, NETLINK_ROUTE},
};
use nix::errno::Errno;
use rustix::net::sockopt::Timeout;

use super::super::port::KernelError;

/// A request with the flags that its kind needs (`NLM_F_CREATE` and so on).
#[derive(Debug)]
pub(super) struct Request<M = RouteNetlinkMessage> {
    pub(super) message: M,
    pub(super) flags: u16,
}

/// Belongs for life to the namespace of the thread that opened it.
pub(super) struct Socket<M> {
    netlink: netlink_sys::Socket,
    sequence: u32,
    received: Vec<u8>,
    speaks: PhantomData<M>,
}

/// A socket for links, addresses and routes.
pub(super) type Rtnl = Socket<RouteNetlinkMessage>;

/// What a socket speaks.
pub(super) trait Message:
    NetlinkSerializable + NetlinkDeserializable<Error: ToString> + Into<NetlinkPayload<Self>> + Clone + Debug
{
}

impl<M> Message for M where
    M: NetlinkSerializable + NetlinkDeserializable<Error: ToString> + Into<NetlinkPayload<M>> + Clone + Debug
{
}

/// A dump is broken off by changes meanwhile (`NLM_F_DUMP_INTR`) and then begun anew.
const DUMP_TRIES: usize = 8;

/// `NLM_F_DUMP_INTR` of linux/netlink.h.
const DUMP_INTERRUPTED: u16 = 0x10;

/// `NLM_F_CAPPED` and `NLM_F_ACK_TLVS` of linux/netlink.h.
const CAPPED: u16 = 0x100;
const ACK_TLVS: u16 = 0x200;

/// `NLMSGERR_ATTR_MSG` of linux/netlink.h.
const EXTENDED_TEXT: u16 = 1;

/// The kernel has answered before `sendmsg` returns; whoever waits longer waits for ever.
const PATIENCE: Duration = Duration::from_secs(5);

/// Netlink's largest part of a dump.
const RECEIVE: usize = 32 * 1024;

// === impl Socket ===

impl Rtnl {
    pub(super) fn route() -> Result<Self, KernelError> {
        Self::open(NETLINK_ROUTE)
    }
}

impl<F: Debug> Socket<GenlMessage<F>> {
    pub(super) fn generic() -> Result<Self, KernelError>
    where
        GenlMessage<F>: Message,
    {
        Self::open(NETLINK_GENERIC)
    }
}

impl<M: Message> Socket<M> {
    fn open(protocol: isize) -> Result<Self, KernelError> {
        let open = || -> io::Result<netlink_sys::Socket> {
            let mut socket = netlink_sys::Socket::new(protocol)?;
            socket.bind_auto()?;
            socket.set_ext_ack(true)?;
            socket.set_cap_ack(true)?;
            // Without it the kernel ignores the filters of a dump.
            socket.set_netlink_get_strict_chk(true)?;
            rustix::net::sockopt::set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
            Ok(socket)
        };
        let netlink = open().map_err(|source| KernelError::Io { doing: "open a netlink socket", source })?;
        Ok(Self { netlink, sequence: 0, received: Vec::with_capacity(RECEIVE), speaks: PhantomData })
    }

    /// Sends all requests in one system call; the kernel works on all of them even when one
    /// fails. One answer each, in order.
    pub(super) fn batch(
        &mut self,
        requests: Vec<Request<M>>,
    ) -> Result<Vec<Result<(), KernelError>>, KernelError> {
        let first = self.sequence.wrapping_add(1);
        let count = requests.len();
        self.send(requests.into_iter().map(|request| (request.message, request.flags | NLM_F_ACK)))?;
        let mut answers: Vec<Option<Result<(), KernelError>>> = (0..count).map(|_| None).collect();
        while answers.iter().any(Option::is_none) {
            for message in self.receive()? {
                let message = message?;
                let at = message.header.sequence_number.wrapping_sub(first) as usize;
                if let (Some(answer), NetlinkPayload::Error(error)) = (answers.get_mut(at), &message.payload)
                {
                    *answer = Some(result(error, message.header.flags));
                }
            }
        }
        Ok(answers.into_iter().flatten().collect())
    }

    /// One object, or `None` when the kernel knows none (ENODEV).
    pub(super) fn get(&mut self, message: M) -> Result<Option<M>, KernelError> {
        self.send([(message, 0)].into_iter())?;
        loop {
            for message in self.receive()? {
                let message = message?;
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                match message.payload {
                    NetlinkPayload::InnerMessage(inner) => return Ok(Some(inner)),
                    NetlinkPayload::Error(error) => {
                        return match result(&error, message.header.flags) {
                            Err(error) if error.errno() != Some(Errno::ENODEV) => Err(error),
                            _ => Ok(None),
                        };
                    }
                    _ => {}
                }
            }
        }
    }

    /// All objects that `message` asks for.
    pub(super) fn dump(&mut self, message: &M) -> Result<Vec<M>, KernelError> {
        for _ in 0..DUMP_TRIES {
            if let Some(found) = self.dump_once(message.clone())? {
                return Ok(found);
            }
        }
        Err(KernelError::Answer(format!("a dump was interrupted by changes {DUMP_TRIES} times")))
    }

    fn dump_once(&mut self, message: M) -> Result<Option<Vec<M>>, KernelError> {
        self.send([(message, NLM_F_DUMP)].into_iter())?;
        let mut found = Vec::new();
        let mut whole = true;
        loop {
            for message in self.receive()? {
                // A link of a kind that cannot be read is none of ours.
                let Ok(message) = message else { continue };
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                whole &= message.header.flags & DUMP_INTERRUPTED == 0;
                match message.payload {
                    NetlinkPayload::InnerMessage(inner) => found.push(inner),
                    NetlinkPayload::Done(done) => {
                        dump_end(&done)?;
                        return Ok(whole.then_some(found));
                    }
                    NetlinkPayload::Error(error) => {
                        result(&error, message.header.flags)?;
                        return Ok(whole.then_some(found));
                    }
                    _ => {}
                }
            }
        }
    }

    fn send(&mut self, messages: impl Iterator<Item = (M, u16)>) -> Result<(), KernelError> {
        let mut buffer = Vec::new();
        for (message, flags) in messages {
            self.sequence = self.sequence.wrapping_add(1);
            let mut message = NetlinkMessage::from(message);
            message.header.sequence_number = self.sequence;
            message.header.flags = NLM_F_REQUEST | flags;
            message.finalize();
            let start = buffer.len();
            // Messages stand at multiples of four bytes (NLMSG_ALIGNTO).
            buffer.resize(start + message.buffer_len().next_multiple_of(4), 0);
            message.serialize(&mut buffer[start..]);
        }
        let sent = self.netlink.send_to(&buffer, &SocketAddr::new(0, 0), 0);
        sent.map(drop).map_err(|source| KernelError::Io { doing: "send to the kernel", source })
    }

    /// What is there to read; each message or why it cannot be read.
    fn receive(&mut self) -> Result<Vec<Result<NetlinkMessage<M>, KernelError>>, KernelError> {
        self.received.clear();
        let got = self.netlink.recv_from(&mut self.received, 0);
        got.map_err(|source| KernelError::Io { doing: "receive from the kernel", source })?;
        let mut rest = self.received.as_slice();
        let mut messages = Vec::new();
        while !rest.is_empty() {
            let length = rest.first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes)) as usize;
            let message = NetlinkMessage::deserialize(rest);
            messages.push(message.map_err(|error| KernelError::Answer(error.to_string())));
            rest = rest.get(length.next_multiple_of(4).max(16)..).unwrap_or_default();
        }
        Ok(messages)
    }
}

fn result(error: &ErrorMessage, flags: u16) -> Result<(), KernelError> {
    match error.raw_code() {
        0 => Ok(()),
        code => Err(KernelError::Refused {
            errno: Errno::from_raw(-code),
            text: extended_text(&error.header, flags),
        }),
    }
}

fn dump_end(done: &DoneMessage) -> Result<(), KernelError> {
    match done.code {
        code if code < 0 => Err(KernelError::Refused { errno: Errno::from_raw(-code), text: None }),
        _ => Ok(()),
    }
}

/// The kernel's words behind the header of the refused request (linux/netlink.h, nlmsgerr).
fn extended_text(payload: &[u8], flags: u16) -> Option<String> {
    if flags & ACK_TLVS == 0 {
        return None;
    }
    let word =
        |at: usize| -> Option<u16> { Some(u16::from_ne_bytes(payload.get(at..at + 2)?.try_into().ok()?)) };
    let request = u32::from_ne_bytes(payload.get(..4)?.try_into().ok()?);
    let mut at = if flags & CAPPED == 0 { (request as usize).next_multiple_of(4) } else { 16 };
    while let (Some(length), Some(kind)) = (word(at), word(at + 2)) {
        let length = usize::from(length);
        let value = payload.get(at + 4..at + length)?;
        if kind & 0x3fff == EXTENDED_TEXT {
            let text = value.split(|byte| *byte == 0).next().unwrap_or_default();
            return Some(String::from_utf8_lossy(text).into_owned());
        }
        at += length.next_multiple_of(4);
    }
    None
}

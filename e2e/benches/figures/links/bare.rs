//! Links without the mesh: the least that the kernel must be asked for a connection, sent as it is.

use std::{
    net::{IpAddr, Ipv4Addr},
    os::fd::{AsRawFd as _, OwnedFd},
    sync::Arc,
};

use anyhow::{Context, Result, bail};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
    link::{InfoData, InfoKind, InfoVeth, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, Prop},
    neighbour::{NeighbourAttribute, NeighbourMessage, NeighbourState},
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nsm_e2e::netns::Netns;

/// Marks the links of this limit, which are none of the mesh.
const GROUP: u32 = 0x000b_a4e0;

/// Where indexes of the links begin: the kernel's own are far below.
const INDEXES: u32 = 1_000_000;

/// Where the bare tunnels listen, beside the mesh's.
const PORT: u16 = 4790;

/// Largest answer to a batch.
const RECEIVE: usize = 64 << 10;

/// A namespace and a socket of the kernel's in it.
struct Place {
    file: Arc<OwnedFd>,
    socket: Socket,
    sequence: u32,
}

/// Pairs between two namespaces.
pub(super) struct Pairs {
    ends: [Place; 2],
}

/// Two halves of a tunnel each: an underlay and the namespace at its end.
pub(super) struct Tunnels {
    ends: [(Place, IpAddr, Place, IpAddr); 2],
}

type Asked = (RouteNetlinkMessage, u16);

// === impl Place ===

impl Place {
    fn new(netns: &Netns) -> Result<Self> {
        let socket = netns.inside(|| -> std::io::Result<Socket> {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            Ok(socket)
        })??;
        Ok(Self { file: netns.file(), socket, sequence: 0 })
    }

    /// Sends all in one call and waits for the kernel to have done all.
    fn ask(&mut self, messages: Vec<Asked>) -> Result<()> {
        let (mut buffer, mut open) = (Vec::new(), messages.len());
        for (message, flags) in messages {
            self.sequence += 1;
            let mut message = NetlinkMessage::from(message);
            message.header.sequence_number = self.sequence;
            message.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
            message.finalize();
            let start = buffer.len();
            buffer.resize(start + message.buffer_len().next_multiple_of(4), 0);
            message.serialize(&mut buffer[start..]);
        }
        self.socket.send_to(&buffer, &SocketAddr::new(0, 0), 0)?;
        let mut answer = Vec::with_capacity(RECEIVE);
        while open > 0 {
            answer.clear();
            self.socket.recv_from(&mut answer, 0)?;
            let mut rest = &answer[..];
            while rest.len() >= 16 {
                let length = rest.first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes)) as usize;
                let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)?;
                if let NetlinkPayload::Error(error) = message.payload {
                    open -= 1;
                    if error.raw_code() != 0 {
                        bail!("the kernel answers {}", error.to_io());
                    }
                }
                rest = rest.get(length.next_multiple_of(4).max(16)..).unwrap_or_default();
            }
        }
        Ok(())
    }

    /// Ends all links of this limit that have an end here.
    fn clear(&mut self) -> Result<()> {
        let mut message = LinkMessage::default();
        message.attributes = vec![LinkAttribute::Group(GROUP)];
        self.ask(vec![(RouteNetlinkMessage::DelLink(message), 0)]).context("the end of all bare links")
    }
}

fn born(number: u32, side: u32, file: &OwnedFd) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = INDEXES + 2 * number + side;
    message.attributes = vec![
        LinkAttribute::IfName(format!("bare-{number}")),
        LinkAttribute::NetNsFd(file.as_raw_fd()),
        LinkAttribute::Group(GROUP),
        LinkAttribute::Address(mac(number, side)),
        LinkAttribute::Mtu(1400),
    ];
    message
}

fn mac(number: u32, side: u32) -> Vec<u8> {
    [&[2, u8::try_from(side).unwrap_or_default()], &number.to_be_bytes()[..]].concat()
}

/// Address of an end.
pub(super) fn ip(number: u32, side: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 128, 0, 0)) + 2 * number + side)
}

/// What turns an end into a connection's: another name, alias, up, address, route and neighbour.
fn dress(number: u32, side: u32, neighbour: bool) -> Vec<Asked> {
    let index = INDEXES + 2 * number + side;
    let link = |attributes| {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes = attributes;
        message
    };
    let create = NLM_F_CREATE | NLM_F_EXCL;
    let name = Prop::AltIfName(format!("bare-by-another-name-{number}"));
    let mut up = link(vec![LinkAttribute::IfAlias(format!("bare:{number}"))]);
    up.header.flags = LinkFlags::Up;
    up.header.change_mask = LinkFlags::Up;
    let (own, other) = (ip(number, side), ip(number, 1 - side));
    let mut address = AddressMessage::default();
    address.header.family = AddressFamily::Inet;
    address.header.prefix_len = 32;
    address.header.index = index;
    address.attributes = vec![AddressAttribute::Local(own.into()), AddressAttribute::Address(own.into())];
    let mut route = RouteMessage::default();
    route.header.address_family = AddressFamily::Inet;
    route.header.destination_prefix_length = 32;
    route.header.table = 254;
    route.header.protocol = RouteProtocol::Static;
    route.header.kind = RouteType::Unicast;
    route.header.scope = RouteScope::Link;
    route.attributes =
        vec![RouteAttribute::Oif(index), RouteAttribute::Destination(RouteAddress::Inet(other))];
    let mut all = vec![
        (RouteNetlinkMessage::NewLinkProp(link(vec![LinkAttribute::PropList(vec![name])])), create),
        (RouteNetlinkMessage::SetLink(up), 0),
        (RouteNetlinkMessage::NewAddress(address), create),
        (RouteNetlinkMessage::NewRoute(route), NLM_F_CREATE),
    ];
    if neighbour {
        let mut entry = NeighbourMessage::default();
        entry.header.family = AddressFamily::Inet;
        entry.header.ifindex = index;
        entry.header.state = NeighbourState::Permanent;
        entry.attributes = vec![
            NeighbourAttribute::Destination(IpAddr::from(other).into()),
            NeighbourAttribute::LinkLayerAddress(mac(number, 1 - side)),
        ];
        all.push((RouteNetlinkMessage::NewNeighbour(entry), create));
    }
    all
}

fn new_link(mut message: LinkMessage, kind: InfoKind, data: InfoData) -> Vec<Asked> {
    message.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind), LinkInfo::Data(data)]));
    vec![(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)]
}

// === impl Pairs ===

impl Pairs {
    pub(super) fn between(a: &Netns, b: &Netns) -> Result<Self> {
        Ok(Self { ends: [Place::new(a)?, Place::new(b)?] })
    }

    /// Makes a pair with all that a connection has.
    pub(super) fn make(&mut self, number: u32) -> Result<()> {
        let [a, b] = &mut self.ends;
        let data = InfoData::Veth(InfoVeth::Peer(born(number, 1, &b.file)));
        a.ask(new_link(born(number, 0, &a.file), InfoKind::Veth, data)).context("a bare pair")?;
        a.ask(dress(number, 0, true)).context("the first end of a bare pair")?;
        b.ask(dress(number, 1, true)).context("the other end of a bare pair")
    }

    /// Ends all of them.
    pub(super) fn clear(&mut self) -> Result<()> {
        self.ends[0].clear()
    }
}

// === impl Tunnels ===

impl Tunnels {
    /// Between two namespaces, each beyond a node with its address.
    pub(super) fn between(ends: [(&Netns, IpAddr, &Netns, IpAddr); 2]) -> Result<Self> {
        let place = |(node, own, pod, other): (&Netns, IpAddr, &Netns, IpAddr)| -> Result<_> {
            Ok((Place::new(node)?, own, Place::new(pod)?, other))
        };
        let [a, b] = ends;
        Ok(Self { ends: [place(a)?, place(b)?] })
    }

    /// Makes both halves of a tunnel with all that a connection has.
    pub(super) fn make(&mut self, number: u32) -> Result<()> {
        for (side, (node, own, pod, other)) in (0..).zip(&mut self.ends) {
            let address = |ip: IpAddr, four: fn(Ipv4Addr) -> InfoVxlan| match ip {
                IpAddr::V4(ip) => Ok(four(ip)),
                IpAddr::V6(ip) => bail!("{ip}: the bare tunnels are over IPv4"),
            };
            let data = InfoData::Vxlan(vec![
                InfoVxlan::Id(1 + number),
                address(*own, InfoVxlan::Local)?,
                address(*other, InfoVxlan::Group)?,
                InfoVxlan::Port(PORT),
                InfoVxlan::Learning(false),
            ]);
            node.ask(new_link(born(number, side, &pod.file), InfoKind::Vxlan, data))
                .context("a bare tunnel")?;
            pod.ask(dress(number, side, false))?;
        }
        Ok(())
    }

    /// Ends all of them.
    pub(super) fn clear(&mut self) -> Result<()> {
        self.ends.iter_mut().try_for_each(|(_, _, pod, _)| pod.clear())
    }
}

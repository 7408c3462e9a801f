//! From a connection to its kernel objects. Pure.

use ipnet::IpNet;

use super::{
    desired::{Desired, End, Link, Neighbour, Role, VxlanLink, mac},
    ids::{BadConnectionId, ConnectionId, NetnsKey},
    wireguard::WireguardLink,
};
use crate::api::{
    Connection,
    connectioncontext::ConnectionContext,
    context,
    mechanism::{interface_name_is_valid, vxlan_overhead, wireguard_overhead},
    policies::policies,
};

/// How a connection leaves the forwarder on one side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Side {
    /// An interface in a pod of this node.
    Kernel {
        /// The pod's namespace.
        netns: NetnsKey,
        /// Interface name in the pod.
        ifname: String,
    },
    /// A tunnel to another node.
    Vxlan {
        /// Identity of the tunnel as seen from here.
        tunnel: VxlanLink,
        /// Largest inner packet in bytes that the underlay carries (its MTU less the overhead);
        /// 0 when unknown, which counts as an underlay of 1500.
        mtu: u32,
    },
    /// An encrypted tunnel to another node.
    Wireguard {
        /// This end of it.
        tunnel: WireguardLink,
        /// As of [`Side::Vxlan`].
        mtu: u32,
    },
}

/// The connection cannot be built on this data plane.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The connection's id.
    #[error(transparent)]
    Id(#[from] BadConnectionId),
    /// The interface's name.
    #[error(
        "interface name {0:?} is not one the kernel takes: give 1 to 15 bytes without '/', ':' and blanks"
    )]
    InterfaceName(String),
    /// Both ends in one pod under one name.
    #[error(
        "client and endpoint are both in {netns} and both want interface {name}: name one of them differently"
    )]
    SameInterface {
        /// The pod's namespace.
        netns: NetnsKey,
        /// The name both want.
        name: String,
    },
    /// Tunnel to tunnel.
    #[error("no side of connection {0} is a pod of this node")]
    NoPod(ConnectionId),
    /// The tunnel's numbers.
    #[error("tunnel vni {} from {} to {} port {} cannot be: {why}", .tunnel.vni, .tunnel.local, .tunnel.remote, .tunnel.port)]
    Tunnel {
        /// As given.
        tunnel: VxlanLink,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The other end's address.
    #[error("a tunnel to {0} cannot be: name the address and UDP port of one host")]
    Endpoint(std::net::SocketAddr),
    /// Frames through a tunnel of packets.
    #[error("WireGuard carries IP packets alone, and the payload is {0:?}: let it be IP, or offer VXLAN")]
    Payload(String),
    /// IPv6 over a path that is too small for it.
    #[error(
        "mtu {mtu} of the path is below 1280, the smallest of IPv6 (RFC 8200), and {address} is asked for: \
         raise the MTU between the nodes or give the service IPv4 addresses alone"
    )]
    Ipv6Mtu {
        /// Of the path, in bytes.
        mtu: u32,
        /// The first IPv6 address.
        address: IpNet,
    },
    /// Smaller than any link.
    #[error("mtu {0} is below 68, the smallest of IPv4 (RFC 791)")]
    Mtu(u32),
}

/// Smallest MTU of a link that carries IPv4 (`ETH_MIN_MTU`).
const MIN_MTU: u32 = 68;

/// Smallest MTU of a link that carries IPv6 (RFC 8200 §5); below it the kernel takes IPv6 off the link.
const MIN_IPV6_MTU: u32 = 1280;

/// Payload of connections that carry IP packets rather than frames.
const IP: &str = "IP";

/// MTU of an underlay that nobody has asked: Ethernet's.
const ETHERNET_MTU: u32 = 1500;

/// The kernel objects of `connection` between `server`, the side of the client (nsc) that calls,
/// and `client`, the side of the endpoint (nse) that is called.
pub fn plan(connection: &Connection, server: &Side, client: &Side) -> Result<Desired, PlanError> {
    let id = ConnectionId::new(connection.id.clone())?;
    let context = connection.context.clone().unwrap_or_default();
    let (link, mtu) = link(server, client, context.mtu)?;
    let end = |role, side: &Side| match side {
        Side::Kernel { netns, ifname } => Some(end(&id, role, *netns, ifname, mtu, &context)),
        Side::Vxlan { .. } | Side::Wireguard { .. } => None,
    };
    // The endpoint's end is configured first: it has to be ready when the client's first packet comes.
    let sides = [end(Role::Endpoint, client), end(Role::Client, server)];
    let mut ends = sides.into_iter().flatten().collect::<Result<Vec<End>, PlanError>>()?;
    check(&id, &ends)?;
    match link {
        Link::Veth if connection.payload == IP => acquaint(&mut ends),
        Link::Wireguard(_) if connection.payload != IP => {
            return Err(PlanError::Payload(connection.payload.clone()));
        }
        Link::Wireguard(_) => ends.iter_mut().for_each(strip),
        _ => {}
    }
    let has_policies = ends.iter().any(|end| !end.policies.is_empty());
    Ok(Desired { id, link, ends, has_policies, forwarder: None }.reindexed(0))
}

/// What carries the packets, and the smaller of the two MTUs that are known.
fn link(server: &Side, client: &Side, context_mtu: u32) -> Result<(Link, Option<u32>), PlanError> {
    let (link, tunnel_mtu) = match (server, client) {
        (Side::Vxlan { tunnel, mtu }, _) | (_, Side::Vxlan { tunnel, mtu }) => {
            let unknown = ETHERNET_MTU - vxlan_overhead(tunnel.local);
            (Link::Vxlan(valid(*tunnel)?), if *mtu == 0 { unknown } else { *mtu })
        }
        (Side::Wireguard { tunnel, mtu }, _) | (_, Side::Wireguard { tunnel, mtu }) => {
            let unknown = ETHERNET_MTU - wireguard_overhead(tunnel.endpoint.ip());
            (Link::Wireguard(reachable(*tunnel)?), if *mtu == 0 { unknown } else { *mtu })
        }
        _ => (Link::Veth, 0),
    };
    let mtu = [context_mtu, tunnel_mtu].into_iter().filter(|mtu| *mtu != 0).min();
    match mtu {
        Some(small) if small < MIN_MTU => Err(PlanError::Mtu(small)),
        mtu => Ok((link, mtu)),
    }
}

fn valid(tunnel: VxlanLink) -> Result<VxlanLink, PlanError> {
    let why = if !(1..1 << 24).contains(&tunnel.vni) {
        "the vni is 1 to 2^24 - 1"
    } else if tunnel.port == 0 {
        "the port is 0"
    } else if tunnel.local.is_ipv4() != tunnel.remote.is_ipv4() {
        "the addresses are of two families"
    } else if tunnel.remote.is_unspecified() || tunnel.remote.is_multicast() {
        "the remote is no unicast address"
    } else {
        return Ok(tunnel);
    };
    Err(PlanError::Tunnel { tunnel, why })
}

fn reachable(tunnel: WireguardLink) -> Result<WireguardLink, PlanError> {
    let to = tunnel.endpoint;
    let is_host = !to.ip().is_unspecified() && !to.ip().is_multicast() && to.port() != 0;
    if is_host { Ok(tunnel) } else { Err(PlanError::Endpoint(to)) }
}

/// What a link without hardware addresses has none of.
fn strip(end: &mut End) {
    end.mac = [0; 6];
    end.neighbours.clear();
}

fn end(
    id: &ConnectionId,
    role: Role,
    netns: NetnsKey,
    ifname: &str,
    mtu: Option<u32>,
    context: &ConnectionContext,
) -> Result<End, PlanError> {
    // Under these two names the kernel keeps the settings of all interfaces (/proc/sys/net/*/conf).
    if !interface_name_is_valid(ifname) || ["all", "default"].contains(&ifname) {
        return Err(PlanError::InterfaceName(ifname.into()));
    }
    let ip = context.ip_context.clone().unwrap_or_default();
    let ethernet = context.ethernet_context.clone().unwrap_or_default();
    let (texts, routes, asked_mac) = match role {
        Role::Client => (&ip.src_ip_addrs, context::client_hops(&ip), ethernet.src_mac),
        Role::Endpoint => (&ip.dst_ip_addrs, context::endpoint_hops(&ip), ethernet.dst_mac),
    };
    let addresses = unique(context::nets(texts));
    if let (Some(mtu), Some(address)) = (mtu, addresses.iter().find(|net| net.addr().is_ipv6()))
        && mtu < MIN_IPV6_MTU
    {
        return Err(PlanError::Ipv6Mtu { mtu, address: *address });
    }
    let neighbours = context::neighbours(&ip.ip_neighbors);
    let policies = if role == Role::Client { policies(&ip) } else { Vec::new() };
    Ok(End {
        role,
        netns,
        name: ifname.to_owned(),
        index: 0,
        mac: context::mac(&asked_mac).unwrap_or_else(|| mac(id, role)),
        mtu,
        addresses,
        routes,
        neighbours: unique(neighbours.into_iter().map(|(ip, mac)| Neighbour { ip, mac }).collect()),
        policies,
    })
}

/// Tells each end where the other's addresses are: a payload of IP needs no broadcast to find them.
/// Of a tunnel this node knows one end alone.
fn acquaint(ends: &mut [End]) {
    let others: Vec<Vec<Neighbour>> = ends
        .iter()
        .map(|end| end.addresses.iter().map(|net| Neighbour { ip: net.addr(), mac: end.mac }).collect())
        .collect();
    for (end, others) in ends.iter_mut().zip(others.into_iter().rev()) {
        let new = |other: &Neighbour| end.neighbours.iter().all(|known| known.ip != other.ip);
        let new: Vec<Neighbour> = others.into_iter().filter(new).collect();
        end.neighbours.extend(new);
    }
}

/// Order matters: the first address is the one the kernel prefers as source.
fn unique<T: PartialEq>(items: Vec<T>) -> Vec<T> {
    let mut kept: Vec<T> = Vec::with_capacity(items.len());
    for item in items {
        if !kept.contains(&item) {
            kept.push(item);
        }
    }
    kept
}

fn check(id: &ConnectionId, ends: &[End]) -> Result<(), PlanError> {
    match ends {
        [] => Err(PlanError::NoPod(id.clone())),
        [a, b] if a.netns == b.netns && a.name == b.name => {
            Err(PlanError::SameInterface { netns: a.netns, name: a.name.clone() })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;

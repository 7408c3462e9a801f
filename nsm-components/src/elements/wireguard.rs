//! `wireguard`: the side of an encrypted tunnel that is nearer to the endpoint, and the ports and keys of both
//! sides (dataplane §6). Linux has one device a UDP port, so every tunnel of a node has a port of its own, which
//! the peer is told.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::Arc,
};

use async_trait::async_trait;
use parking_lot::Mutex;

use super::tunnels::{IP, Tunnels};
use crate::{
    api::{
        Mechanism,
        mechanism::{
            DST_IP, DST_PORT, DST_PUBLIC_KEY, MTU, SRC_IP, SRC_PORT, SRC_PUBLIC_KEY, WIREGUARD_PORT,
        },
    },
    chain::{Cx, Element, Error, Kind, Next, Reply, Request, Result},
    dataplane::{PrivateKey, PublicKey, WireguardLink},
};

/// Own ports and keys of this node's tunnels, each with its connection. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Wireguards(Arc<Mutex<HashMap<String, Own>>>);

#[derive(Clone, Copy, Debug)]
struct Own {
    port: u16,
    /// `None` of one that an earlier process left, until it was read from the kernel.
    key: Option<PrivateKey>,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Wireguard {
    tunnels: Tunnels,
    wireguards: Wireguards,
}

// === impl Wireguards ===

impl Wireguards {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.lock().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A tunnel that an earlier process left, with its port: the kernel has its key.
    pub fn left(&self, connection: &str, port: u16) {
        self.0.lock().entry(connection.to_owned()).or_insert(Own { port, key: None });
    }

    /// The port of a connection's tunnel.
    pub(super) fn port_of(&self, connection: &str) -> Option<u16> {
        self.0.lock().get(connection).map(|own| own.port)
    }

    /// Whether the key of this tunnel has to be read from the kernel.
    pub(super) fn lacks_key(&self, connection: &str) -> bool {
        self.0.lock().get(connection).is_some_and(|own| own.key.is_none())
    }

    /// What the kernel has for this connection.
    pub(super) fn found(&self, connection: &str, tunnel: &WireguardLink) {
        let own = Own { port: tunnel.port, key: Some(tunnel.private) };
        self.0.lock().insert(connection.to_owned(), own);
    }

    /// Port and public key of this side of a connection's tunnel; drawn when it has none.
    pub(super) fn own(&self, connection: &str) -> Result<(u16, PublicKey)> {
        let (port, key) = self.pair(connection)?;
        let public = key.public().map_err(|error| Error::caused(Kind::Internal, &error))?;
        Ok((port, public))
    }

    fn pair(&self, connection: &str) -> Result<(u16, PrivateKey)> {
        let mut all = self.0.lock();
        let known = all.get(connection).copied();
        let port = match known {
            Some(own) => own.port,
            None => draw(&all)?,
        };
        let key = match known.and_then(|own| own.key) {
            Some(key) => key,
            None => PrivateKey::generate().map_err(|error| Error::caused(Kind::Internal, &error))?,
        };
        all.insert(connection.to_owned(), Own { port, key: Some(key) });
        Ok((port, key))
    }

    /// Gives back what the connection has.
    pub(super) fn release(&self, connection: &str) {
        self.0.lock().remove(connection);
    }

    /// This end of the tunnel that `mechanism` describes, whose other end has the parameters `peer`: address, port
    /// and public key.
    pub(super) fn link(
        &self,
        connection: &str,
        mechanism: &Mechanism,
        peer: [&str; 3],
    ) -> Result<WireguardLink> {
        let (ip, port, key) = other(mechanism, peer)?;
        let (own, private) = self.pair(connection)?;
        Ok(WireguardLink { private, port: own, peer: key, endpoint: SocketAddr::new(ip, port) })
    }
}

/// The first port that neither a tunnel nor another program has.
fn draw(all: &HashMap<String, Own>) -> Result<u16> {
    let taken: HashSet<u16> = all.values().map(|own| own.port).collect();
    let free = |port: &u16| !taken.contains(port) && is_free(*port);
    (WIREGUARD_PORT..=u16::MAX).find(free).ok_or_else(|| {
        let message = format_args!("no UDP port from {WIREGUARD_PORT} on is free on this node");
        Error::new(Kind::Exhausted, message)
    })
}

/// Keys of the parameters of the end nearer to the client.
pub(super) const SRC: [&str; 3] = [SRC_IP, SRC_PORT, SRC_PUBLIC_KEY];
/// The same of the end nearer to the endpoint.
pub(super) const DST: [&str; 3] = [DST_IP, DST_PORT, DST_PUBLIC_KEY];

fn other(mechanism: &Mechanism, [ip, port, key]: [&str; 3]) -> Result<(IpAddr, u16, PublicKey)> {
    let missing =
        |key: &str| Error::new(Kind::Invalid, format_args!("the WIREGUARD mechanism has no valid {key}"));
    Ok((
        mechanism.parse(ip).ok_or_else(|| missing(ip))?,
        mechanism.parse(port).filter(|port| *port != 0).ok_or_else(|| missing(port))?,
        mechanism.parse(key).ok_or_else(|| missing(key))?,
    ))
}

/// Whether nobody has the port. The kernel opens it for both families.
fn is_free(port: u16) -> bool {
    let free = |ip: IpAddr| match UdpSocket::bind((ip, port)) {
        Ok(_) => true,
        Err(error) => error.kind() != std::io::ErrorKind::AddrInUse,
    };
    free(Ipv4Addr::UNSPECIFIED.into()) && free(Ipv6Addr::UNSPECIFIED.into())
}

// === impl Wireguard ===

impl Wireguard {
    /// Tunnels of this node; `None` where there are none of this kind.
    pub fn new(tunnels: &Tunnels) -> Option<Self> {
        Some(Self { tunnels: tunnels.clone(), wireguards: tunnels.wireguards.clone()? })
    }

    /// Completes the mechanism but for the key, which the kernel may have; answers the MTU both sides can carry.
    fn complete(&self, mechanism: &mut Mechanism, connection: &str, payload: &str) -> Result<u32> {
        if payload != IP {
            let message = format_args!("WIREGUARD carries IP packets alone, and the payload is {payload:?}");
            return Err(Error::new(Kind::Invalid, message));
        }
        other(mechanism, SRC)?;
        let own = self.tunnels.wireguard_mtu();
        let mtu = mechanism.parse::<u32>(MTU).filter(|mtu| *mtu > 0).map_or(own, |mtu| mtu.min(own));
        let port = match self.wireguards.port_of(connection) {
            Some(port) => port,
            None => self.wireguards.pair(connection)?.0,
        };
        mechanism.set(DST_IP, self.tunnels.ip);
        mechanism.set(DST_PORT, port);
        mechanism.set(MTU, mtu);
        Ok(mtu)
    }

    /// The answer, with the key of this side in it.
    fn answered(&self, mut reply: Reply) -> Result<Reply> {
        let id = reply.connection.id.clone();
        if let Some(mechanism) = reply.connection.mechanism.as_mut().filter(|it| it.is_wireguard()) {
            let (port, key) = self.wireguards.own(&id)?;
            mechanism.set(DST_PORT, port);
            mechanism.set(DST_PUBLIC_KEY, key);
        }
        Ok(reply)
    }
}

#[async_trait]
impl Element for Wireguard {
    fn name(&self) -> &'static str {
        "wireguard"
    }

    async fn request(&self, cx: &Cx, mut request: Request, next: Next<'_>) -> Result<Reply> {
        let id = request.connection.id.clone();
        let had = self.wireguards.port_of(&id).is_some();
        let payload = request.connection.payload.clone();
        let mut is_used = false;
        if let Some(mechanism) = request.connection.mechanism.as_mut().filter(|it| it.is_wireguard()) {
            is_used = true;
            let mtu = self.complete(mechanism, &id, &payload)?;
            let context = request.connection.context.get_or_insert_default();
            if context.mtu == 0 || context.mtu > mtu {
                context.mtu = mtu;
            }
        }
        let reply = next.request(cx, request).await;
        let by = cx.memory.with(|memory| memory.downstream.as_ref().is_some_and(Mechanism::is_wireguard));
        // What was only offered, or of which nothing came.
        if (reply.is_err() && !had) || (reply.is_ok() && !is_used && !by) {
            self.wireguards.release(&id);
        }
        reply.and_then(|reply| self.answered(reply))
    }

    async fn close(&self, cx: &Cx, request: Request, next: Next<'_>) -> Result<()> {
        let id = request.connection.id.clone();
        let closed = next.close(cx, request).await;
        self.wireguards.release(&id);
        closed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elements::Vnis;

    fn wireguard() -> Wireguard {
        let tunnels = Tunnels {
            ip: "10.0.0.2".parse().unwrap(),
            mtu: 1500,
            paths: crate::dataplane::PathMtus::new("10.0.0.2".parse().unwrap(), 1500),
            vxlan_port: 4789,
            vnis: Vnis::default(),
            wireguards: Some(Wireguards::default()),
            priority: Vec::new(),
        };
        Wireguard::new(&tunnels).unwrap()
    }

    fn preference() -> Mechanism {
        let key = PrivateKey::from_bytes([7; 32]).public().unwrap();
        Mechanism::wireguard("10.0.0.1".parse().unwrap(), 51820, key, 1400)
    }

    #[test]
    fn a_refresh_keeps_its_port_and_two_connections_never_share_one() {
        let wireguard = wireguard();
        let port = |connection: &str| {
            let mut mechanism = preference();
            assert_eq!(wireguard.complete(&mut mechanism, connection, "IP").unwrap(), 1400);
            mechanism.parse::<u16>(DST_PORT).unwrap()
        };
        let first = port("a");
        assert!(first >= WIREGUARD_PORT);
        assert_eq!(port("a"), first);
        assert_ne!(port("b"), first);
    }

    #[test]
    fn a_port_that_another_program_has_is_not_drawn() {
        let wireguards = Wireguards::default();
        let held = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, wireguards.own("a").unwrap().0)).unwrap();
        let port = held.local_addr().unwrap().port();
        wireguards.release("a");
        assert_ne!(wireguards.own("a").unwrap().0, port);
    }

    #[test]
    fn a_restarted_process_has_the_port_by_the_journal_and_the_key_by_the_kernel() {
        let wireguards = Wireguards::default();
        wireguards.left("a", 51900);
        assert!(wireguards.lacks_key("a"));
        let private = PrivateKey::from_bytes([9; 32]);
        let tunnel = wireguards.link("b", &preference(), SRC).unwrap();
        wireguards.found("a", &WireguardLink { private, port: 51900, ..tunnel });
        assert_eq!(wireguards.own("a").unwrap(), (51900, private.public().unwrap()));
    }

    #[test]
    fn what_the_other_side_leaves_out_is_named() {
        for key in SRC {
            let mut mechanism = preference();
            mechanism.set(key, "x");
            let error = wireguard().complete(&mut mechanism, "a", "IP").unwrap_err();
            assert!(error.message.contains(key), "{}", error.message);
        }
        let error = wireguard().complete(&mut preference(), "a", "ETHERNET").unwrap_err();
        assert!(error.message.contains("ETHERNET"), "{}", error.message);
    }
}

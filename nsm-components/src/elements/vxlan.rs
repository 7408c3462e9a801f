//! `vxlan`: the side of a tunnel that is nearer to the endpoint. It names its address, draws the
//! VNI and lowers the MTU before the Request goes on, so that the endpoint knows it (protocol §6.6,
//! dataplane §5.2).

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use async_trait::async_trait;
use parking_lot::Mutex;

use crate::{
    api::{
        Mechanism,
        mechanism::{DST_IP, DST_PORT, MTU, SRC_IP, SRC_PORT, VNI, vni_is_even},
    },
    chain::{Cx, Element, Error, Kind, Next, Reply, Request, Result},
};

/// VNIs in use on this node, each with its connection. Linux knows a tunnel by its VNI alone, so
/// they are unique over all peers. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Vnis(Arc<Mutex<HashMap<u32, String>>>);

/// See the module.
#[derive(Clone, Debug)]
pub struct Vxlan {
    ip: IpAddr,
    port: u16,
    mtu: u32,
    vnis: Vnis,
}

// === impl Vnis ===

impl Vnis {
    /// How many are in use.
    pub fn len(&self) -> usize {
        self.0.lock().len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Marks a VNI as this connection's; false when it is another's.
    pub fn reserve(&self, vni: u32, connection: &str) -> bool {
        let mut used = self.0.lock();
        used.entry(vni).or_insert_with(|| connection.to_owned()) == connection
    }

    /// The VNI this connection has.
    pub fn of(&self, connection: &str) -> Option<u32> {
        self.0.lock().iter().find(|(_, owner)| *owner == connection).map(|(vni, _)| *vni)
    }

    /// Gives back what the connection has.
    pub fn release(&self, connection: &str) {
        self.0.lock().retain(|_, owner| owner != connection);
    }

    /// A free VNI of the right half, from `random` draws.
    fn draw(&self, even: bool, connection: &str, mut random: impl FnMut() -> u32) -> Option<u32> {
        (0..1000)
            .map(|_| (random() & 0x00ff_fffe) | u32::from(!even))
            .find(|vni| *vni != 0 && self.reserve(*vni, connection))
    }
}

fn random() -> u32 {
    let bytes = uuid::Uuid::new_v4().into_bytes();
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

// === impl Vxlan ===

impl Vxlan {
    /// Tunnels end at this address and UDP port and carry frames of at most `mtu` bytes.
    pub fn new(ip: IpAddr, port: u16, mtu: u32, vnis: Vnis) -> Self {
        Self { ip, port, mtu, vnis }
    }

    /// Completes the mechanism; answers the MTU both sides can carry.
    fn complete(&self, mechanism: &mut Mechanism, connection: &str) -> Result<u32> {
        let invalid = |what: String| Error::new(Kind::Invalid, what);
        let src: IpAddr = mechanism
            .parse(SRC_IP)
            .ok_or_else(|| invalid("the VXLAN preference has no valid src_ip".into()))?;
        if let Some(port) = mechanism.parse::<u16>(SRC_PORT)
            && port != self.port
        {
            let message = format!(
                "VXLAN port {port} of {src} differs from {} here: set NSM_VXLAN_PORT alike on all nodes",
                self.port
            );
            return Err(invalid(message));
        }
        let known = mechanism.vni().or_else(|| self.vnis.of(connection));
        let vni = match known {
            Some(vni) if self.vnis.reserve(vni, connection) => vni,
            Some(vni) => {
                let message = format_args!("VNI {vni} belongs to another connection on this node");
                return Err(Error::new(Kind::Taken, message));
            }
            None => self
                .vnis
                .draw(vni_is_even(src, self.ip), connection, random)
                .ok_or_else(|| Error::new(Kind::Exhausted, "no free VNI was found"))?,
        };
        let mtu =
            mechanism.parse::<u32>(MTU).filter(|mtu| *mtu > 0).map_or(self.mtu, |mtu| mtu.min(self.mtu));
        mechanism.set(VNI, vni);
        mechanism.set(DST_IP, self.ip);
        mechanism.set(DST_PORT, self.port);
        mechanism.set(MTU, mtu);
        Ok(mtu)
    }
}

#[async_trait]
impl Element for Vxlan {
    fn name(&self) -> &'static str {
        "vxlan"
    }

    async fn request(&self, cx: &Cx, mut request: Request, next: Next<'_>) -> Result<Reply> {
        let id = request.connection.id.clone();
        let Some(mechanism) = request.connection.mechanism.as_mut().filter(|mechanism| mechanism.is_vxlan())
        else {
            return next.request(cx, request).await;
        };
        let had = self.vnis.of(&id).is_some();
        let mtu = self.complete(mechanism, &id)?;
        let context = request.connection.context.get_or_insert_default();
        if context.mtu == 0 || context.mtu > mtu {
            context.mtu = mtu;
        }
        let reply = next.request(cx, request).await;
        if reply.is_err() && !had {
            self.vnis.release(&id);
        }
        reply
    }

    async fn close(&self, cx: &Cx, request: Request, next: Next<'_>) -> Result<()> {
        let id = request.connection.id.clone();
        let closed = next.close(cx, request).await;
        self.vnis.release(&id);
        closed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vxlan(vnis: &Vnis) -> Vxlan {
        Vxlan::new("10.0.0.2".parse().unwrap(), 4789, 1446, vnis.clone())
    }

    fn preference(src: &str) -> Mechanism {
        Mechanism::vxlan(src.parse().unwrap(), 4789, 1400)
    }

    #[test]
    fn a_refresh_keeps_its_vni_and_two_connections_never_share_one() {
        let vnis = Vnis::default();
        let mut first = preference("10.0.0.1");
        assert_eq!(vxlan(&vnis).complete(&mut first, "a").unwrap(), 1400);
        let vni = first.vni().unwrap();
        assert_eq!(vni % 2, 0);
        let mut again = preference("10.0.0.1");
        vxlan(&vnis).complete(&mut again, "a").unwrap();
        assert_eq!(again.vni(), Some(vni));
        let mut other = preference("10.0.0.9");
        other.set(VNI, vni);
        assert_eq!(vxlan(&vnis).complete(&mut other, "b").unwrap_err().kind, Kind::Taken);
    }

    #[test]
    fn a_vni_of_zero_is_never_drawn() {
        let vnis = Vnis::default();
        let mut draws = [0, 0x0100_0000, 5].into_iter();
        assert_eq!(vnis.draw(true, "a", || draws.next().unwrap()), Some(4));
    }

    #[test]
    fn a_peer_on_another_port_is_told_which_setting_to_change() {
        let mut mechanism = preference("10.0.0.1");
        mechanism.set(SRC_PORT, 8472);
        let error = vxlan(&Vnis::default()).complete(&mut mechanism, "a").unwrap_err();
        assert!(error.message.contains("NSM_VXLAN_PORT"), "{}", error.message);
    }
}

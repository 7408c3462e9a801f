//! `mtu`: lowers the MTU of a connection to what the way to the other node carries, and tells why (dataplane §8).
//!
//! The way is asked beside the Request, from both nodes. The answer is usually there when the Request comes back, and
//! at the latest when it is refreshed; an MTU only falls while a connection lives.

use std::net::IpAddr;

use async_trait::async_trait;

use super::tunnels::Tunnels;
use crate::{
    api::{
        Connection, Mechanism,
        mechanism::{DST_IP, MTU, MTU_REASON, SRC_IP, vxlan_overhead, wireguard_overhead},
    },
    chain::{Cx, Element, Next, Reply, Request, Result},
};

/// See the module. It stands before whatever makes the links, on the way back.
#[derive(Clone, Debug)]
pub struct Mtu {
    tunnels: Option<Tunnels>,
}

/// The other node's end of a tunnel, in the parameter of this name.
fn peer(mechanism: Option<&Mechanism>, key: &str) -> Option<IpAddr> {
    mechanism.filter(|it| it.is_vxlan() || it.is_wireguard()).and_then(|it| it.parse(key))
}

/// Lowers a tunnel's MTU; answers it.
fn lower(mechanism: &mut Mechanism, path: u32, peer: IpAddr) -> u32 {
    let overhead = if mechanism.is_wireguard() { wireguard_overhead(peer) } else { vxlan_overhead(peer) };
    let most = path.saturating_sub(overhead);
    let mtu = mechanism.parse::<u32>(MTU).filter(|mtu| *mtu > 0).map_or(most, |mtu| mtu.min(most));
    mechanism.set(MTU, mtu);
    mtu
}

fn lower_context(connection: &mut Connection, mtu: u32) {
    let context = connection.context.get_or_insert_default();
    if context.mtu == 0 || context.mtu > mtu {
        context.mtu = mtu;
    }
}

// === impl Mtu ===

impl Mtu {
    /// Over these tunnels.
    pub fn new(tunnels: Option<Tunnels>) -> Self {
        Self { tunnels }
    }

    /// The answer, no larger than what the way carries that is known by now.
    fn fitted(&self, cx: &Cx, mut reply: Reply) -> Reply {
        let Some(paths) = self.tunnels.as_ref().map(|tunnels| &tunnels.paths) else { return reply };
        let connection = &mut reply.connection;
        let mut downstream = cx.memory.with(|memory| memory.downstream.clone());
        let towards_client = peer(connection.mechanism.as_ref(), SRC_IP);
        let Some(peer) = towards_client.or_else(|| peer(downstream.as_ref(), DST_IP)) else { return reply };
        paths.look(peer);
        let path = paths.smaller(peer);
        let tunnel =
            if towards_client.is_some() { connection.mechanism.as_mut() } else { downstream.as_mut() };
        let mtu = path.zip(tunnel).map(|(path, tunnel)| lower(tunnel, path, peer));
        if let Some(mtu) = mtu {
            lower_context(connection, mtu);
        }
        cx.memory.with(|memory| memory.downstream = downstream);
        if let Some(segment) = connection.segment_mut(0) {
            match path {
                Some(path) => {
                    let interface = paths.interface();
                    let reason = format!(
                        "the path to {peer} carries packets of {path} bytes, the interface here {interface}"
                    );
                    segment.metrics.insert(MTU_REASON.to_owned(), reason);
                }
                None => drop(segment.metrics.remove(MTU_REASON)),
            }
        }
        reply
    }
}

#[async_trait]
impl Element for Mtu {
    fn name(&self) -> &'static str {
        "mtu"
    }

    async fn request(&self, cx: &Cx, request: Request, next: Next<'_>) -> Result<Reply> {
        // While the Request goes on.
        if let (Some(tunnels), Some(peer)) =
            (&self.tunnels, peer(request.connection.mechanism.as_ref(), SRC_IP))
        {
            tunnels.paths.look(peer);
        }
        let reply = next.request(cx, request).await?;
        Ok(self.fitted(cx, reply))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::connectioncontext::ConnectionContext;

    #[test]
    fn a_tunnel_is_no_larger_than_the_way_less_what_its_kind_takes() {
        let (here, peer) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let mut vxlan = Mechanism::vxlan(here, 4789, 1446);
        assert_eq!(lower(&mut vxlan, 1400, peer), 1346);
        assert_eq!(vxlan.get(MTU), Some("1346"));
        let mut wireguard = Mechanism::wireguard(here, 51820, "", 1300);
        assert_eq!(lower(&mut wireguard, 1400, peer), 1300, "the other side said less");
        let mut connection = Connection::default();
        lower_context(&mut connection, 1346);
        assert_eq!(connection.context.as_ref().unwrap().mtu, 1346);
        connection.context = Some(ConnectionContext { mtu: 1200, ..ConnectionContext::default() });
        lower_context(&mut connection, 1346);
        assert_eq!(connection.context.unwrap().mtu, 1200, "what somebody asked for stays");
    }
}

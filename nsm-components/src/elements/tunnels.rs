//! What this node offers other nodes to carry packets by, in which order (protocol §4.4, dataplane §1.6).

use std::net::IpAddr;

use super::{vxlan::Vnis, wireguard::Wireguards};
use crate::{
    api::{
        Connection, Mechanism,
        mechanism::{self, vxlan_overhead, wireguard_overhead},
    },
    chain::Result,
    dataplane::PathMtus,
};

/// Payload of connections that carry IP packets rather than frames.
pub(super) const IP: &str = "IP";

/// Where tunnels end on this node, and which there are. Clones share what is in use.
#[derive(Clone, Debug)]
pub struct Tunnels {
    /// Address of this node.
    pub ip: IpAddr,
    /// Largest packet of the interface that has it, in bytes.
    pub mtu: u32,
    /// Ways to other nodes, which may carry less.
    pub paths: PathMtus,
    /// UDP port of VXLAN.
    pub vxlan_port: u16,
    /// VNIs in use.
    pub vnis: Vnis,
    /// Ports and keys in use; `None` where the kernel has no WireGuard.
    pub wireguards: Option<Wireguards>,
    /// Types that come first, in this order (`NSM_MECHANISM_PRIORITY`).
    pub priority: Vec<String>,
}

// === impl Tunnels ===

impl Tunnels {
    /// Largest inner packet of a VXLAN in bytes.
    pub fn vxlan_mtu(&self) -> u32 {
        self.mtu.saturating_sub(vxlan_overhead(self.ip))
    }

    /// The same of a WireGuard tunnel.
    pub fn wireguard_mtu(&self) -> u32 {
        self.mtu.saturating_sub(wireguard_overhead(self.ip))
    }

    /// Types of mechanism between nodes that this one has.
    pub fn types(&self) -> Vec<&'static str> {
        let wireguard = self.wireguards.is_some().then_some(mechanism::WIREGUARD);
        [mechanism::VXLAN].into_iter().chain(wireguard).collect()
    }

    /// What is offered for a connection that is carried by this type already, and stays so.
    pub(super) fn offer(&self, kind: &str, connection: &str) -> Result<Mechanism> {
        match &self.wireguards {
            Some(wireguards) if kind == mechanism::WIREGUARD => {
                let (port, key) = wireguards.own(connection)?;
                Ok(Mechanism::wireguard(self.ip, port, key, self.wireguard_mtu()))
            }
            _ => Ok(Mechanism::vxlan(self.ip, self.vxlan_port, self.vxlan_mtu())),
        }
    }

    /// What is offered for a connection, best first: IP packets are encrypted where both nodes can; frames go by
    /// VXLAN alone. What `NSM_MECHANISM_PRIORITY` names comes before that, and before all what the connection
    /// has already, when `keep` says that it leads where it did: a restart moves nothing.
    pub(super) fn offers(&self, connection: &Connection, keep: bool) -> Result<Vec<Mechanism>> {
        let id = connection.id.as_str();
        let mut offers = vec![self.offer(mechanism::VXLAN, id)?];
        let mut has = self.vnis.of(id).map(|_| mechanism::VXLAN);
        if let Some(wireguards) = self.wireguards.as_ref().filter(|_| connection.payload == IP) {
            has = has.or(wireguards.port_of(id).map(|_| mechanism::WIREGUARD));
            offers.insert(0, self.offer(mechanism::WIREGUARD, id)?);
        }
        let wanted = |kind: &str| self.priority.iter().position(|wanted| wanted.eq_ignore_ascii_case(kind));
        offers.sort_by_key(|offer| {
            let is_had = keep && has == Some(offer.r#type.as_str());
            (!is_had, wanted(&offer.r#type).unwrap_or(usize::MAX))
        });
        Ok(offers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::mechanism::{MTU, SRC_PORT, SRC_PUBLIC_KEY};

    fn tunnels(wireguards: Option<Wireguards>, priority: &[&str]) -> Tunnels {
        Tunnels {
            ip: "10.0.0.1".parse().unwrap(),
            mtu: 1500,
            paths: PathMtus::new("10.0.0.1".parse().unwrap(), 1500),
            vxlan_port: 4789,
            vnis: Vnis::default(),
            wireguards,
            priority: priority.iter().map(|kind| (*kind).to_owned()).collect(),
        }
    }

    fn with_wireguard(priority: &[&str]) -> Tunnels {
        tunnels(Some(Wireguards::default()), priority)
    }

    fn offered(tunnels: &Tunnels, payload: &str) -> Vec<String> {
        let connection = Connection { id: "c1".into(), payload: payload.into(), ..Connection::default() };
        tunnels.offers(&connection, true).unwrap().into_iter().map(|offer| offer.r#type).collect()
    }

    #[test]
    fn ip_packets_are_encrypted_before_all_and_frames_never() {
        assert_eq!(offered(&with_wireguard(&[]), "IP"), ["WIREGUARD", "VXLAN"]);
        assert_eq!(offered(&with_wireguard(&[]), "ETHERNET"), ["VXLAN"]);
        assert_eq!(offered(&tunnels(None, &["WIREGUARD"]), "IP"), ["VXLAN"]);
    }

    #[test]
    fn what_the_setting_names_comes_first_in_its_order() {
        assert_eq!(offered(&with_wireguard(&["KERNEL", "vxlan"]), "IP"), ["VXLAN", "WIREGUARD"]);
        assert_eq!(offered(&with_wireguard(&["wireguard"]), "IP"), ["WIREGUARD", "VXLAN"]);
    }

    #[test]
    fn a_connection_left_by_an_earlier_process_is_offered_what_it_has() {
        let tunnels = with_wireguard(&[]);
        tunnels.vnis.reserve(7, "c1");
        assert_eq!(offered(&tunnels, "IP"), ["VXLAN", "WIREGUARD"]);
        let connection = Connection { id: "c1".into(), payload: "IP".into(), ..Connection::default() };
        let elsewhere = tunnels.offers(&connection, false).unwrap();
        assert_eq!(elsewhere[0].r#type, "WIREGUARD");
    }

    #[test]
    fn an_offer_names_the_own_port_and_key_which_a_repeated_one_keeps() {
        let tunnels = with_wireguard(&[]);
        let of = |id: &str| {
            let connection = Connection { id: id.into(), payload: "IP".into(), ..Connection::default() };
            tunnels.offers(&connection, true).unwrap().remove(0)
        };
        let first = of("c1");
        assert_eq!(first.get(MTU), Some("1440"));
        assert_eq!(of("c1"), first);
        let second = of("c2");
        assert_ne!(second.get(SRC_PORT), first.get(SRC_PORT));
        assert_ne!(second.get(SRC_PUBLIC_KEY), first.get(SRC_PUBLIC_KEY));
    }
}

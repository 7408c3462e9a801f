//! The WireGuard family of generic netlink: the half of a device that rtnetlink does not know.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_generic::{
    GenlMessage,
    ctrl::{GenlCtrl, GenlCtrlCmd, nlas::GenlCtrlAttrs},
};
use netlink_packet_wireguard::{
    WireguardAddressFamily, WireguardAllowedIp, WireguardAllowedIpAttr, WireguardAttribute, WireguardCmd,
    WireguardDeviceFlags, WireguardMessage, WireguardPeer, WireguardPeerAttribute, WireguardPeerFlags,
};
use nix::errno::Errno;

use super::{
    session::Session,
    socket::{Request, Socket},
};
use crate::dataplane::{
    ids::NetnsKey,
    operation::At,
    port::KernelError,
    wireguard::{PrivateKey, PublicKey, WireguardLink},
};

/// Seconds between packets of a tunnel that has nothing to carry, as upstream's; they keep translators of
/// addresses on the way open, and tell where this end is.
const KEEPALIVE: u16 = 10;

/// A socket of the WireGuard family.
pub(super) type Genl = Socket<GenlMessage<WireguardMessage>>;

/// Number of the family; `None` where the kernel has no WireGuard. The question makes the kernel load its module.
pub(super) fn family() -> Result<Option<u16>, KernelError> {
    let asked = GenlCtrl {
        cmd: GenlCtrlCmd::GetFamily,
        nlas: vec![GenlCtrlAttrs::FamilyName("wireguard".to_owned())],
    };
    let answer = Socket::generic()?.get(GenlMessage::from_payload(asked));
    let answer = match answer {
        Err(error) if error.errno() == Some(Errno::ENOENT) => return Ok(None),
        answer => answer?,
    };
    let attributes = answer.into_iter().flat_map(|message| message.payload.nlas);
    let id = attributes.into_iter().find_map(|attribute| match attribute {
        GenlCtrlAttrs::FamilyId(id) => Some(id),
        _ => None,
    });
    id.map(Some).ok_or_else(|| KernelError::Answer("the WireGuard family has no number".into()))
}

// === impl Session ===

impl Session {
    /// Gives a device its key, port and only peer. The peer is replaced in the same step.
    pub(super) fn set_wireguard(&mut self, at: &At, to: &WireguardLink) -> Result<(), KernelError> {
        let family = self.wireguard_family()?;
        let mut message = GenlMessage::from_payload(set(at.index, to));
        message.set_resolved_family_id(family);
        let answers = self.generic(at.netns)?.batch(vec![Request { message, flags: 0 }])?;
        answers.into_iter().collect()
    }

    /// What a device has; `None` when it is none that is made here.
    pub(super) fn wireguard(
        &mut self,
        netns: NetnsKey,
        index: u32,
    ) -> Result<Option<WireguardLink>, KernelError> {
        let family = self.wireguard_family()?;
        let attributes = vec![WireguardAttribute::IfIndex(index)];
        let mut message =
            GenlMessage::from_payload(WireguardMessage { cmd: WireguardCmd::GetDevice, attributes });
        message.set_resolved_family_id(family);
        let found = self.generic(netns)?.dump(&message)?;
        let attributes: Vec<_> = found.into_iter().flat_map(|part| part.payload.attributes).collect();
        Ok(link(&attributes))
    }
}

fn set(index: u32, to: &WireguardLink) -> WireguardMessage {
    let peer = vec![
        WireguardPeerAttribute::PublicKey(to.peer.bytes()),
        WireguardPeerAttribute::Flags(WireguardPeerFlags::ReplaceAllowedIps),
        WireguardPeerAttribute::Endpoint(to.endpoint),
        WireguardPeerAttribute::PersistentKeepalive(KEEPALIVE),
        WireguardPeerAttribute::AllowedIps(everything().into()),
    ];
    let attributes = vec![
        WireguardAttribute::IfIndex(index),
        WireguardAttribute::PrivateKey(to.private.bytes()),
        WireguardAttribute::ListenPort(to.port),
        WireguardAttribute::Flags(WireguardDeviceFlags::ReplacePeers),
        WireguardAttribute::Peers(vec![WireguardPeer(peer)]),
    ];
    WireguardMessage { cmd: WireguardCmd::SetDevice, attributes }
}

/// 0.0.0.0/0 and ::/0.
fn everything() -> [WireguardAllowedIp; 2] {
    let all = |family, ip| {
        let attributes = [
            WireguardAllowedIpAttr::Family(family),
            WireguardAllowedIpAttr::IpAddr(ip),
            WireguardAllowedIpAttr::Cidr(0),
        ];
        WireguardAllowedIp(attributes.into())
    };
    [
        all(WireguardAddressFamily::Ipv4, IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        all(WireguardAddressFamily::Ipv6, IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
    ]
}

/// A device with one peer that takes everything.
fn link(attributes: &[WireguardAttribute]) -> Option<WireguardLink> {
    let (mut private, mut port, mut peers) = (None, None, Vec::new());
    for attribute in attributes {
        match attribute {
            WireguardAttribute::PrivateKey(bytes) => private = Some(PrivateKey::from_bytes(*bytes)),
            WireguardAttribute::ListenPort(value) => port = Some(*value),
            WireguardAttribute::Peers(found) => peers.extend(found),
            _ => {}
        }
    }
    let [WireguardPeer(peer)] = peers.as_slice() else { return None };
    let (mut key, mut endpoint, mut keepalive, mut open) = (None, None, 0, 0);
    for attribute in peer {
        match attribute {
            WireguardPeerAttribute::PublicKey(bytes) => key = Some(PublicKey::from_bytes(*bytes)),
            WireguardPeerAttribute::Endpoint(address) => endpoint = Some(*address),
            WireguardPeerAttribute::PersistentKeepalive(seconds) => keepalive = *seconds,
            WireguardPeerAttribute::AllowedIps(nets) => {
                open = nets.iter().filter(|net| net.contains(&WireguardAllowedIpAttr::Cidr(0))).count();
            }
            _ => {}
        }
    }
    let is_ours = keepalive == KEEPALIVE && open == everything().len();
    is_ours.then_some(WireguardLink { private: private?, port: port?, peer: key?, endpoint: endpoint? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tunnel() -> WireguardLink {
        let private = PrivateKey::from_bytes([7; 32]);
        let peer = PrivateKey::from_bytes([9; 32]).public().unwrap();
        WireguardLink { private, port: 51821, peer, endpoint: "[fd00::2]:51820".parse().unwrap() }
    }

    #[test]
    fn what_is_set_is_read_back() {
        assert_eq!(link(&set(5, &tunnel()).attributes), Some(tunnel()));
    }

    #[test]
    fn a_device_with_another_peer_or_one_that_takes_less_is_not_taken_for_ours() {
        let changed = |change: &dyn Fn(&mut Vec<WireguardPeer>)| {
            let mut attributes = set(5, &tunnel()).attributes;
            for attribute in &mut attributes {
                if let WireguardAttribute::Peers(peers) = attribute {
                    change(peers);
                }
            }
            link(&attributes)
        };
        assert_eq!(changed(&|peers| peers.clear()), None);
        assert_eq!(changed(&|peers| peers.push(peers[0].clone())), None);
        let without_ipv6 = |peers: &mut Vec<WireguardPeer>| {
            let one = WireguardPeerAttribute::AllowedIps(everything()[..1].to_vec());
            peers[0].0.retain(|attribute| !matches!(attribute, WireguardPeerAttribute::AllowedIps(_)));
            peers[0].0.push(one);
        };
        assert_eq!(changed(&without_ipv6), None);
    }
}

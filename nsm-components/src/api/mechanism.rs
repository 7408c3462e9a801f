//! Mechanisms: the ways a connection enters and leaves a process (protocol §6).
//!
//! Parameters are strings on the wire; the functions here are the only readers and writers.

use std::net::IpAddr;

use super::Mechanism;

/// Class of mechanisms between processes of one node.
pub const LOCAL: &str = "LOCAL";
/// Class of mechanisms between nodes.
pub const REMOTE: &str = "REMOTE";
/// A kernel interface in the application's network namespace.
pub const KERNEL: &str = "KERNEL";
/// A VXLAN tunnel (RFC 7348).
pub const VXLAN: &str = "VXLAN";

/// A WireGuard tunnel, for IP packets alone.
pub const WIREGUARD: &str = "WIREGUARD";

/// Network namespace of the application, as `file:` or `inode:` URL.
pub const INODE_URL: &str = "inodeURL";
/// Interface name, at most [`MAX_INTERFACE_NAME`] bytes.
pub const NAME: &str = "name";
/// Tunnel address of the forwarder nearer to the client.
pub const SRC_IP: &str = "src_ip";
/// UDP port of the forwarder nearer to the client.
pub const SRC_PORT: &str = "src_port";
/// Tunnel address of the forwarder nearer to the endpoint.
pub const DST_IP: &str = "dst_ip";
/// UDP port of the forwarder nearer to the endpoint.
pub const DST_PORT: &str = "dst_port";
/// VXLAN network identifier, 1 to 2^24 - 1.
pub const VNI: &str = "vni";
/// Public key of the forwarder nearer to the client: 32 bytes in base64.
pub const SRC_PUBLIC_KEY: &str = "src_public_key";
/// Public key of the forwarder nearer to the endpoint.
pub const DST_PUBLIC_KEY: &str = "dst_public_key";
/// Largest frame payload in bytes.
pub const MTU: &str = "MTU";

/// Key of a path segment's metrics: the process's interface towards the endpoint.
pub const CLIENT_INTERFACE: &str = "client_interface";
/// Key of a path segment's metrics: the process's interface towards the client.
pub const SERVER_INTERFACE: &str = "server_interface";

/// Key of a forwarder's metrics: bytes that came from the client's side (upstream's name, protocol §6.10).
pub const SERVER_RX_BYTES: &str = "server_rx_bytes";
/// The same of those that went there.
pub const SERVER_TX_BYTES: &str = "server_tx_bytes";

/// Key of a forwarder's metrics: why a tunnel's MTU is below what the node's interface would carry.
pub const MTU_REASON: &str = "mtu_reason";

/// `IFNAMSIZ` less the closing zero (linux/if.h).
pub const MAX_INTERFACE_NAME: usize = 15;

/// UDP port of VXLAN (RFC 7348 §5).
pub const VXLAN_PORT: u16 = 4789;

/// VXLAN overhead in bytes over an IPv4 underlay, one inner VLAN tag included (dataplane §8).
pub const VXLAN_OVERHEAD_V4: u32 = 54;
/// The same over IPv6.
pub const VXLAN_OVERHEAD_V6: u32 = 74;

/// WireGuard overhead in bytes over an IPv4 underlay (dataplane §8).
pub const WIREGUARD_OVERHEAD_V4: u32 = 60;
/// The same over IPv6.
pub const WIREGUARD_OVERHEAD_V6: u32 = 80;

/// First UDP port of WireGuard tunnels, and the only one of implementations that tell tunnels apart otherwise.
pub const WIREGUARD_PORT: u16 = 51820;

// === impl Mechanism ===

impl Mechanism {
    /// A kernel interface without parameters.
    pub fn kernel() -> Self {
        Self { cls: LOCAL.into(), r#type: KERNEL.into(), ..Self::default() }
    }

    /// A VXLAN tunnel offered from `src`.
    pub fn vxlan(src: IpAddr, port: u16, mtu: u32) -> Self {
        let mut mechanism = Self { cls: REMOTE.into(), r#type: VXLAN.into(), ..Self::default() };
        mechanism.set(SRC_IP, src);
        mechanism.set(SRC_PORT, port);
        mechanism.set(MTU, mtu);
        mechanism
    }

    /// A WireGuard tunnel offered from `src`, with the public key of that side.
    pub fn wireguard(src: IpAddr, port: u16, public_key: impl ToString, mtu: u32) -> Self {
        let mut mechanism = Self { cls: REMOTE.into(), r#type: WIREGUARD.into(), ..Self::default() };
        mechanism.set(SRC_IP, src);
        mechanism.set(SRC_PORT, port);
        mechanism.set(SRC_PUBLIC_KEY, public_key);
        mechanism.set(MTU, mtu);
        mechanism
    }

    /// A parameter; an empty one reads as absent.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.parameters.get(key).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// A parameter in another type; what cannot be read is absent, as upstream does.
    pub fn parse<T: std::str::FromStr>(&self, key: &str) -> Option<T> {
        self.get(key)?.parse().ok()
    }

    /// Sets a parameter.
    #[allow(clippy::needless_pass_by_value)] // numbers and addresses read better without &
    pub fn set(&mut self, key: &str, value: impl ToString) {
        self.parameters.insert(key.to_owned(), value.to_string());
    }

    /// The VNI, when it is a valid one.
    pub fn vni(&self) -> Option<u32> {
        self.parse(VNI).filter(|vni| (1..1 << 24).contains(vni))
    }

    /// The interface as path segments name it in their metrics (protocol §6.10).
    pub fn interface(&self) -> String {
        format!("{}/{}", self.r#type, self.get(NAME).unwrap_or("unknown"))
    }

    /// Whether this is a kernel interface.
    pub fn is_kernel(&self) -> bool {
        self.r#type == KERNEL
    }

    /// Whether this is a VXLAN tunnel.
    pub fn is_vxlan(&self) -> bool {
        self.r#type == VXLAN
    }

    /// Whether this is a WireGuard tunnel.
    pub fn is_wireguard(&self) -> bool {
        self.r#type == WIREGUARD
    }
}

/// Whether a VNI for a tunnel from `src` to `dst` has to be even. Both directions between two
/// nodes draw from different halves, so they cannot meet (dataplane §5.2).
pub fn vni_is_even(src: IpAddr, dst: IpAddr) -> bool {
    fn wide(ip: IpAddr) -> [u8; 16] {
        match ip {
            IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
            IpAddr::V6(ip) => ip.octets(),
        }
    }
    wide(src) <= wide(dst)
}

/// VXLAN overhead in bytes for this underlay address.
pub fn vxlan_overhead(underlay: IpAddr) -> u32 {
    if underlay.is_ipv4() { VXLAN_OVERHEAD_V4 } else { VXLAN_OVERHEAD_V6 }
}

/// WireGuard overhead in bytes for this underlay address.
pub fn wireguard_overhead(underlay: IpAddr) -> u32 {
    if underlay.is_ipv4() { WIREGUARD_OVERHEAD_V4 } else { WIREGUARD_OVERHEAD_V6 }
}

/// Whether the kernel takes this as the name of an interface (net/core/dev.c, dev_valid_name).
pub fn interface_name_is_valid(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= MAX_INTERFACE_NAME
        && name != "."
        && name != ".."
        && !name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control())
}

/// An interface name for a service that names none: the service's name, made harmless and cut to
/// ten bytes, and a tail of the connection's id, so that a repeated Request finds the same name.
pub fn interface_name(network_service: &str, connection_id: &str) -> String {
    let prefix: String =
        network_service.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(10).collect();
    let prefix = if prefix.is_empty() { "nsm" } else { &prefix };
    let room = MAX_INTERFACE_NAME - prefix.len() - 1;
    format!("{prefix}-{}", tail(connection_id, room))
}

/// `length` characters that depend on all of `id`: ids may share beginnings or ends.
fn tail(id: &str, length: usize) -> String {
    const ALPHABET: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let mut hash = fnv1a(id.as_bytes());
    let mut text = String::with_capacity(length);
    for _ in 0..length {
        text.push(char::from(ALPHABET[(hash % 36) as usize]));
        hash /= 36;
    }
    text
}

/// FNV-1a, 64 bit: stable over versions and machines, which the standard hasher is not.
pub fn fnv1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_two_directions_between_two_nodes_draw_from_different_halves() {
        let (a, b) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        assert!(vni_is_even(a, b));
        assert!(!vni_is_even(b, a));
        assert!(vni_is_even(a, a));
    }

    #[test]
    fn a_vni_out_of_range_reads_as_absent() {
        let mut mechanism = Mechanism::kernel();
        for text in ["0", "16777216", "-1", "x", ""] {
            mechanism.set(VNI, text);
            assert_eq!(mechanism.vni(), None, "{text}");
        }
        mechanism.set(VNI, 16_777_215);
        assert_eq!(mechanism.vni(), Some(16_777_215));
    }

    #[test]
    fn a_repeated_request_gets_the_same_interface_name_and_another_connection_another() {
        assert_eq!(interface_name("finance", "nsc-0"), interface_name("finance", "nsc-0"));
        assert_ne!(interface_name("finance", "nsc-0"), interface_name("finance", "nsc-1"));
    }

    proptest! {
        #[test]
        fn every_generated_interface_name_is_valid(service in ".{0,40}", id in ".{0,40}") {
            prop_assert!(interface_name_is_valid(&interface_name(&service, &id)));
        }
    }
}

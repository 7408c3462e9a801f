//! What the kernel has counted on a connection's links, as others read it in the path (protocol §6.10).

use super::{
    desired::Role,
    observed::{Observed, ObservedEnd},
};

/// What a link has counted since it was made, as the pod in which it is sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Packets that came to the pod.
    pub rx_packets: u64,
    /// Packets that it sent.
    pub tx_packets: u64,
    /// Bytes that came to it.
    pub rx_bytes: u64,
    /// Bytes that it sent.
    pub tx_bytes: u64,
    /// Packets that were dropped, coming or going.
    pub drops: u64,
}

impl Traffic {
    /// The same as seen from the other side of the link.
    fn turned(self) -> Self {
        Self {
            rx_packets: self.tx_packets,
            tx_packets: self.rx_packets,
            rx_bytes: self.tx_bytes,
            tx_bytes: self.rx_bytes,
            drops: self.drops,
        }
    }
}

/// What was counted at the ends that this node has; nothing where they are new.
pub(super) fn counted(
    roles: impl Iterator<Item = Role>,
    observed: Option<&Observed>,
) -> Vec<(Role, Traffic)> {
    let traffic = |at: usize| match observed.and_then(|observed| observed.ends.get(at)) {
        Some(ObservedEnd::Reachable { own: Some(link), .. }) => link.traffic,
        _ => Traffic::default(),
    };
    roles.enumerate().map(|(at, role)| (role, traffic(at))).collect()
}

/// Keys and values for the forwarder's segment of the path, from its point of view: `server_` is the side
/// of the client, `client_` that of the endpoint, and what a pod sends is received here. A tunnel in a pod
/// is the way out on the other side as well.
pub fn segment_metrics(counted: &[(Role, Traffic)]) -> Vec<(String, u64)> {
    let of = |role| counted.iter().find(|(other, _)| *other == role).map(|(_, traffic)| *traffic);
    let (client, endpoint) = (of(Role::Client), of(Role::Endpoint));
    let sides = [
        ("server", client.map(Traffic::turned).or(endpoint)),
        ("client", endpoint.map(Traffic::turned).or(client)),
    ];
    let sides = sides.into_iter().filter_map(|(side, traffic)| Some((side, traffic?)));
    let values = sides.flat_map(|(side, traffic)| {
        let values = [
            ("rx_bytes", traffic.rx_bytes),
            ("tx_bytes", traffic.tx_bytes),
            ("rx_packets", traffic.rx_packets),
            ("tx_packets", traffic.tx_packets),
            ("drops", traffic.drops),
        ];
        values.map(|(name, value)| (format!("{side}_{name}"), value))
    });
    values.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pod that sent 2 packets of 200 bytes in all, and got one of 100.
    const POD: Traffic = Traffic { rx_packets: 1, tx_packets: 2, rx_bytes: 100, tx_bytes: 200, drops: 3 };
    const OTHER: Traffic = Traffic { rx_packets: 2, tx_packets: 1, rx_bytes: 200, tx_bytes: 100, drops: 0 };

    fn bytes(counted: &[(Role, Traffic)]) -> Vec<(String, u64)> {
        let all = segment_metrics(counted);
        assert_eq!(all.len(), 10, "{all:?}");
        all.into_iter().filter(|(name, _)| name.ends_with("_bytes")).collect()
    }

    fn expected(server: (u64, u64), client: (u64, u64)) -> Vec<(String, u64)> {
        let names = ["server_rx_bytes", "server_tx_bytes", "client_rx_bytes", "client_tx_bytes"];
        let values = [server.0, server.1, client.0, client.1];
        names.map(str::to_owned).into_iter().zip(values).collect()
    }

    #[test]
    fn what_a_pod_sends_the_forwarder_receives_and_the_other_side_gets_it() {
        let both = [(Role::Endpoint, OTHER), (Role::Client, POD)];
        assert_eq!(bytes(&both), expected((200, 100), (100, 200)));
    }

    #[test]
    fn a_tunnel_in_the_clients_pod_leads_on_to_the_endpoint_and_one_in_the_endpoints_to_the_client() {
        assert_eq!(bytes(&[(Role::Client, POD)]), expected((200, 100), (100, 200)));
        assert_eq!(bytes(&[(Role::Endpoint, OTHER)]), expected((200, 100), (100, 200)));
    }

    #[test]
    fn what_was_dropped_counts_on_its_own_side() {
        let all = segment_metrics(&[(Role::Endpoint, OTHER), (Role::Client, POD)]);
        let drops: Vec<_> = all.iter().filter(|(name, _)| name.ends_with("drops")).collect();
        assert_eq!(drops, [&("server_drops".to_owned(), 3), &("client_drops".to_owned(), 0)]);
    }
}

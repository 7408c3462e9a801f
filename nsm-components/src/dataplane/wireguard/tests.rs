use nix::errno::Errno;

use super::*;
use crate::{
    api::{
        Connection,
        connectioncontext::{ConnectionContext, IpContext, IpNeighbor},
    },
    dataplane::{
        Applied, Dataplane, Desired, Entry, Error, Memory, Namespaces, NetnsKey, Operation, PlanError, Side,
        plan,
    },
};

fn key(byte: u8) -> PrivateKey {
    PrivateKey::from_bytes([byte; 32])
}

fn tunnel(private: u8, port: u16, peer: u8) -> WireguardLink {
    let endpoint = "10.0.0.2:51820".parse().unwrap();
    WireguardLink { private: key(private), port, peer: key(peer).public().unwrap(), endpoint }
}

fn connection(id: &str, payload: &str) -> Connection {
    let ip = IpContext {
        dst_ip_addrs: vec!["172.16.0.0/32".into()],
        src_ip_addrs: vec!["172.16.0.1/32".into()],
        ip_neighbors: vec![IpNeighbor {
            ip: "172.16.0.9".into(),
            hardware_address: "02:00:00:00:00:01".into(),
        }],
        ..IpContext::default()
    };
    let context = ConnectionContext { ip_context: Some(ip), ..ConnectionContext::default() };
    Connection { id: id.into(), payload: payload.into(), context: Some(context), ..Connection::default() }
}

fn planned(id: &str, ino: u64, tunnel: WireguardLink) -> Desired {
    let pod = Side::Kernel { netns: NetnsKey { dev: 4, ino }, ifname: "nsm-1".into() };
    plan(&connection(id, "IP"), &pod, &Side::Wireguard { tunnel, mtu: 0 }).unwrap()
}

#[test]
fn a_key_pair_is_the_one_of_the_standard_and_its_text_base64() {
    // RFC 7748 §6.1, Alice.
    let private = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=";
    let private: [u8; 32] = BASE64_STANDARD.decode(private).unwrap().try_into().unwrap();
    let public = PrivateKey::from_bytes(private).public().unwrap();
    assert_eq!(public.to_string(), "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=");
    assert_eq!(public.to_string().parse(), Ok(public));
    assert_eq!("c2hvcnQ=".parse::<PublicKey>(), Err(KeyError::Text));
    assert_ne!(PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
}

#[test]
fn a_private_key_has_no_text() {
    let private = PrivateKey::from_bytes([0xab; 32]);
    let link = WireguardLink {
        private,
        port: 51820,
        peer: private.public().unwrap(),
        endpoint: "10.0.0.2:51820".parse().unwrap(),
    };
    let text = format!("{link:?}").to_lowercase();
    assert!(!text.contains("abab") && !text.contains("171") && !text.contains("q6ur"), "{text}");
}

#[test]
fn a_tunnel_carries_ip_packets_alone_and_has_no_hardware_addresses() {
    let desired = planned("c1", 1, tunnel(1, 51820, 2));
    let [end] = desired.ends.as_slice() else { panic!("one end") };
    assert_eq!((end.mtu, end.mac, end.neighbours.len()), (Some(1440), [0; 6], 0));
    let pod = || Side::Kernel { netns: NetnsKey { dev: 4, ino: 1 }, ifname: "nsm-1".into() };
    let side = |endpoint: &str| Side::Wireguard {
        tunnel: WireguardLink { endpoint: endpoint.parse().unwrap(), ..tunnel(1, 51820, 2) },
        mtu: 0,
    };
    let of = |payload: &str, endpoint: &str| plan(&connection("c1", payload), &pod(), &side(endpoint));
    assert_eq!(of("IP", "[fd00::2]:1").unwrap().ends[0].mtu, Some(1420));
    assert_eq!(of("ETHERNET", "10.0.0.2:1"), Err(PlanError::Payload("ETHERNET".into())));
    for endpoint in ["0.0.0.0:1", "10.0.0.2:0", "[ff02::1]:1"] {
        assert!(matches!(of("IP", endpoint), Err(PlanError::Endpoint(_))), "{endpoint}");
    }
}

#[tokio::test]
async fn a_device_is_given_its_key_before_it_is_raised_and_a_refresh_writes_nothing() {
    let (dataplane, netns) = (Dataplane::new(Memory::new()), Namespaces::default());
    let desired = planned("c1", 1, tunnel(1, 51820, 2));
    assert_eq!(dataplane.ensure(&desired, &netns).await.unwrap(), Applied::Created);
    let made = dataplane.kernel().operations();
    let at = |wanted: &dyn Fn(&Operation) -> bool| made.iter().position(wanted).unwrap();
    let (set, raised) = (
        at(&|made| matches!(made, Operation::SetWireguard { from: None, .. })),
        at(&|made| matches!(made, Operation::Raise(..))),
    );
    assert!(set < raised, "{made:?}");
    assert_eq!(dataplane.ensure(&desired, &netns).await.unwrap(), Applied::Adopted);
    // A restarted process finds its key in the kernel.
    let found = dataplane.wireguard(&desired.footprint(), &netns).await.unwrap();
    assert_eq!(found, Some(tunnel(1, 51820, 2)));
    // The peer's packets came from elsewhere, and the kernel followed them.
    let mut moved = tunnel(1, 51820, 2);
    moved.endpoint = "10.0.0.3:4000".parse().unwrap();
    assert_eq!(dataplane.ensure(&planned("c1", 1, moved), &netns).await.unwrap(), Applied::Adopted);
}

#[tokio::test]
async fn a_peer_with_a_new_key_replaces_the_old_one_on_the_device_that_stands() {
    let (dataplane, netns) = (Dataplane::new(Memory::new()), Namespaces::default());
    dataplane.ensure(&planned("c1", 1, tunnel(1, 51820, 2)), &netns).await.unwrap();
    let links = dataplane.kernel().links();
    let other = planned("c1", 1, tunnel(1, 51820, 3));
    assert_eq!(dataplane.ensure(&other, &netns).await.unwrap(), Applied::Changed(1));
    assert_eq!(dataplane.wireguard(&other.footprint(), &netns).await.unwrap(), Some(tunnel(1, 51820, 3)));
    assert_eq!(dataplane.kernel().links(), links);
}

#[tokio::test]
async fn a_port_that_another_has_is_told_and_leaves_nothing() {
    let (dataplane, netns) = (Dataplane::new(Memory::new()), Namespaces::default());
    dataplane.ensure(&planned("c1", 1, tunnel(1, 51820, 2)), &netns).await.unwrap();
    let refused = dataplane.ensure(&planned("c2", 2, tunnel(3, 51820, 4)), &netns).await.unwrap_err();
    assert!(matches!(refused, Error::PortTaken { port: 51820 }), "{refused}");
    assert_eq!(dataplane.kernel().links().len(), 1);
    dataplane.ensure(&planned("c2", 2, tunnel(3, 51821, 4)), &netns).await.unwrap();
}

#[tokio::test]
async fn a_change_of_keys_is_taken_back_when_what_follows_fails() {
    let (dataplane, netns) = (Dataplane::new(Memory::new()), Namespaces::default());
    let desired = planned("c1", 1, tunnel(1, 51820, 2));
    dataplane.ensure(&desired, &netns).await.unwrap();
    let mut other = planned("c1", 1, tunnel(1, 51820, 3));
    other.ends[0].mtu = Some(1300);
    dataplane.kernel().fail_at(1, Errno::EPERM);
    dataplane.ensure(&other, &netns).await.unwrap_err();
    assert_eq!(dataplane.wireguard(&desired.footprint(), &netns).await.unwrap(), Some(tunnel(1, 51820, 2)));
}

#[test]
fn the_journal_knows_the_port_and_not_the_key() {
    let desired = planned("c1", 1, tunnel(0xab, 51821, 2));
    let entry = Entry::new(&desired, std::time::SystemTime::UNIX_EPOCH);
    assert_eq!((entry.kind.as_str(), entry.port, entry.vni), ("wireguard", Some(51821), None));
    let text = serde_json::to_string(&entry).unwrap();
    assert!(!text.contains(&BASE64_STANDARD.encode(key(0xab).bytes())) && !text.contains("171"), "{text}");
}

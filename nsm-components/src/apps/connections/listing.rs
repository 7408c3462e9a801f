//! Connections as the command shows them: what an nsmgr tells, in few words. The JSON of it is documented
//! in the README and stable: names are added and never change their meaning.

use std::time::{Duration, SystemTime};

use serde::{Serialize, Serializer};

use crate::api::{
    Connection, PathSegment, feature,
    mechanism::{self, MTU_REASON, SERVER_RX_BYTES, SERVER_TX_BYTES},
    node::{Adoption, Drain, NodeConnection, NodeConnections, Process},
};

/// All connections of a node, by client.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Listing {
    pub(super) nsmgr: String,
    pub(super) processes: Vec<Running>,
    pub(super) connections: Vec<Listed>,
}

/// The nsmgr or a forwarder.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Running {
    pub(super) name: String,
    pub(super) version: Option<String>,
    pub(super) feature_level: u32,
    pub(super) instance: Option<String>,
    pub(super) drain: Option<DrainState>,
    pub(super) adoption: Option<Adopted>,
    pub(super) unknown: Option<String>,
}

/// Whether it takes new connections, and whether it may be stopped.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct DrainState {
    pub(super) draining: bool,
    pub(super) making: u64,
    pub(super) ready: bool,
    pub(super) closing: bool,
    pub(super) connections: u64,
}

/// What became of the connections that it found at its start.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Adopted {
    pub(super) baseline: u64,
    pub(super) recovered: u64,
    pub(super) closed_by_client: u64,
    pub(super) lost: u64,
    pub(super) longest_gap_milliseconds: u64,
    pub(super) quiesced: bool,
}

/// One of them.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Listed {
    pub(super) id: String,
    pub(super) client: String,
    pub(super) endpoint: String,
    pub(super) service: String,
    pub(super) mechanism: Sides<Option<String>>,
    pub(super) interface: Sides<Option<String>>,
    pub(super) addresses: Sides<Vec<String>>,
    pub(super) mtu: Option<u32>,
    pub(super) mtu_reason: Option<String>,
    pub(super) state: &'static str,
    pub(super) since: Time,
    pub(super) error: Option<String>,
    pub(super) heals: u32,
    pub(super) last_heal: Option<Healed>,
    pub(super) bytes: Option<Bytes>,
    pub(super) token: Token,
    pub(super) feature_level: u32,
    pub(super) path: Vec<Step>,
}

/// Something that the client's side has, and the endpoint's.
#[derive(Debug, Default, PartialEq, Serialize)]
pub(super) struct Sides<T> {
    pub(super) client: T,
    pub(super) endpoint: T,
}

#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Healed {
    pub(super) at: Time,
    pub(super) cause: String,
}

/// What its links had counted when it was refreshed last.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Bytes {
    pub(super) from_client: u64,
    pub(super) to_client: u64,
}

#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Token {
    pub(super) refreshed: Time,
    pub(super) expires: Option<Time>,
}

/// One process on the way.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Step {
    pub(super) name: String,
    pub(super) id: String,
}

/// A moment; as text by RFC 3339.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Time(pub(super) SystemTime);

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_rfc3339_seconds(self.0))
    }
}

impl From<prost_types::Timestamp> for Time {
    /// What is no moment that the system knows is the beginning of time.
    fn from(time: prost_types::Timestamp) -> Self {
        let seconds = u64::try_from(time.seconds).unwrap_or_default();
        let nanos = u32::try_from(time.nanos).unwrap_or_default().min(999_999_999);
        let since = Duration::new(seconds, nanos);
        // RFC 3339 has years of four digits.
        let since = since.min(Duration::from_secs(253_402_300_799));
        Self(SystemTime::UNIX_EPOCH + since)
    }
}

fn time(time: Option<prost_types::Timestamp>) -> Time {
    time.unwrap_or_default().into()
}

// === impl Listing ===

impl Listing {
    pub(super) fn new(told: NodeConnections) -> Self {
        let mut connections: Vec<_> = told.connections.into_iter().map(Listed::new).collect();
        connections.sort_by(|a, b| (&a.client, &a.service, &a.id).cmp(&(&b.client, &b.service, &b.id)));
        let processes = told.processes.into_iter().map(Running::new).collect();
        Self { nsmgr: told.nsmgr, processes, connections }
    }

    /// For people and programs.
    pub(super) fn json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }

    /// The same in one line.
    pub(super) fn json_line(&self) -> String {
        serde_json::to_string(self).unwrap_or_default() + "\n"
    }
}

// === impl Running ===

impl Running {
    pub(super) fn new(told: Process) -> Self {
        let some = |text: String| Some(text).filter(|text| !text.is_empty());
        let drain = told.drain.map(|it| {
            let Drain { draining, making, ready, closing, connections } = it;
            DrainState { draining, making, ready, closing, connections }
        });
        Self {
            name: told.name,
            version: some(told.version),
            feature_level: told.feature_level,
            instance: some(told.instance),
            drain,
            adoption: told.adoption.map(Adopted::new),
            unknown: some(told.unknown),
        }
    }
}

impl Adopted {
    fn new(told: Adoption) -> Self {
        let Adoption { baseline, recovered, closed_by_client, lost, longest_gap_milliseconds, quiesced } =
            told;
        Self { baseline, recovered, closed_by_client, lost, longest_gap_milliseconds, quiesced }
    }
}

// === impl Listed ===

impl Listed {
    fn new(told: NodeConnection) -> Self {
        let connection = told.connection.unwrap_or_default();
        let path = connection.segments();
        let name = |segment: Option<&PathSegment>| segment.map(|one| one.name.clone()).unwrap_or_default();
        let ip =
            connection.context.as_ref().and_then(|context| context.ip_context.clone()).unwrap_or_default();
        let own_caller = connection.segment(-1);
        Self {
            id: connection.origin_id().to_owned(),
            client: name(path.first()),
            endpoint: connection.network_service_endpoint_name.clone(),
            service: connection.network_service.clone(),
            mechanism: mechanisms(&connection),
            interface: interfaces(&connection),
            addresses: Sides { client: ip.src_ip_addrs, endpoint: ip.dst_ip_addrs },
            mtu: connection.context.as_ref().map(|context| context.mtu).filter(|mtu| *mtu > 0),
            mtu_reason: path.iter().find_map(|step| step.metrics.get(MTU_REASON).cloned()),
            state: connection.state().as_str_name(),
            since: time(told.since),
            error: Some(told.error).filter(|error| !error.is_empty()),
            heals: told.heals,
            last_heal: told.last_heal.map(|heal| Healed { at: time(heal.at), cause: heal.cause }),
            bytes: bytes(&connection),
            feature_level: feature::level_of_path(&connection),
            token: Token {
                refreshed: time(told.refreshed),
                expires: own_caller.and_then(|caller| caller.expires).map(Time::from),
            },
            path: path.iter().map(|step| Step { name: step.name.clone(), id: step.id.clone() }).collect(),
        }
    }
}

/// `<TYPE>/<name>` of a segment's metrics.
fn interface_of<'a>(segment: Option<&'a PathSegment>, key: &str) -> Option<(&'a str, &'a str)> {
    segment?.metrics.get(key)?.split_once('/')
}

/// How packets come to this node's forwarder from the client, and how they go on.
fn mechanisms(connection: &Connection) -> Sides<Option<String>> {
    let onwards = interface_of(connection.segment(1), mechanism::CLIENT_INTERFACE);
    Sides {
        client: connection.mechanism.as_ref().map(|mechanism| mechanism.r#type.clone()),
        endpoint: onwards.map(|(kind, _)| kind.to_owned()),
    }
}

/// Names of the interfaces in the pods. A client tells its own with its second Request at the latest.
fn interfaces(connection: &Connection) -> Sides<Option<String>> {
    let path = connection.segments();
    let own = connection.mechanism.as_ref().filter(|mechanism| mechanism.is_kernel());
    let own = own.and_then(|mechanism| mechanism.get(mechanism::NAME)).map(str::to_owned);
    let told = |segment, key| interface_of(segment, key).map(|(_, name)| name.to_owned());
    Sides {
        client: own.or_else(|| told(path.first(), mechanism::CLIENT_INTERFACE)),
        endpoint: told(path.last(), mechanism::SERVER_INTERFACE),
    }
}

/// By the forwarder after this nsmgr.
fn bytes(connection: &Connection) -> Option<Bytes> {
    let metrics = &connection.segment(1)?.metrics;
    let read = |key: &str| metrics.get(key)?.parse().ok();
    Some(Bytes { from_client: read(SERVER_RX_BYTES)?, to_client: read(SERVER_TX_BYTES)? })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::api::{
        Mechanism, Path,
        connection::State,
        connectioncontext::{ConnectionContext, IpContext},
        node::Heal,
    };

    fn at(seconds: i64) -> prost_types::Timestamp {
        prost_types::Timestamp { seconds, nanos: 0 }
    }

    fn segment(name: &str, metrics: &[(&str, &str)]) -> PathSegment {
        let metrics = metrics.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let expires = Some(at(1_700_000_600));
        PathSegment {
            name: name.into(),
            id: format!("id-{name}"),
            expires,
            metrics: metrics.collect(),
            ..Default::default()
        }
    }

    /// As the nsmgr of the client's node tells of a connection to another node.
    pub(in crate::apps::connections) fn told(client: &str, state: State) -> NodeConnection {
        let mut mechanism = Mechanism::kernel();
        mechanism.set(mechanism::NAME, "nsm-1");
        let counted =
            [("client_interface", "VXLAN/unknown"), ("server_rx_bytes", "1500"), ("server_tx_bytes", "98")];
        let path_segments = vec![
            segment(client, &[]),
            segment("nsmgr-1", &[]),
            segment("fwd-1", &counted),
            segment("nsmgr-2", &[]),
            segment(
                "fwd-2",
                &[("feature_level", "1"), ("server_rx_bytes", "7"), ("mtu_reason", "it is small")],
            ),
            segment("nse-1", &[("server_interface", "KERNEL/nse-x")]),
        ];
        let ip_context = Some(IpContext {
            src_ip_addrs: vec!["172.16.1.1/32".into()],
            dst_ip_addrs: vec!["172.16.1.0/32".into()],
            ..Default::default()
        });
        let connection = Connection {
            id: "id-nsmgr-1".into(),
            network_service: "finance".into(),
            network_service_endpoint_name: "nse-1".into(),
            mechanism: Some(mechanism),
            context: Some(ConnectionContext { ip_context, mtu: 1346, ..Default::default() }),
            path: Some(Path { index: 1, path_segments }),
            state: state.into(),
            ..Connection::default()
        };
        NodeConnection {
            connection: Some(connection),
            since: Some(at(1_700_000_000)),
            refreshed: Some(at(1_700_000_050)),
            error: String::new(),
            last_heal: None,
            heals: 0,
        }
    }

    #[test]
    fn the_json_is_as_the_readme_says() {
        let heal = Some(Heal { at: Some(at(1_700_000_010)), cause: "fwd-1 was killed".into() });
        let told = NodeConnection { last_heal: heal, heals: 2, ..told("nsc-1", State::Up) };
        let adoption = Adoption { baseline: 4, recovered: 2, closed_by_client: 1, ..Default::default() };
        let drain = Drain { draining: true, making: 1, connections: 3, ..Drain::default() };
        let forwarder = Process {
            name: "fwd-1".into(),
            version: "0.1.0".into(),
            feature_level: 1,
            instance: "a".into(),
            drain: Some(drain),
            adoption: Some(adoption),
            ..Process::default()
        };
        let other = Process { name: "fwd-vpp".into(), unknown: "why".into(), ..Process::default() };
        let (processes, connections) = (vec![forwarder, other], vec![told]);
        let listing =
            Listing::new(NodeConnections { nsmgr: "nsmgr-1".into(), connections, more: false, processes });
        let json: serde_json::Value = serde_json::from_str(&listing.json()).unwrap();
        let names = ["nsc-1", "nsmgr-1", "fwd-1", "nsmgr-2", "fwd-2", "nse-1"];
        let path = names.map(|name| serde_json::json!({"name": name, "id": format!("id-{name}")}));
        let expected = serde_json::json!({
            "nsmgr": "nsmgr-1",
            "processes": [{
                "name": "fwd-1", "version": "0.1.0", "featureLevel": 1, "instance": "a",
                "drain": {"draining": true, "making": 1, "ready": false, "closing": false, "connections": 3},
                "adoption": {
                    "baseline": 4, "recovered": 2, "closedByClient": 1, "lost": 0,
                    "longestGapMilliseconds": 0, "quiesced": false,
                },
                "unknown": null,
            }, {
                "name": "fwd-vpp", "version": null, "featureLevel": 0, "instance": null, "drain": null,
                "adoption": null, "unknown": "why",
            }],
            "connections": [{
                "id": "id-nsc-1", "client": "nsc-1", "endpoint": "nse-1", "service": "finance",
                "mechanism": {"client": "KERNEL", "endpoint": "VXLAN"},
                "interface": {"client": "nsm-1", "endpoint": "nse-x"},
                "addresses": {"client": ["172.16.1.1/32"], "endpoint": ["172.16.1.0/32"]},
                "mtu": 1346, "mtuReason": "it is small",
                "state": "UP", "since": "2023-11-14T22:13:20Z", "error": null,
                "heals": 2, "lastHeal": {"at": "2023-11-14T22:13:30Z", "cause": "fwd-1 was killed"},
                "bytes": {"fromClient": 1500, "toClient": 98},
                "featureLevel": 0,
                "token": {"refreshed": "2023-11-14T22:14:10Z", "expires": "2023-11-14T22:23:20Z"},
                "path": path,
            }],
        });
        assert_eq!(json, expected);
        assert_eq!(listing.json_line().matches('\n').count(), 1);
    }

    #[test]
    fn clients_are_in_order_and_what_nobody_told_is_absent() {
        let mut bare = told("b", State::Down);
        let connection = bare.connection.as_mut().unwrap();
        connection.mechanism = None;
        connection.path.as_mut().unwrap().path_segments.truncate(2);
        bare.error = "why".into();
        let connections = vec![bare, told("a", State::Up)];
        let listing = Listing::new(NodeConnections { connections, ..Default::default() });
        let [a, b] = &listing.connections[..] else { panic!("{listing:?}") };
        assert_eq!((a.client.as_str(), b.client.as_str()), ("a", "b"));
        assert_eq!((&b.bytes, &b.mechanism, &b.interface), (&None, &Sides::default(), &Sides::default()));
        assert_eq!((b.state, b.error.as_deref()), ("DOWN", Some("why")));
    }

    #[test]
    fn times_that_nobody_can_mean_are_still_shown() {
        for seconds in [i64::MIN, -1, i64::MAX] {
            let time = Time::from(prost_types::Timestamp { seconds, nanos: i32::MIN });
            assert!(serde_json::to_string(&time).is_ok());
        }
    }
}

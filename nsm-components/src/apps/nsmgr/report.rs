//! What the nsmgr knows about its node's connections, in its `NSMNodeState`. Written when it
//! changes, and never as a heartbeat.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use futures::StreamExt;
use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use nsm_crds::{
    CONDITION_DRAINED, CONDITION_READY, ConnectionCounts, ConnectionState, ForwarderAdoption, NSMNodeState,
    NSMNodeStateStatus, NodeEndpoint, NodeReason, NodeService, NodeVersions, Reason, UnhealthyConnection,
};
use serde_json::json;
use tokio::sync::watch;
use tracing::{debug, warn};

use crate::{
    api::{Connection, connection::State, node::Process, registry::NetworkServiceEndpoint},
    elements::{LocalEntries, Monitor, Processes},
    transport::Outage,
};

/// Field manager of everything the nsmgr writes.
const MANAGER: &str = "nsm-nsmgr";

/// Changes of this time go into one write.
const GATHER: Duration = Duration::from_millis(500);

/// How often registrations are looked at: they have no events of their own here.
const LOOK: Duration = Duration::from_secs(2);

/// Limit of one write.
const WRITE: Duration = Duration::from_secs(10);

/// Reports for one node.
pub(super) struct Reporter {
    pub node: String,
    pub name: String,
    pub forwarder_service: String,
    pub monitor: Arc<Monitor>,
    pub local: LocalEntries,
    pub processes: Arc<Processes>,
    pub outage: watch::Receiver<Option<Outage>>,
}

/// What goes into a report.
struct Seen<'a> {
    name: &'a str,
    forwarder_service: &'a str,
    /// Each with the error of its last Request.
    connections: &'a [(Arc<Connection>, Option<String>)],
    endpoints: &'a [NetworkServiceEndpoint],
    processes: &'a [Process],
    /// Since when a connection is not up, by id.
    since: &'a HashMap<String, Timestamp>,
}

/// Whether the client of the connection sits on the node of this nsmgr: then it is the first one
/// on the path.
fn is_own(connection: &Connection, name: &str) -> bool {
    connection.segments().get(1).is_some_and(|segment| segment.name == name)
}

fn state(connection: &Connection) -> Option<ConnectionState> {
    match connection.state() {
        State::Up => None,
        State::Down => Some(ConnectionState::Down),
        State::RefreshRequested => Some(ConnectionState::RefreshRequested),
        State::ReselectRequested => Some(ConnectionState::ReselectRequested),
    }
}

/// Namespace and pod in a SPIFFE ID of the form `…/ns/<namespace>/sa/<account>/pod/<pod>`.
fn pod(entry: &NetworkServiceEndpoint) -> Option<(String, String)> {
    let id = entry.path_ids.first()?;
    let mut parts = id.strip_prefix("spiffe://")?.split('/').skip(1);
    let mut find = |key: &str| parts.by_ref().skip_while(|part| *part != key).nth(1).map(str::to_owned);
    Some((find("ns")?, find("pod")?))
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The report, but for its instance and times.
fn summarize(seen: &Seen<'_>) -> NSMNodeStateStatus {
    let own: Vec<_> =
        seen.connections.iter().filter(|(connection, _)| is_own(connection, seen.name)).collect();
    let mut services: BTreeMap<&str, NodeService> = BTreeMap::new();
    let mut unhealthy = Vec::new();
    for (connection, error) in &own {
        let service = services.entry(&connection.network_service).or_insert_with(|| NodeService {
            name: connection.network_service.clone(),
            ..NodeService::default()
        });
        service.total += 1;
        if let Some(state) = state(connection) {
            service.down += 1;
            unhealthy.push(UnhealthyConnection {
                id: connection.origin_id().to_owned(),
                network_service: connection.network_service.clone(),
                client: connection.segments().first().map(|segment| segment.name.clone()).unwrap_or_default(),
                endpoint: connection.network_service_endpoint_name.clone(),
                state,
                since: Time(seen.since.get(&connection.id).copied().unwrap_or_default()),
                last_error: error.clone().unwrap_or_default(),
            });
        }
    }
    let (total, down) = (count(own.len()), count(unhealthy.len()));
    let endpoints = seen.endpoints.iter().filter(|entry| !is_forwarder(entry, seen.forwarder_service));
    NSMNodeStateStatus {
        versions: NodeVersions {
            nsmgr: env!("CARGO_PKG_VERSION").to_owned(),
            feature_level: seen
                .processes
                .iter()
                .map(|one| one.feature_level.into())
                .min()
                .unwrap_or_default(),
        },
        connections: ConnectionCounts { total, up: total - down, down },
        services: services.into_values().collect(),
        unhealthy,
        endpoints: endpoints.map(|entry| endpoint(entry, seen.connections)).collect(),
        adoption: seen.processes.iter().filter_map(adoption).collect(),
        draining: seen.processes.iter().filter_map(|one| one.drain).any(|drain| drain.draining),
        ..NSMNodeStateStatus::default()
    }
    .bounded()
}

/// What a forwarder tells of those that it found, in full once all is known: in between it changes all the time.
fn adoption(process: &Process) -> Option<ForwarderAdoption> {
    let told = process.adoption?;
    let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let complete = told.baseline <= told.recovered + told.closed_by_client + told.lost;
    let known = |told: u64| complete.then(|| number(told));
    Some(ForwarderAdoption {
        forwarder: process.name.clone(),
        instance: process.instance.clone(),
        baseline: number(told.baseline),
        complete,
        recovered: known(told.recovered),
        closed_by_client: known(told.closed_by_client),
        lost: number(told.lost),
        longest_gap_milliseconds: known(told.longest_gap_milliseconds),
        quiesced: told.quiesced,
    })
}

fn is_forwarder(entry: &NetworkServiceEndpoint, service: &str) -> bool {
    entry.network_service_names.iter().any(|name| name == service)
}

fn endpoint(
    entry: &NetworkServiceEndpoint,
    connections: &[(Arc<Connection>, Option<String>)],
) -> NodeEndpoint {
    let to_it =
        connections.iter().filter(|(connection, _)| connection.network_service_endpoint_name == entry.name);
    let pod = pod(entry);
    NodeEndpoint {
        name: entry.name.clone(),
        network_services: entry.network_service_names.clone(),
        pod_namespace: pod.clone().map(|(namespace, _)| namespace),
        pod_name: pod.map(|(_, name)| name),
        connections: count(to_it.count()),
    }
}

/// `Drained` of the node, while all connections are to be closed; `since` says when it was as it is.
fn drained(processes: &[Process], since: &mut Option<(bool, Timestamp)>) -> Option<Condition> {
    let closing = processes.first().and_then(|own| own.drain).is_some_and(|drain| drain.closing);
    if !closing {
        *since = None;
        return None;
    }
    let left = |one: &Process| match one.drain {
        Some(drain) if drain.ready && drain.closing => None,
        Some(drain) => Some(format!("{} has {} connections", one.name, drain.connections)),
        None => Some(format!("{}: {}", one.name, one.unknown)),
    };
    let left: Vec<_> = processes.iter().filter_map(left).collect();
    let done = left.is_empty();
    let (reason, message) = if done {
        (NodeReason::NothingLeft, "all connections are closed, and none is taken".to_owned())
    } else {
        (NodeReason::Closing, left.join("; "))
    };
    let (_, at) = since.filter(|(before, _)| *before == done).unwrap_or_else(|| (done, Timestamp::now()));
    *since = Some((done, at));
    Some(Condition {
        type_: CONDITION_DRAINED.to_owned(),
        status: if done { "True" } else { "False" }.to_owned(),
        reason: reason.as_str().to_owned(),
        message,
        last_transition_time: Time(at),
        observed_generation: None,
    })
}

/// `Ready` of the node.
fn ready(forwarders: usize, since: Timestamp, outage: Option<&Outage>) -> Condition {
    let (status, reason, mut message) = if forwarders > 0 {
        ("True", NodeReason::Serving, "the nsmgr serves and has a forwarder".to_owned())
    } else {
        let message =
            "no forwarder is registered with this node's nsmgr: look at the forwarder's pod on this node";
        ("False", NodeReason::NoForwarder, message.to_owned())
    };
    if let Some(Outage { reason, .. }) = outage {
        let more = format!("; the identity source cannot issue, so no connection expires: {reason}");
        message.push_str(&more);
    }
    Condition {
        type_: CONDITION_READY.to_owned(),
        status: status.to_owned(),
        reason: reason.as_str().to_owned(),
        message,
        last_transition_time: Time(since),
        observed_generation: None,
    }
}

// === impl Reporter ===

impl Reporter {
    /// Reports until dropped. What cannot be written is tried again; nothing else waits for it.
    pub(super) async fn run(self, client: Client) {
        let api: Api<NSMNodeState> = Api::all(client);
        let instance = uuid::Uuid::new_v4().to_string();
        let (mut written, mut since) = (None, HashMap::new());
        let mut changed_at = (usize::MAX, Timestamp::now());
        let mut drained_at = None;
        let mut changes = self.monitor.watch();
        loop {
            // A change, or the time to look at the registrations; then what else comes meanwhile.
            if tokio::time::timeout(LOOK, changes.next()).await.is_ok_and(|change| change.is_none()) {
                changes = self.monitor.watch();
            }
            let _ = tokio::time::timeout(GATHER, async { while changes.next().await.is_some() {} }).await;
            let forwarders = self.local.serving(&self.forwarder_service).len();
            if (changed_at.0 > 0) != (forwarders > 0) || changed_at.0 == usize::MAX {
                changed_at = (forwarders, Timestamp::now());
            }
            let mut status = self.status(&mut since);
            status.observed_instance.clone_from(&instance);
            status.conditions = vec![ready(forwarders, changed_at.1, self.outage.borrow().as_ref())];
            status.conditions.extend(drained(&self.processes.all(), &mut drained_at));
            if written.as_ref() == Some(&status) {
                continue;
            }
            match tokio::time::timeout(WRITE, self.write(&api, &status, written.is_none())).await {
                Ok(Ok(())) => {
                    debug!(node = %self.node, connections = status.connections.total, "reported");
                    written = Some(status);
                }
                Ok(Err(error)) => warn!(node = %self.node, %error, "could not report; trying again"),
                Err(_) => warn!(node = %self.node, "could not report in time; trying again"),
            }
        }
    }

    fn status(&self, since: &mut HashMap<String, Timestamp>) -> NSMNodeStateStatus {
        let connections = self.monitor.connections();
        let now = Timestamp::now();
        let unwell: Vec<_> = connections
            .iter()
            .map(|(connection, _)| connection)
            .filter(|connection| state(connection).is_some())
            .collect();
        since.retain(|id, _| unwell.iter().any(|connection| connection.id == *id));
        for connection in &unwell {
            since.entry(connection.id.clone()).or_insert(now);
        }
        summarize(&Seen {
            name: &self.name,
            forwarder_service: &self.forwarder_service,
            connections: &connections,
            endpoints: &self.local.all(),
            processes: &self.processes.all(),
            since,
        })
    }

    async fn write(
        &self,
        api: &Api<NSMNodeState>,
        status: &NSMNodeStateStatus,
        first: bool,
    ) -> Result<(), kube::Error> {
        let parameters = PatchParams::apply(MANAGER).force();
        let object = |extra: serde_json::Value| {
            let mut object = json!({
                "apiVersion": "operator.networkservicemesh.io/v1alpha1",
                "kind": "NSMNodeState",
                "metadata": {"name": self.node},
            });
            if let (Some(object), serde_json::Value::Object(extra)) = (object.as_object_mut(), extra) {
                object.extend(extra);
            }
            object
        };
        let bare = Patch::Apply(object(json!({})));
        let full = Patch::Apply(object(json!({"status": status})));
        if first {
            api.patch(&self.node, &parameters, &bare).await?;
        }
        match api.patch_status(&self.node, &parameters, &full).await {
            Err(kube::Error::Api(refusal)) if refusal.is_not_found() => {
                // Somebody deleted it: it comes back.
                api.patch(&self.node, &parameters, &bare).await?;
                api.patch_status(&self.node, &parameters, &full).await.map(|_| ())
            }
            written => written.map(|_| ()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{
        Path, PathSegment,
        node::{Adoption, Drain},
    };

    fn connection(id: &str, path: [&str; 3], endpoint: &str, state: State) -> Connection {
        let segments =
            path.map(|name| PathSegment { name: name.into(), id: id.into(), ..Default::default() });
        Connection {
            id: id.into(),
            network_service: "finance".into(),
            network_service_endpoint_name: endpoint.into(),
            path: Some(Path { index: 1, path_segments: segments.into() }),
            state: state.into(),
            ..Default::default()
        }
    }

    fn report(connections: &[Connection], endpoints: &[NetworkServiceEndpoint]) -> NSMNodeStateStatus {
        let why = |connection: &Connection| state(connection).map(|_| "why".to_owned());
        let connections: Vec<_> = connections.iter().map(|one| (Arc::new(one.clone()), why(one))).collect();
        let connections = &connections[..];
        let (name, forwarder_service, since) = ("nsmgr-1", "forwarder", &HashMap::new());
        let processes = &[];
        summarize(&Seen { name, forwarder_service, connections, endpoints, processes, since })
    }

    #[test]
    fn what_a_forwarder_found_is_told_in_full_when_all_of_it_is_known() {
        let process = |recovered, draining| Process {
            name: "fwd-1".into(),
            feature_level: 1,
            adoption: Some(Adoption {
                baseline: 3,
                recovered,
                lost: 1,
                longest_gap_milliseconds: 7,
                ..Default::default()
            }),
            drain: Some(Drain { draining, ..Drain::default() }),
            ..Process::default()
        };
        let (connections, endpoints, since) = (&[], &[], &HashMap::new());
        let report = |processes: &[Process]| {
            summarize(&Seen { name: "n", forwarder_service: "f", connections, endpoints, processes, since })
        };
        let before = report(&[process(1, false)]);
        assert_eq!((before.versions.feature_level, before.draining), (1, false));
        let [told] = &before.adoption[..] else { panic!("{:?}", before.adoption) };
        assert_eq!((told.baseline, told.lost, told.complete, told.recovered), (3, 1, false, None));
        let upstream = Process { name: "fwd-vpp".into(), ..Process::default() };
        let after = report(&[process(2, true), upstream]);
        assert_eq!((after.versions.feature_level, after.draining), (0, true), "one tells none");
        let [told] = &after.adoption[..] else { panic!("{:?}", after.adoption) };
        assert!(
            told.complete && (told.recovered, told.longest_gap_milliseconds) == (Some(2), Some(7)),
            "{told:?}"
        );
    }

    #[test]
    fn the_node_is_drained_when_it_and_all_its_forwarders_have_closed_everything() {
        let process = |name: &str, closing, connections| Process {
            name: name.into(),
            drain: Some(Drain {
                draining: true,
                closing,
                connections,
                ready: !closing || connections == 0,
                making: 0,
            }),
            ..Process::default()
        };
        let mut since = None;
        let mut told = |processes: &[Process]| {
            drained(processes, &mut since).map(|told| (told.status, told.reason, told.message))
        };
        assert_eq!(told(&[process("nsmgr", false, 3)]), None, "it drains, and closes nothing");
        let (status, reason, message) = told(&[process("nsmgr", true, 0), process("fwd", true, 2)]).unwrap();
        assert_eq!((status.as_str(), reason.as_str()), ("False", "Closing"));
        assert_eq!(message, "fwd has 2 connections");
        let not_asked = told(&[process("nsmgr", true, 0), process("fwd", false, 0)]).unwrap();
        assert_eq!(not_asked.0, "False", "it still takes some back");
        let unknown =
            Process { name: "fwd".into(), unknown: "no answer in time".into(), ..Process::default() };
        let silent = told(&[process("nsmgr", true, 0), unknown]).unwrap();
        assert_eq!((silent.0.as_str(), silent.2.as_str()), ("False", "fwd: no answer in time"));
        let done = told(&[process("nsmgr", true, 0), process("fwd", true, 0)]).unwrap();
        assert_eq!((done.0.as_str(), done.1.as_str()), ("True", "NothingLeft"));
    }

    #[test]
    fn only_connections_of_this_nodes_clients_count_so_that_nodes_add_up() {
        let connections = [
            connection("a", ["nsc-a", "nsmgr-1", "fwd-1"], "nse", State::Up),
            connection("b", ["nsc-b", "nsmgr-2", "fwd-2"], "nse", State::Up),
            connection("c", ["nsc-c", "nsmgr-1", "fwd-1"], "nse", State::Down),
        ];
        let report = report(&connections, &[]);
        assert_eq!(report.connections, ConnectionCounts { total: 2, up: 1, down: 1 });
        assert_eq!(report.services, [NodeService { name: "finance".into(), total: 2, down: 1 }]);
        assert_eq!(
            (report.unhealthy[0].client.as_str(), report.unhealthy[0].last_error.as_str()),
            ("nsc-c", "why")
        );
    }

    #[test]
    fn endpoints_are_told_with_their_pods_and_connections_from_all_nodes_and_forwarders_are_left_off() {
        let id = "spiffe://d/ns/demo/sa/default/pod/nse-0";
        let entry = |name: &str, service: &str| NetworkServiceEndpoint {
            name: name.into(),
            network_service_names: vec![service.into()],
            path_ids: vec![id.into()],
            ..Default::default()
        };
        let connections = [
            connection("a", ["nsc-a", "nsmgr-1", "fwd-1"], "nse", State::Up),
            connection("b", ["nsc-b", "nsmgr-2", "fwd-2"], "nse", State::Up),
        ];
        let report = report(&connections, &[entry("nse", "finance"), entry("fwd-1", "forwarder")]);
        let [endpoint] = &report.endpoints[..] else { panic!("{:?}", report.endpoints) };
        assert_eq!(endpoint.connections, 2);
        assert_eq!(endpoint.pod_namespace.as_deref(), Some("demo"));
        assert_eq!(endpoint.pod_name.as_deref(), Some("nse-0"));
    }

    #[test]
    fn an_outage_of_the_identity_source_is_a_reason_that_is_shown_and_the_node_serves_on() {
        let outage = Outage { since: tokio::time::Instant::now(), reason: "nobody listens".into() };
        let [during, after] = [Some(&outage), None].map(|outage| ready(1, Timestamp::now(), outage));
        assert_eq!((during.status.as_str(), during.reason), ("True", after.reason));
        assert!(during.message.contains("no connection expires: nobody listens"), "{}", during.message);
        assert!(!after.message.contains("identity"), "{}", after.message);
    }
}

//! `NSMNodeState`: what the nsmgr of a node knows about the connections there.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is wanted of a node, if anything; so it is no part of what an nsmgr writes. The kind is [`NSMNodeState`].
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "operator.networkservicemesh.io",
    version = "v1alpha1",
    kind = "NSMNodeState",
    plural = "nsmnodestates",
    shortname = "nsmnode",
    status = "NSMNodeStateStatus",
    no_spec,
    derive = "PartialEq",
    derive = "Default",
    doc = "Connections of one node, reported by its nsmgr. The name is the node's.",
    printcolumn(
        name = "READY",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(name = "CONNS", type_ = "integer", json_path = ".status.connections.total"),
    printcolumn(name = "DOWN", type_ = "integer", json_path = ".status.connections.down"),
    printcolumn(name = "NSMGR", type_ = "string", json_path = ".status.versions.nsmgr"),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "MESSAGE",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        priority = 1
    )
)]
pub struct NSMNodeStateRoot {
    /// What the operator wants of the node.
    #[serde(default, skip_serializing_if = "NSMNodeStateSpec::is_default")]
    pub spec: NSMNodeStateSpec,
}

/// What the operator wants of a node.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct NSMNodeStateSpec {
    /// What becomes of the node's connections.
    #[serde(default)]
    pub desired: DesiredNode,
}

impl NSMNodeStateSpec {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// What becomes of a node's connections.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DesiredNode {
    /// It serves.
    #[default]
    Serving,
    /// All are closed, and none is taken: the mesh is to be removed.
    Drained,
}

/// What the nsmgr reports. It is written when something in it changes, never as a heartbeat.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct NSMNodeStateStatus {
    /// Which process wrote this, so that a report can be told from its predecessor's.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 128))]
    pub observed_instance: String,
    /// `Ready`: Serving, NoForwarder, RegistryUnreachable, Stopped. `Drained`, while all connections are to be
    /// closed: Closing, NothingLeft.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// Versions of the programs on this node.
    #[serde(default)]
    pub versions: NodeVersions,
    /// Connections whose client sits on this node; so the sum over all nodes counts each once.
    #[serde(default)]
    pub connections: ConnectionCounts,
    /// The same by network service: the worst ones, at most 64.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub services: Vec<NodeService>,
    /// Connections of this node's clients that are not up: the oldest, at most 32.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["id".into()]))]
    pub unhealthy: Vec<UnhealthyConnection>,
    /// Endpoints that are registered at this node's nsmgr, forwarders apart; at most 64.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub endpoints: Vec<NodeEndpoint>,
    /// What became of the connections that each forwarder of the node found at its start; at most 8.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["forwarder".into()]))]
    pub adoption: Vec<ForwarderAdoption>,
    /// Whether the node takes no new connections, by `nsm drain`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub draining: bool,
    /// How many entries the lists leave off.
    #[serde(default)]
    pub truncated: Truncated,
}

/// What a forwarder that was started anew made of the connections that the one before it left.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ForwarderAdoption {
    /// Name of the forwarder.
    #[schemars(length(min = 1, max = 253))]
    pub forwarder: String,
    /// Which start of it this is about: another one for each.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 128))]
    pub instance: String,
    /// Connections that it found.
    #[serde(default)]
    pub baseline: i64,
    /// Whether it is known what became of all of them.
    #[serde(default)]
    pub complete: bool,
    /// Those that were asked for again and had their links; told when it is complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovered: Option<i64>,
    /// Those that their clients closed instead; told when it is complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed_by_client: Option<i64>,
    /// Those whose links were gone, or that nobody asked for in time; so far.
    #[serde(default)]
    pub lost: i64,
    /// Longest time in which one of them may have carried nothing; told when it is complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub longest_gap_milliseconds: Option<i64>,
    /// Whether the forwarder before it said that it stops, and was not killed.
    #[serde(default)]
    pub quiesced: bool,
}

/// Versions of programs on a node.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct NodeVersions {
    /// Version of the nsmgr.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub nsmgr: String,
    /// What the nsmgr and all forwarders of the node can do on the wire: the lowest of their feature levels; 0
    /// where one tells none.
    #[serde(default)]
    pub feature_level: i64,
}

/// How many connections there are, and how many of them carry traffic: `total = up + down`.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionCounts {
    /// All connections.
    #[serde(default)]
    pub total: i64,
    /// Connections that are up.
    #[serde(default)]
    pub up: i64,
    /// Connections in any other state.
    #[serde(default)]
    pub down: i64,
}

/// Connections of this node's clients to one network service.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct NodeService {
    /// Name of the network service.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// All connections.
    pub total: i64,
    /// Connections that are not up.
    #[serde(default)]
    pub down: i64,
}

/// Why a connection is not up (upstream's states of a connection).
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConnectionState {
    /// Traffic does not pass, or an end of it is gone.
    Down,
    /// Someone on the path asked the client to Request again.
    RefreshRequested,
    /// Someone on the path asked the client to choose another endpoint.
    ReselectRequested,
}

/// One connection that is not up.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct UnhealthyConnection {
    /// Id of the connection at the client: that of the first segment of its path.
    #[schemars(length(min = 1, max = 253))]
    pub id: String,
    /// Name of the network service.
    pub network_service: String,
    /// Name of the client.
    pub client: String,
    /// Name of the endpoint; empty when none was chosen.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub endpoint: String,
    /// What it is instead of up.
    pub state: ConnectionState,
    /// When it went into that state.
    pub since: Time,
    /// The last error a Request for it met; empty when there was none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 200))]
    pub last_error: String,
}

/// One endpoint that is registered on this node.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct NodeEndpoint {
    /// Name it is registered under.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Network services it offers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub network_services: Vec<String>,
    /// Namespace of its pod, as its identity says; absent when it runs in no pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_namespace: Option<String>,
    /// Its pod, as its identity says; absent when it runs in no pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_name: Option<String>,
    /// Connections to it, from clients on any node.
    #[serde(default)]
    pub connections: i64,
}

/// How many entries were left off each list; zero when a list is whole.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Truncated {
    /// Services left off.
    #[serde(default)]
    pub services: i64,
    /// Unhealthy connections left off.
    #[serde(default)]
    pub unhealthy: i64,
    /// Endpoints left off.
    #[serde(default)]
    pub endpoints: i64,
}

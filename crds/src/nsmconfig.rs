//! `NSMConfig`: what the operator installs, and how it fares.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ConnectionCounts;

/// What is wanted of the mesh. Everything has a default: `spec: {}` is a whole mesh.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "operator.networkservicemesh.io",
    version = "v1alpha1",
    kind = "NSMConfig",
    plural = "nsmconfigs",
    shortname = "nsm",
    status = "NSMConfigStatus",
    derive = "PartialEq",
    doc = "Network Service Mesh as it should run on this cluster. There is one, named default.",
    validation = Rule::new("self.metadata.name == 'default'").message("there is one mesh a cluster: the name must be 'default'"),
    printcolumn(name = "READY", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "NODES", type_ = "integer", json_path = ".status.components[?(@.name==\"nsmgr\")].ready"),
    printcolumn(name = "CONNS", type_ = "integer", json_path = ".status.connections.total"),
    printcolumn(name = "DOWN", type_ = "integer", json_path = ".status.connections.down"),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "MESSAGE", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].message", priority = 1)
)]
#[serde(rename_all = "camelCase")]
pub struct NSMConfigSpec {
    /// Namespace of all components; the operator makes it. It cannot be changed later.
    #[serde(default = "namespace")]
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("the namespace of a mesh cannot be changed: delete the NSMConfig and make a new one"))]
    pub namespace: String,
    /// Which images run.
    #[serde(default)]
    pub images: Images,
    /// Who the processes of the mesh are to each other.
    #[serde(default)]
    pub identity: Identity,
    /// The registry of services and endpoints.
    #[serde(default)]
    pub registry: Registry,
    /// The managers, one a node.
    #[serde(default)]
    pub manager: Process,
    /// The forwarders, one a node and each on nodes of its own.
    #[serde(default = "forwarders")]
    #[schemars(length(min = 1, max = 8))]
    #[x_kube(
        merge_strategy = ListMerge::Map(vec!["name".into()]),
        validation = Rule::new("self.all(a, self.all(b, a.name == b.name || (has(a.nodeSelector) && has(b.nodeSelector) && a.nodeSelector.exists(k, k in b.nodeSelector && a.nodeSelector[k] != b.nodeSelector[k]))))")
            .message("two forwarders may not share a node: give each a nodeSelector, with another value of the same label")
    )]
    pub forwarders: Vec<Forwarder>,
    /// Lowest level that all components log.
    #[serde(default)]
    pub log_level: LogLevel,
    /// Longest life of a token, such as `10m`: a connection whose client stops refreshing ends after it.
    #[serde(default = "max_token_lifetime")]
    #[schemars(length(max = 16))]
    #[x_kube(validation = Rule::new("duration(self) >= duration('10s') && duration(self) <= duration('24h')").message("must be a duration from 10s to 24h, such as 10m"))]
    pub max_token_lifetime: String,
    /// What becomes of the mesh when this object is deleted.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
    /// How long each node may take to close its connections when the mesh is removed, such as `1m`. One that takes
    /// longer is named in the status and in an Event, and left as it is; `nsm purge` cleans it.
    #[serde(default = "teardown_timeout")]
    #[schemars(length(max = 16))]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1s') && duration(self) <= duration('1h')").message("must be a duration from 1s to 1h, such as 1m"))]
    pub teardown_timeout: String,
}

/// What becomes of the mesh with its `NSMConfig`.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeletionPolicy {
    /// It is removed, in order.
    #[default]
    Delete,
    /// It is removed once no node reports a connection.
    DeleteWhenIdle,
    /// It stays and runs; a new NSMConfig takes it over.
    Orphan,
}

/// What can be said of one process of the mesh.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Process {
    /// Part of a pod template that is laid over the operator's own, as server-side apply would: lists of
    /// named items are merged by their names, other lists are replaced, null removes. The API server is
    /// asked before anything is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub overrides: Option<Value>,
}

/// How the registry runs.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.replicas) || self.replicas == 1 || !has(self.storage) || self.storage == 'CRD'")
    .message("registries in memory know nothing of each other: with storage Memory there is one, leave replicas out"))]
pub struct Registry {
    /// Where it keeps what is registered.
    #[serde(default)]
    pub storage: Storage,
    /// How many run: 2 when absent, and 1 with storage Memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 9))]
    pub replicas: Option<i32>,
    /// Part of a pod template that is laid over the operator's own: see spec.manager.overrides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub overrides: Option<Value>,
}

impl Registry {
    /// How many run.
    pub fn replicas(&self) -> i32 {
        match self.storage {
            Storage::Crd => self.replicas.unwrap_or(2),
            Storage::Memory => 1,
        }
    }
}

/// Where a registry keeps what is registered.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Storage {
    /// In NetworkServices and NetworkServiceEndpoints, as upstream's registry-k8s.
    #[default]
    #[serde(rename = "CRD")]
    Crd,
    /// In memory: after its restart all endpoints register anew.
    Memory,
}

/// Forwarders of some nodes.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Forwarder {
    /// Name of their DaemonSet: forwarder, or one that begins with forwarder-.
    #[schemars(length(max = 52), regex(pattern = r"^forwarder(-[a-z0-9]([-a-z0-9]*[a-z0-9])?)?$"))]
    pub name: String,
    /// Labels of the nodes they run on; all nodes when absent.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "labels")]
    pub node_selector: BTreeMap<String, String>,
    /// Part of a pod template that is laid over the operator's own: see spec.manager.overrides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub overrides: Option<Value>,
}

fn forwarders() -> Vec<Forwarder> {
    vec![Forwarder { name: "forwarder".into(), node_selector: BTreeMap::new(), overrides: None }]
}

fn any_object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

/// Bounded, so that the rule over all forwarders may look into them.
fn labels(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "maxProperties": 8, "additionalProperties": {"type": "string", "maxLength": 63}})
}

fn namespace() -> String {
    "nsm-system".into()
}

fn teardown_timeout() -> String {
    "1m".into()
}

fn max_token_lifetime() -> String {
    "10m".into()
}

impl Default for NSMConfigSpec {
    fn default() -> Self {
        Self {
            namespace: namespace(),
            images: Images::default(),
            identity: Identity::default(),
            registry: Registry::default(),
            manager: Process::default(),
            forwarders: forwarders(),
            log_level: LogLevel::default(),
            max_token_lifetime: max_token_lifetime(),
            deletion_policy: DeletionPolicy::default(),
            teardown_timeout: teardown_timeout(),
        }
    }
}

/// Images of the mesh.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Images {
    /// The image of all components; when absent, the one the operator was installed with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub mesh: Option<String>,
    /// When nodes fetch it.
    #[serde(default)]
    pub pull_policy: PullPolicy,
}

/// When a node fetches an image.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PullPolicy {
    /// At every start of a container.
    Always,
    /// When the node does not have it.
    #[default]
    IfNotPresent,
    /// Never: the nodes must have it.
    Never,
}

impl PullPolicy {
    /// The word that stands in pods.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        }
    }
}

/// Identities of the mesh: X.509-SVIDs by the built-in authority and an agent on each node.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// SPIFFE trust domain.
    #[serde(default = "trust_domain")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-._a-z0-9]*[a-z0-9])?$"))]
    pub trust_domain: String,
    /// Life of an identity, such as `1h`; it is renewed at half of it.
    #[serde(default = "svid_lifetime")]
    #[schemars(length(max = 16))]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1m') && duration(self) <= duration('720h')").message("must be a duration from 1m to 720h, such as 1h"))]
    pub svid_lifetime: String,
    /// The authority, which signs.
    #[serde(default)]
    pub authority: Process,
    /// The agents, one a node, which serve identities there.
    #[serde(default)]
    pub agent: Process,
}

fn trust_domain() -> String {
    "k8s.nsm".into()
}

fn svid_lifetime() -> String {
    "1h".into()
}

impl Default for Identity {
    fn default() -> Self {
        Self {
            trust_domain: trust_domain(),
            svid_lifetime: svid_lifetime(),
            authority: Process::default(),
            agent: Process::default(),
        }
    }
}

/// Levels of logs, most to least severe.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "UPPERCASE")]
pub enum LogLevel {
    /// Someone must act.
    Error,
    /// The mesh coped.
    Warn,
    /// Life cycle.
    #[default]
    Info,
    /// Decisions.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// The word the processes read.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "ERROR",
            Self::Warn => "WARN",
            Self::Info => "INFO",
            Self::Debug => "DEBUG",
            Self::Trace => "TRACE",
        }
    }
}

/// How the mesh fares, written by the operator.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct NSMConfigStatus {
    /// Generation of the spec that this speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`: AllReady, Progressing, ComponentNotReady, NonConverging, ApplyFailed, InvalidConfig,
    /// WaitingForIdle, Deleting. `Reconciling`: UpToDate, Progressing, WaitingForIdle, Deleting, Paused,
    /// PlanOnly, and the reasons of `Stalled`. `Stalled`: NonConverging, RolloutHalted, PruneHeld,
    /// ApplyFailed, InvalidConfig, UnsupportedServer; as long as it is `False`, UpToDate. `Protected`: PoliciesInForce, PoliciesMissing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// Workloads of the mesh, in the order in which they start.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub components: Vec<Component>,
    /// How far nodes are moved to another revision of their daemons; absent when none is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<RolloutStatus>,
    /// Addresses of the mesh's Services: one that is made anew gets its own again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub services: Vec<ServiceAddress>,
    /// Service accounts whose tokens pods have: with a new one they are restarted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub service_accounts: Vec<KnownAccount>,
    /// All connections of the mesh.
    #[serde(default)]
    pub connections: MeshConnections,
    /// Version of the operator that wrote this.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
}

/// Kinds of workloads.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum ComponentKind {
    /// One pod a node.
    DaemonSet,
    /// Some pods.
    Deployment,
}

/// Moving nodes to another revision of their daemons, one at a time.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct RolloutStatus {
    /// The revision that is wanted.
    pub revision: String,
    /// All nodes.
    pub nodes: i32,
    /// Nodes that have it.
    pub done: i32,
    /// What it waits for.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The node where it did not get ready; it goes no further.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_node: Option<String>,
}

/// The address of a Service.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ServiceAddress {
    /// Its name.
    pub name: String,
    /// Its address.
    #[serde(rename = "clusterIP")]
    pub cluster_ip: String,
}

/// A service account by its uid, which a token is bound to.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct KnownAccount {
    /// Its name.
    pub name: String,
    /// Its uid when the mesh was made.
    pub first_uid: String,
    /// Its uid.
    pub uid: String,
}

/// One workload of the mesh.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Component {
    /// Name of the workload.
    pub name: String,
    /// Its kind.
    pub kind: ComponentKind,
    /// Pods that should run.
    pub desired: i32,
    /// Pods that run, are ready, and are of the wanted revision.
    pub ready: i32,
    /// What is missing; empty when nothing is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// Connections of the whole mesh: the sum of what the nodes report.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct MeshConnections {
    /// The counts.
    #[serde(flatten)]
    pub counts: ConnectionCounts,
    /// Nodes that have reported.
    #[serde(default)]
    pub nodes_reporting: i64,
}

//! `NetworkServiceEndpoint`: upstream's kind, which the registry writes, and with `spec.workload` a
//! template by which the operator runs endpoints.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::LabelSelector;

/// A registration, or with `workload` a template for endpoints.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "networkservicemesh.io",
    version = "v1",
    kind = "NetworkServiceEndpoint",
    plural = "networkserviceendpoints",
    shortname = "nse",
    shortname = "nses",
    namespaced,
    status = "NetworkServiceEndpointStatus",
    derive = "PartialEq",
    derive = "Default",
    validation = Rule::new("!has(self.spec.workload) || self.metadata.name.size() <= 52").message("the name of a template has at most 52 characters"),
    doc = "An endpoint of the mesh: a registration, or with spec.workload a template that the operator runs.",
    selectable = ".spec.workload.payload",
    selectable = ".status.registered",
    printcolumn(
        name = "READY",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(name = "REGISTERED", type_ = "integer", json_path = ".status.registered"),
    printcolumn(name = "CONNS", type_ = "integer", json_path = ".status.connections"),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "URL", type_ = "string", json_path = ".spec.url", priority = 1),
    printcolumn(
        name = "MESSAGE",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        priority = 1
    )
)]
#[x_kube(validation = Rule::new("!has(self.workload) || !(has(self.network_service_names) || has(self.url) || has(self.expiration_time))")
    .message("a template (spec.workload) has no network_service_names, url or expiration_time: name its services in spec.workload.networkServices"))]
pub struct NetworkServiceEndpointSpec {
    /// Services the endpoint is registered for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_service_names: Option<Vec<String>>,
    /// Labels of the endpoint, by service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_service_labels: Option<BTreeMap<String, ServiceLabels>>,
    /// Where it, or the nsmgr before it, is reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// When the registration ends unless it is renewed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expiration_time: Option<ExpirationTime>,
    /// Endpoints for the operator to run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<Workload>,
    /// Everything else, kept as it is.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

/// Labels of an endpoint under one service.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
pub struct ServiceLabels {
    /// The labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<LabelSelector>,
    /// Everything else, kept as it is.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

/// A point in time as upstream stores it.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
pub struct ExpirationTime {
    /// Seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<i64>,
    /// Nanoseconds after them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nanos: Option<i32>,
    /// Everything else, kept as it is.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

/// What an endpoint carries.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "UPPERCASE")]
pub enum Payload {
    /// Ethernet frames.
    #[default]
    Ethernet,
    /// IP packets.
    Ip,
}

impl Payload {
    /// The word the endpoint reads.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ethernet => "ETHERNET",
            Self::Ip => "IP",
        }
    }
}

/// Pods that register themselves as endpoints. Closed on purpose: no volumes, host access or
/// security context, so that who may write a template gets no more rights than these pods have.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Workload {
    /// Services the endpoints offer.
    #[schemars(length(min = 1, max = 32), inner(length(min = 1, max = 253)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub network_services: Vec<String>,
    /// Prefixes the endpoints hand out addresses from; a client gets one pair of each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(max = 64)))]
    #[x_kube(validation = Rule::new("self.all(p, isCIDR(p))").message("must be prefixes such as 172.16.0.0/24 or fd00::/64"))]
    pub cidr_prefixes: Vec<String>,
    /// What the endpoints carry.
    #[serde(default)]
    pub payload: Payload,
    /// Labels of the endpoints, for the matches of a network service. Neither `,` nor `:` can stand
    /// in a key, nor `,` in a value.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub labels: LabelSelector,
    /// How many endpoints run.
    #[serde(default = "one")]
    #[schemars(range(min = 0, max = 1000))]
    pub replicas: i32,
    /// The image of the endpoints; when absent, the mesh's own with its simple endpoint. A new release of the
    /// mesh restarts no endpoint: `kubectl rollout restart` of the Deployment moves it to the new image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
    /// Arguments of the image; the mesh's own needs none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Further environment; a variable here counts more than one the operator sets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub env: Vec<EnvVar>,
    /// Labels of the nodes the endpoints may run on.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: LabelSelector,
    /// Service account of the pods, in the template's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub service_account_name: Option<String>,
    /// Requests and limits of a pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<WorkloadResources>,
}

fn one() -> i32 {
    1
}

/// One variable of the environment.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct EnvVar {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Its value.
    #[schemars(length(min = 1))]
    pub value: String,
}

/// What a pod needs and may use.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkloadResources {
    /// What it needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<Amounts>,
    /// What it may use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Amounts>,
}

/// Amounts of what a node has.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct Amounts {
    /// Processors, such as `"2"`, `"0.5"` or `500m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16), regex(pattern = r"^([0-9]+m|[0-9]+(\.[0-9]{1,3})?)$"))]
    pub cpu: Option<String>,
    /// Memory, such as `64Mi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16), regex(pattern = r"^[1-9][0-9]*(Ki|Mi|Gi)$"))]
    pub memory: Option<String>,
}

/// How a template fares, written by the operator.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct NetworkServiceEndpointStatus {
    /// Generation of the spec that this speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Endpoints of the template's pods that are registered.
    #[serde(default)]
    pub registered: i64,
    /// Connections to them.
    #[serde(default)]
    pub connections: i64,
    /// `Accepted`: WorkloadApplied, InvalidWorkload, NotPermitted, ApplyFailed, NoMesh.
    /// `Ready`: Registered, WorkloadNotReady, NotRegistered, and while nothing runs those of `Accepted`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

//! `NetworkService`: upstream's kind, with a status. Its spec keeps upstream's JSON names, and every
//! field that is not named here comes back as it was.

#![allow(clippy::option_option, reason = "upstream writes null for 'any client', and it must come back so")]

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::ConnectionCounts;

/// What the service carries and which endpoints serve whom.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "networkservicemesh.io",
    version = "v1",
    kind = "NetworkService",
    plural = "networkservices",
    shortname = "netsvc",
    shortname = "netsvcs",
    namespaced,
    status = "NetworkServiceStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "A service of the mesh. Clients ask for it by its name, which is mesh-wide.",
    printcolumn(name = "PAYLOAD", type_ = "string", json_path = ".spec.payload"),
    printcolumn(name = "ENDPOINTS", type_ = "integer", json_path = ".status.endpoints"),
    printcolumn(name = "CONNS", type_ = "integer", json_path = ".status.connections.total"),
    printcolumn(name = "DOWN", type_ = "integer", json_path = ".status.connections.down"),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "MESSAGE",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        priority = 1
    )
)]
pub struct NetworkServiceSpec {
    /// What the service carries: `ETHERNET` or `IP`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<String>,
    /// Which endpoints serve which clients; the first match counts. Empty: all serve all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matches: Option<Vec<Match>>,
    /// Everything else, kept as it is.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

/// Labels that must all be there with these values.
pub type LabelSelector = BTreeMap<String, String>;

/// One rule of a network service.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
pub struct Match {
    /// Labels of the clients it is for; absent, null or empty: all.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub source_selector: Option<Option<LabelSelector>>,
    /// Endpoints for these clients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routes: Option<Vec<Destination>>,
    /// Whether the next rule is tried when no endpoint is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallthrough: Option<bool>,
    /// Everything else, kept as it is.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

/// One destination of a rule.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
pub struct Destination {
    /// Labels of the endpoints; absent or empty: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination_selector: Option<LabelSelector>,
    /// Everything else, kept as it is.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

/// How the service fares, written by the operator.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct NetworkServiceStatus {
    /// Endpoints that are registered for it.
    #[serde(default)]
    pub endpoints: i64,
    /// Connections to it.
    #[serde(default)]
    pub connections: ConnectionCounts,
    /// `Ready`: EndpointsAvailable, NoEndpoints, ConnectionsDown.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// A field that is there, be it null: the outer `Some` says so.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<LabelSelector>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

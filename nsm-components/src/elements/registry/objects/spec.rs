//! Entries as objects say them: upstream's JSON names (protocol §7), and what upstream does not know.

use std::collections::BTreeMap;

use prost_types::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    api::registry::{
        AccessRules, Destination, Match, Metadata, NetworkService, NetworkServiceEndpoint,
        NetworkServiceLabels,
    },
    chain::Entry,
};

/// What an object of the API server says.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Said<T> {
    /// An entry.
    Entry(T),
    /// A wish for endpoints, which is none itself.
    Template,
    /// An entry whose time is over, where nobody of us may delete it.
    Over,
    /// Nothing that can be understood, and why.
    Unreadable(String),
}

/// How an entry ends that nobody takes back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Life {
    /// Not at all.
    Endless,
    /// With the node whose manager looks after it.
    OfNode(String),
    /// At this time, in seconds since the epoch.
    Until(i64),
}

impl Life {
    /// Whether the time of an entry is over, by its own word.
    pub(super) fn is_over(&self, seconds: f64) -> bool {
        match self {
            #[allow(clippy::cast_precision_loss)] // exact until the year 285,000,000
            Self::Until(end) => (*end as f64) < seconds,
            Self::Endless | Self::OfNode(_) => false,
        }
    }
}

/// An entry that is kept as an object of the API server.
pub trait Resource: Entry {
    /// Kind of its objects.
    const KIND: &'static str;

    /// What a spec says; an entry is called as its object where the spec has no name.
    #[doc(hidden)]
    fn read(name: &str, spec: &Value) -> serde_json::Result<Option<Self>>;

    /// The spec of an entry.
    #[doc(hidden)]
    fn spec(&self) -> serde_json::Result<Value>;
}

/// What an object with this name and spec says.
pub(super) fn read<T: Resource>(name: &str, spec: &Value) -> Said<T> {
    match T::read(name, spec) {
        Ok(Some(mut entry)) => {
            if let (Life::OfNode(_), Some(end)) = (life(&entry), entry.expiration_mut()) {
                // The node's end counts, and whoever reads an end here takes it for one.
                *end = None;
            }
            Said::Entry(entry)
        }
        Ok(None) => Said::Template,
        Err(error) => Said::Unreadable(error.to_string()),
    }
}

/// How an entry ends.
pub(super) fn life<T: Entry>(entry: &T) -> Life {
    let mut entry = entry.clone();
    let node = node(entry.path_ids()).map(str::to_owned);
    match (entry.expiration_mut(), node) {
        (Some(_), Some(node)) => Life::OfNode(node),
        (Some(Some(end)), None) => Life::Until(end.seconds),
        (None, _) | (Some(None), None) => Life::Endless,
    }
}

/// The node of the manager that an entry came by, if its SPIFFE ID tells: `…/node/<node>`. Ours expires
/// its endpoints itself.
pub(super) fn node(path_ids: &[String]) -> Option<&str> {
    let of = |id: &String| {
        let (_, node) = id.rsplit_once("/node/")?;
        (!node.is_empty() && !node.contains('/')).then_some(node.len())
    };
    let managers = path_ids.get(1..)?;
    managers.iter().rev().find_map(|id| of(id).map(|length| &id[id.len() - length..]))
}

type Labels = BTreeMap<String, String>;

#[derive(Default, Deserialize, Serialize)]
struct ServiceSpec {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    payload: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    matches: Option<Vec<MatchSpec>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path_ids: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    access: Option<AccessSpec>,
}

#[derive(Default, Deserialize, Serialize)]
struct MatchSpec {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    source_selector: Option<Labels>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    routes: Option<Vec<DestinationSpec>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fallthrough: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    metadata: Option<LabelsSpec>,
}

#[derive(Default, Deserialize, Serialize)]
struct DestinationSpec {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    destination_selector: Option<Labels>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    weight: Option<u32>,
}

#[derive(Default, Deserialize, Serialize)]
struct LabelsSpec {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    labels: Option<Labels>,
}

#[derive(Default, Deserialize, Serialize)]
struct AccessSpec {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    clients: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    endpoints: Option<Vec<String>>,
}

#[derive(Default, Deserialize, Serialize)]
struct EndpointSpec {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    network_service_names: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    network_service_labels: Option<BTreeMap<String, LabelsSpec>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expiration_time: Option<TimeSpec>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    initial_registration_time: Option<TimeSpec>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path_ids: Option<Vec<String>>,
    #[serde(default, skip_serializing)]
    workload: Option<Value>,
}

#[derive(Default, Deserialize, Serialize)]
struct TimeSpec {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    seconds: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nanos: Option<i32>,
}

/// Nothing instead of something empty, which would be a field of ours to the API server.
fn filled<C: Default + PartialEq>(value: C) -> Option<C> {
    (value != C::default()).then_some(value)
}

fn named(said: Option<String>, object: &str) -> String {
    said.filter(|name| !name.is_empty()).unwrap_or_else(|| object.to_owned())
}

impl From<TimeSpec> for Timestamp {
    fn from(time: TimeSpec) -> Self {
        Self { seconds: time.seconds.unwrap_or_default(), nanos: time.nanos.unwrap_or_default() }
    }
}

impl From<Timestamp> for TimeSpec {
    fn from(time: Timestamp) -> Self {
        Self { seconds: filled(time.seconds), nanos: filled(time.nanos) }
    }
}

impl From<MatchSpec> for Match {
    fn from(spec: MatchSpec) -> Self {
        let destination = |route: DestinationSpec| Destination {
            destination_selector: route.destination_selector.unwrap_or_default(),
            weight: route.weight.unwrap_or_default(),
        };
        Self {
            source_selector: spec.source_selector.unwrap_or_default(),
            routes: spec.routes.into_iter().flatten().map(destination).collect(),
            fallthrough: spec.fallthrough.unwrap_or_default(),
            metadata: spec.metadata.map(|metadata| Metadata { labels: metadata.labels.unwrap_or_default() }),
        }
    }
}

impl From<&Match> for MatchSpec {
    fn from(rule: &Match) -> Self {
        let destination = |route: &Destination| DestinationSpec {
            destination_selector: filled(route.destination_selector.clone()),
            weight: filled(route.weight),
        };
        let routes: Vec<_> = rule.routes.iter().map(destination).collect();
        Self {
            source_selector: filled(rule.source_selector.clone()),
            routes: (!routes.is_empty()).then_some(routes),
            fallthrough: filled(rule.fallthrough),
            metadata: rule.metadata.as_ref().map(|all| LabelsSpec { labels: filled(all.labels.clone()) }),
        }
    }
}

impl Resource for NetworkService {
    const KIND: &'static str = "NetworkService";

    fn read(name: &str, spec: &Value) -> serde_json::Result<Option<Self>> {
        // Its owners may have left out the whole spec.
        let spec = Option::<ServiceSpec>::deserialize(spec)?.unwrap_or_default();
        let rules = |access: AccessSpec| AccessRules {
            clients: access.clients.unwrap_or_default(),
            endpoints: access.endpoints.unwrap_or_default(),
        };
        Ok(Some(Self {
            name: named(spec.name, name),
            payload: spec.payload.unwrap_or_default(),
            matches: spec.matches.into_iter().flatten().map(Into::into).collect(),
            path_ids: spec.path_ids.unwrap_or_default(),
            access: spec.access.map(rules),
        }))
    }

    fn spec(&self) -> serde_json::Result<Value> {
        let matches: Vec<_> = self.matches.iter().map(Into::into).collect();
        serde_json::to_value(ServiceSpec {
            name: filled(self.name.clone()),
            payload: filled(self.payload.clone()),
            matches: (!matches.is_empty()).then_some(matches),
            path_ids: filled(self.path_ids.clone()),
            access: self.access.as_ref().map(|rules| AccessSpec {
                clients: filled(rules.clients.clone()),
                endpoints: filled(rules.endpoints.clone()),
            }),
        })
    }
}

impl Resource for NetworkServiceEndpoint {
    const KIND: &'static str = "NetworkServiceEndpoint";

    fn read(name: &str, spec: &Value) -> serde_json::Result<Option<Self>> {
        let spec = Option::<EndpointSpec>::deserialize(spec)?.unwrap_or_default();
        if spec.workload.is_some() {
            return Ok(None);
        }
        let labels = |(service, spec): (String, LabelsSpec)| {
            (service, NetworkServiceLabels { labels: spec.labels.unwrap_or_default() })
        };
        Ok(Some(Self {
            name: named(spec.name, name),
            network_service_names: spec.network_service_names.unwrap_or_default(),
            network_service_labels: spec.network_service_labels.into_iter().flatten().map(labels).collect(),
            url: spec.url.unwrap_or_default(),
            expiration_time: spec.expiration_time.map(Into::into),
            initial_registration_time: spec.initial_registration_time.map(Into::into),
            path_ids: spec.path_ids.unwrap_or_default(),
        }))
    }

    fn spec(&self) -> serde_json::Result<Value> {
        let labels = self.network_service_labels.iter();
        let labels: BTreeMap<_, _> = labels
            .map(|(service, labels)| (service.clone(), LabelsSpec { labels: filled(labels.labels.clone()) }))
            .collect();
        serde_json::to_value(EndpointSpec {
            name: filled(self.name.clone()),
            network_service_names: filled(self.network_service_names.clone()),
            network_service_labels: (!labels.is_empty()).then_some(labels),
            url: filled(self.url.clone()),
            expiration_time: self.expiration_time.map(Into::into),
            initial_registration_time: self.initial_registration_time.map(Into::into),
            path_ids: filled(self.path_ids.clone()),
            workload: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn endpoint(spec: &Value) -> Said<NetworkServiceEndpoint> {
        read("object", spec)
    }

    #[test]
    fn a_spec_is_upstreams_and_reads_back_as_the_same_entry() {
        let spec = json!({
            "name": "nse-1",
            "network_service_names": ["my-ns"],
            "network_service_labels": {"my-ns": {"labels": {"app": "b"}}},
            "url": "tcp://10.0.0.5:5001",
            "expiration_time": {"seconds": 1_712_345_678, "nanos": 123},
            "initial_registration_time": {"seconds": 1_712_345_600, "nanos": 5},
            "path_ids": ["spiffe://d/nse", "spiffe://d/nsmgr", "spiffe://d/registry"],
        });
        let Said::Entry(entry) = endpoint(&spec) else { panic!("{:?}", endpoint(&spec)) };
        assert_eq!(entry.spec().unwrap(), spec);
        assert_eq!(life(&entry), Life::Until(1_712_345_678));
        let spec = json!({
            "name": "my-ns", "payload": "ETHERNET", "path_ids": ["spiffe://d/nse"],
            "matches": [{
                "source_selector": {"app": "a"}, "fallthrough": true, "metadata": {"labels": {"p2p": "true"}},
                "routes": [{"destination_selector": {"app": "b"}, "weight": 1}],
            }],
            "access": {"clients": ["ns/shop"]},
        });
        let Said::Entry(service) = read::<NetworkService>("object", &spec) else { panic!("not read") };
        assert_eq!(service.spec().unwrap(), spec);
        assert_eq!(life(&service), Life::Endless);
    }

    #[test]
    fn what_users_leave_out_or_write_as_null_is_empty_and_the_name_is_the_objects() {
        let Said::Entry(entry) = endpoint(&json!({"name": "", "url": null, "unknown": {"a": [1]}})) else {
            panic!("not read")
        };
        assert_eq!(entry, NetworkServiceEndpoint { name: "object".into(), ..Default::default() });
        let rule =
            json!({"matches": [{"source_selector": null, "routes": [{"destination_selector": null}]}]});
        let Said::Entry(service) = read::<NetworkService>("object", &rule) else { panic!("not read") };
        assert_eq!(service.matches[0].routes.len(), 1);
        assert!(matches!(read::<NetworkService>("object", &Value::Null), Said::Entry(_)));
    }

    #[test]
    fn a_template_is_no_entry_and_what_cannot_be_read_is_none_either() {
        assert_eq!(endpoint(&json!({"workload": {"networkServices": ["a"]}})), Said::Template);
        let Said::Unreadable(why) = endpoint(&json!({"network_service_names": "a"})) else { panic!("read") };
        assert!(why.contains("invalid type"), "{why}");
    }

    #[test]
    fn who_came_by_a_node_daemon_ends_with_the_node_and_has_no_end_of_its_own() {
        let by = |ids: &[&str]| {
            let spec = json!({"path_ids": ids, "expiration_time": {"seconds": 5}});
            let Said::Entry(entry) = endpoint(&spec) else { panic!("not read") };
            (life(&entry), entry.expiration_time.map(|time| time.seconds))
        };
        let pod = "spiffe://d/ns/demo/sa/a/pod/p";
        let nsmgr = "spiffe://d/ns/nsm-system/sa/nsmgr/node/w1";
        assert_eq!(by(&[pod, nsmgr, "spiffe://d/registry"]), (Life::OfNode("w1".into()), None));
        assert_eq!(by(&[pod, "spiffe://d/ns/nsm-system/pod/nsmgr-x"]), (Life::Until(5), Some(5)));
        // The endpoint itself is on a node: that says nothing of who looks after it.
        assert_eq!(by(&[nsmgr]), (Life::Until(5), Some(5)));
        assert_eq!(by(&[pod, "spiffe://d/node/"]), (Life::Until(5), Some(5)));
    }
}

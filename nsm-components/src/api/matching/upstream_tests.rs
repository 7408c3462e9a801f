//! Each service that upstream publishes as an example chooses the endpoints that it is written for.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{
    super::registry::{Destination, Match, Metadata, NetworkServiceLabels},
    *,
};

const OBJECTS: &str = include_str!("../../../../crds/tests/data/upstream-objects.yaml");

type Pairs = &'static [(&'static str, &'static str)];

fn labels(pairs: Pairs) -> Labels {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// An absent map is an empty one.
fn map(value: &Value) -> Labels {
    let pairs = value.as_object().into_iter().flatten();
    pairs.map(|(key, value)| (key.clone(), value.as_str().unwrap().to_owned())).collect()
}

fn service(object: &Value) -> NetworkService {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let route = |route: &Value| Destination {
        destination_selector: map(&route["destination_selector"]),
        ..Default::default()
    };
    let entry = |entry: &Value| Match {
        source_selector: map(&entry["source_selector"]),
        routes: list(&entry["routes"]).iter().map(route).collect(),
        fallthrough: entry["fallthrough"].as_bool().unwrap_or_default(),
        metadata: entry.get("metadata").map(|metadata| Metadata { labels: map(&metadata["labels"]) }),
    };
    NetworkService {
        name: object["metadata"]["name"].as_str().unwrap().to_owned(),
        payload: object["spec"]["payload"].as_str().unwrap().to_owned(),
        matches: list(&object["spec"]["matches"]).iter().map(entry).collect(),
        ..Default::default()
    }
}

/// All services, each under the name of its file.
fn published() -> BTreeMap<String, NetworkService> {
    let documents = OBJECTS.split("\n---\n").skip(1);
    let named = documents.map(|document| {
        let file = document.lines().next().unwrap().trim_start_matches("# ");
        (file.to_owned(), service(&serde_saphyr::from_str(document).unwrap()))
    });
    named.collect()
}

/// Endpoints by name, with their labels.
fn chosen(service: &NetworkService, client: Pairs, all: &[(&str, Pairs)]) -> Vec<String> {
    let endpoint = |(name, pairs): &(&str, Pairs)| NetworkServiceEndpoint {
        name: (*name).to_owned(),
        network_service_labels: [(service.name.clone(), NetworkServiceLabels { labels: labels(pairs) })]
            .into(),
        ..Default::default()
    };
    let all: Vec<_> = all.iter().map(endpoint).collect();
    endpoints(&labels(client), service, &all).into_iter().map(|endpoint| endpoint.name.clone()).collect()
}

/// File, endpoints there are, and for each client which of them it gets.
type Row = (&'static str, &'static [(&'static str, Pairs)], &'static [(Pairs, &'static [&'static str])]);

const COLOURS: &[(&str, Pairs)] = &[("blue", &[("color", "Blue")]), ("green", &[("color", "Green")])];

const TABLE: &[Row] = &[
    ("examples/features/change-nse-dynamically/blue-netsvc.yaml", COLOURS, &[(&[], &["blue"])]),
    ("examples/features/change-nse-dynamically/green-netsvc.yaml", COLOURS, &[(&[], &["green"])]),
    (
        "examples/features/nse-composition/nse-composition-ns.yaml",
        &[
            ("firewall", &[("app", "firewall")]),
            ("one", &[("app", "passthrough-1")]),
            ("two", &[("app", "passthrough-2")]),
            ("three", &[("app", "passthrough-3")]),
            ("gateway", &[("app", "gateway")]),
        ],
        &[
            (&[], &["firewall"]),
            (&[("app", "client")], &["firewall"]),
            (&[("app", "firewall")], &["one"]),
            (&[("app", "passthrough-1")], &["two"]),
            (&[("app", "passthrough-2")], &["three"]),
            (&[("app", "passthrough-3")], &["gateway"]),
        ],
    ),
    (
        "examples/features/scale-from-zero/netsvc.yaml",
        &[
            ("here", &[("app", "nse-icmp-responder"), ("nodeName", "n1")]),
            ("supplier", &[("app", "icmp-responder-supplier"), ("nodeName", "n1")]),
        ],
        &[(&[("nodeName", "n1")], &["here"]), (&[("nodeName", "n2")], &["supplier"]), (&[], &["supplier"])],
    ),
    (
        "examples/features/vl3-scale-from-zero/vl3-scale-from-zero.yaml",
        &[
            ("here", &[("app", "nse-vl3-vpp"), ("nodeName", "n1"), ("capability", "vl3")]),
            ("there", &[("app", "nse-vl3-vpp"), ("nodeName", "n2"), ("capability", "vl3")]),
            ("supplier", &[("app", "icmp-responder-supplier")]),
        ],
        &[
            (&[("nodeName", "n1")], &["here"]),
            (&[("nodeName", "n3")], &["supplier"]),
            (&[("nodeName", "n3"), ("capability", "vl3")], &["here", "there"]),
        ],
    ),
];

#[test]
fn published_services_with_matches_choose_the_endpoints_they_are_written_for() {
    let published = published();
    for (file, all, clients) in TABLE {
        for (client, expected) in *clients {
            assert_eq!(chosen(&published[*file], client, all), *expected, "{file}: a client with {client:?}");
        }
    }
    let with_matches = published.iter().filter(|(_, service)| !service.matches.is_empty());
    let with_matches: BTreeSet<_> = with_matches.map(|(file, _)| file.as_str()).collect();
    assert_eq!(with_matches, TABLE.iter().map(|(file, ..)| *file).collect(), "each has its row");
}

#[test]
fn published_services_without_matches_take_every_endpoint() {
    let mut seen = 0;
    for (file, service) in published().iter().filter(|(_, service)| service.matches.is_empty()) {
        assert_eq!(chosen(service, &[("a", "b")], COLOURS), ["blue", "green"], "{file}");
        assert!(["ETHERNET", "IP"].contains(&service.payload.as_str()), "{file}");
        seen += 1;
    }
    assert_eq!(seen + TABLE.len(), OBJECTS.matches("\nkind: NetworkService\n").count());
}

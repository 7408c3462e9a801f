//! Upstream's objects pass through the types unchanged.

use nsm_crds::{NetworkService, NetworkServiceEndpoint};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

fn through<K: Serialize + DeserializeOwned>(object: &Value) -> Value {
    let typed: K = serde_json::from_value(object.clone()).expect("an object of upstream's");
    serde_json::to_value(typed).expect("types here have string keys")
}

#[test]
fn published_objects_come_back_as_they_were() {
    let text = include_str!("data/upstream-objects.yaml");
    let mut seen = 0;
    for document in text.split("\n---\n").skip(1) {
        let object: Value = serde_saphyr::from_str(document).unwrap();
        let back = match object["kind"].as_str() {
            Some("NetworkService") => through::<NetworkService>(&object),
            Some("NetworkServiceEndpoint") => through::<NetworkServiceEndpoint>(&object),
            kind => panic!("no type for {kind:?}"),
        };
        // Maps of serde_json are sorted: equal text is equal up to the order of keys.
        assert_eq!(back.to_string(), object.to_string(), "{document}");
        seen += 1;
    }
    assert_eq!(seen, text.matches("\nkind: ").count());
}

#[test]
fn a_registration_as_upstreams_registry_stores_it_comes_back_as_it_was() {
    let object = json!({
        "apiVersion": "networkservicemesh.io/v1",
        "kind": "NetworkServiceEndpoint",
        "metadata": {"name": "nse-1", "namespace": "nsm-system"},
        "spec": {
            "name": "nse-1",
            "network_service_names": ["finance"],
            "network_service_labels": {"finance": {"labels": {"app": "gateway"}}, "empty": {}},
            "url": "tcp://10.0.0.1:5001",
            "expiration_time": {"seconds": 1_700_000_000, "nanos": 5},
            "initial_registration_time": {"seconds": 1_699_999_000},
            "path_ids": ["spiffe://example.org/ns/a/pod/b"],
            "unknown": {"nested": [1, null, {"x": true}]}
        }
    });
    assert_eq!(through::<NetworkServiceEndpoint>(&object), object);
}

#[test]
fn selectors_keep_absent_null_and_empty_apart() {
    let object = json!({
        "apiVersion": "networkservicemesh.io/v1",
        "kind": "NetworkService",
        "metadata": {"name": "s"},
        "spec": {"matches": [
            {"source_selector": null, "metadata": {"labels": {}}},
            {"source_selector": {}, "routes": []},
            {"routes": [{"weight": 2}], "fallthrough": false},
        ]}
    });
    assert_eq!(through::<NetworkService>(&object), object);
}

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Difference, in_sync, others};

const MANAGER: &str = "us";

/// An object as the API server has it after our apply: defaults added, fields listed.
fn live() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {
            "name": "a", "namespace": "n", "uid": "u", "resourceVersion": "7",
            "labels": {"ours": "1", "theirs": "2"},
            "managedFields": [
                {"manager": "them", "operation": "Update", "fieldsV1": {"f:metadata": {"f:labels": {"f:theirs": {}}}}},
                {"manager": MANAGER, "operation": "Apply", "subresource": "status", "fieldsV1": {"f:status": {}}},
                {"manager": MANAGER, "operation": "Apply", "fieldsV1": {
                    "f:metadata": {"f:labels": {"f:ours": {}}},
                    "f:spec": {
                        "f:replicas": {},
                        "f:selector": {},
                        "f:template": {"f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {
                            ".": {}, "f:name": {}, "f:image": {}, "f:args": {},
                            "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}}
                        }}}}
                    }
                }}
            ]
        },
        "spec": {
            "replicas": 2, "revisionHistoryLimit": 10,
            "selector": {"matchLabels": {"a": "b"}, "default": "x"},
            "template": {"spec": {"containers": [{
                "name": "c", "image": "i", "args": ["x"], "terminationMessagePath": "/dev/log",
                "ports": [{"containerPort": 80, "protocol": "TCP"}]
            }]}}
        },
        "status": {"replicas": 2}
    })
}

fn desired() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "a", "namespace": "n", "labels": {"ours": "1"}},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"a": "b"}},
            "template": {"spec": {"containers": [{
                "name": "c", "image": "i", "args": ["x"], "ports": [{"containerPort": 80}]
            }]}}
        }
    })
}

#[test]
fn defaults_status_and_fields_of_others_do_not_count() {
    assert_eq!(in_sync(&desired(), &live(), MANAGER), Ok(()));
}

#[test]
fn an_object_we_never_applied_is_not_ours() {
    assert_eq!(in_sync(&desired(), &live(), "someone"), Err(Difference::NeverApplied));
    assert_eq!(in_sync(&desired(), &Value::Null, MANAGER), Err(Difference::NeverApplied));
}

#[test]
fn every_kind_of_drift_is_named_by_its_path() {
    let container = "/spec/template/spec/containers/0";
    let path = "/spec/template/spec/containers/{\"name\":\"c\"}";
    let changed = |pointer: &str, value: Value| {
        let mut desired = desired();
        *desired.pointer_mut(pointer).unwrap() = value;
        in_sync(&desired, &live(), MANAGER).unwrap_err()
    };
    assert_eq!(changed("/spec/replicas", json!(3)), Difference::Value { path: "/spec/replicas".into() });
    assert_eq!(
        changed(&format!("{container}/image"), json!("j")),
        Difference::Value { path: format!("{path}/image") }
    );
    assert_eq!(
        changed(&format!("{container}/args"), json!(["x", "y"])),
        Difference::Value { path: format!("{path}/args") }
    );
    assert_eq!(
        changed("/spec/selector/matchLabels", json!({"a": "c"})),
        Difference::Value { path: "/spec/selector".into() }
    );
    assert_eq!(
        changed("/metadata/labels", json!({"ours": "1", "new": "1"})),
        Difference::NotOwned { path: "/metadata/labels/new".into() }
    );
    assert_eq!(
        changed("/metadata/labels", json!({})),
        Difference::NotWanted { path: "/metadata/labels/ours".into() }
    );
    let two =
        json!([{"name": "c", "image": "i", "args": ["x"], "ports": [{"containerPort": 80}]}, {"name": "d"}]);
    assert_eq!(
        changed("/spec/template/spec/containers", two),
        Difference::NotOwned { path: "/spec/template/spec/containers".into() }
    );
}

#[test]
fn an_edit_by_someone_else_is_seen_by_the_loss_of_the_field() {
    let mut live = live();
    let fields =
        "/metadata/managedFields/2/fieldsV1/f:spec/f:template/f:spec/f:containers/k:{\"name\":\"c\"}";
    live.pointer_mut(fields).unwrap().as_object_mut().unwrap().remove("f:image");
    live.pointer_mut("/spec/template/spec/containers/0").unwrap()["image"] = json!("evil");
    let difference = in_sync(&desired(), &live, MANAGER).unwrap_err();
    assert!(matches!(difference, Difference::NotOwned { path } if path.ends_with("/image")));
}

/// Any JSON object, and the field list of an apply of exactly it, lists as atomic values.
fn tree() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![any::<i32>().prop_map(Value::from), "[a-z]{1,4}".prop_map(Value::from)];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 1..4).prop_map(Value::from),
            prop::collection::btree_map("[a-z]{1,3}", inner, 1..4).prop_map(|map| json!(map)),
        ]
    })
}

fn fields_of(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            map.iter().map(|(name, value)| (format!("f:{name}"), fields_of(value))).collect()
        }
        _ => json!({}),
    }
}

fn applied(spec: &Value) -> Value {
    let fields = json!({"f:spec": fields_of(spec)});
    json!({"metadata": {"managedFields": [{"manager": MANAGER, "operation": "Apply", "fieldsV1": fields}]}, "spec": spec})
}

proptest! {
    #[test]
    fn what_was_applied_is_in_sync_and_what_differs_is_not(one in tree(), other in tree()) {
        prop_assert_eq!(in_sync(&json!({"spec": one}), &applied(&one), MANAGER), Ok(()));
        let same = one == other;
        prop_assert_eq!(in_sync(&json!({"spec": other}), &applied(&one), MANAGER).is_ok(), same);
    }
}

#[test]
fn who_else_owns_a_field_is_found_by_its_path() {
    let live = live();
    assert_eq!(others(&live, "/metadata/labels/theirs", MANAGER), ["them"]);
    assert_eq!(others(&live, "/metadata/labels", MANAGER), ["them"]);
    assert!(others(&live, "/metadata/labels/their", MANAGER).is_empty());
    assert!(others(&live, "/spec/replicas", MANAGER).is_empty());
    assert_eq!(others(&live, "/spec/replicas", "them"), [MANAGER]);
    let slash = json!({"metadata": {"managedFields": [{"manager": "kubectl-edit", "fieldsV1": {
        "f:metadata": {"f:labels": {"f:app.kubernetes.io/name": {}}}}}]}});
    assert_eq!(others(&slash, "/metadata/labels/app.kubernetes.io/name", MANAGER), ["kubectl-edit"]);
}

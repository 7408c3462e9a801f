//! Part of a pod template laid over a rendered one, as server-side apply would: lists of items with a
//! key are merged by it, other lists are replaced, null removes. What the API server thinks of the result
//! is asked before it is written.

use serde_json::Value;

/// Keys of the items in lists of a pod template that are merged.
const KEYS: [(&str, &str); 12] = [
    ("containers", "name"),
    ("initContainers", "name"),
    ("env", "name"),
    ("ports", "containerPort"),
    ("volumeMounts", "mountPath"),
    ("volumeDevices", "devicePath"),
    ("volumes", "name"),
    ("imagePullSecrets", "name"),
    ("hostAliases", "ip"),
    ("topologySpreadConstraints", "topologyKey"),
    ("resourceClaims", "name"),
    ("schedulingGates", "name"),
];

/// Lays a part over the whole.
pub(super) fn lay_over(whole: &mut Value, part: &Value) {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => {
            for (name, value) in part {
                match (whole.get_mut(name), key_of(name)) {
                    _ if value.is_null() => drop(whole.remove(name)),
                    (Some(Value::Array(items)), Some(key)) => merge(items, value, key),
                    (Some(below), _) => lay_over(below, value),
                    (None, _) => drop(whole.insert(name.clone(), value.clone())),
                }
            }
        }
        (whole, part) => *whole = part.clone(),
    }
}

fn key_of(list: &str) -> Option<&'static str> {
    KEYS.iter().find(|(name, _)| *name == list).map(|(_, key)| *key)
}

fn merge(items: &mut Vec<Value>, part: &Value, key: &str) {
    let Some(part) = part.as_array() else { return *items = vec![part.clone()] };
    for new in part {
        let same = |item: &&mut Value| item.get(key).is_some() && item.get(key) == new.get(key);
        match items.iter_mut().find(same) {
            Some(item) => replace_source(item, new),
            None => items.push(new.clone()),
        }
    }
}

/// Of a variable and of a volume there is one source: a new one replaces the old one.
fn replace_source(item: &mut Value, new: &Value) {
    let source = |value: &Value, name: &str| value.get(name).is_some();
    if source(new, "value") || source(new, "valueFrom") {
        *item = new.clone();
    } else {
        lay_over(item, new);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn laid_over(part: &Value) -> Value {
        let mut whole = json!({"spec": {
            "hostNetwork": true,
            "tolerations": [{"operator": "Exists"}],
            "containers": [{
                "name": "nsmgr", "image": "i",
                "env": [{"name": "A", "value": "1"}, {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "f"}}}],
                "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}}
            }]
        }});
        lay_over(&mut whole, part);
        whole["spec"].clone()
    }

    #[test]
    fn named_items_are_merged_and_other_lists_replaced() {
        let spec = laid_over(&json!({"spec": {
            "tolerations": [{"key": "a", "operator": "Exists"}],
            "containers": [
                {"name": "nsmgr", "resources": {"requests": {"cpu": "1"}, "limits": {"memory": "1Gi"}},
                 "env": [{"name": "B", "value": "2"}, {"name": "C", "value": "3"}]},
                {"name": "sidecar", "image": "s"}
            ]
        }}));
        assert_eq!(spec["tolerations"], json!([{"key": "a", "operator": "Exists"}]));
        let nsmgr = &spec["containers"][0];
        assert_eq!(nsmgr["image"], "i");
        assert_eq!(
            nsmgr["env"],
            json!([{"name": "A", "value": "1"}, {"name": "B", "value": "2"}, {"name": "C", "value": "3"}])
        );
        assert_eq!(
            nsmgr["resources"],
            json!({"requests": {"cpu": "1", "memory": "32Mi"}, "limits": {"memory": "1Gi"}})
        );
        assert_eq!(spec["containers"][1], json!({"name": "sidecar", "image": "s"}));
    }

    #[test]
    fn null_removes_and_nothing_changes_nothing() {
        let before = laid_over(&json!({}));
        let spec = laid_over(&json!({"spec": {"hostNetwork": null}}));
        assert_eq!(spec.get("hostNetwork"), None);
        assert_eq!(spec["containers"], before["containers"]);
    }
}

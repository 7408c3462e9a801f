//! What an API server makes of an apply.

use nsm_operator::object::Desired;
use serde_json::{Value, json};

/// The object as it stands after the operator applied it, with the fields that are the operator's.
pub(crate) fn applied(desired: &Desired) -> Value {
    let mut object = desired.body.clone();
    let mut fields = fields_of(&object);
    for (place, names) in [("", &["f:apiVersion", "f:kind"]), ("/f:metadata", &["f:name", "f:namespace"])] {
        if let Some(map) = fields.pointer_mut(place).and_then(Value::as_object_mut) {
            map.retain(|name, _| !names.contains(&name.as_str()));
        }
    }
    object["metadata"]["managedFields"] =
        json!([{"manager": "nsm-operator", "operation": "Apply", "fieldsV1": fields}]);
    object
}

/// `value` in the form of managed fields: all that it sets, by name.
fn fields_of(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            map.iter().map(|(name, value)| (format!("f:{name}"), fields_of(value))).collect()
        }
        _ => json!({}),
    }
}

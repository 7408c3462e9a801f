//! Is an object as it is wanted? Decided from what a watch delivered, without a request and without
//! a schema: the list of fields that our last apply owns (`managedFields`) leads the comparison.
//!
//! An object is in sync when every field we own is wanted, every wanted field is ours, and the
//! values are equal. Fields of others, and defaults of the API server, are left alone. Someone who
//! edits one of our fields takes it out of our list, so the edit is seen even where values are
//! compared loosely.
//!
//! `fieldsV1`: `f:<name>` is a field, `k:<keys>` an element of a list by its keys, `v:<value>` one of
//! a set; an entry without children is a leaf, or a value that is replaced as a whole.
//! Source: sigs.k8s.io/structured-merge-diff, `fieldpath/serialize.go`.

use serde_json::{Map, Value};

/// The first difference found between an object and what is wanted of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Difference {
    /// Nothing of the object was applied by us.
    #[error("nothing of it was applied by this manager")]
    NeverApplied,
    /// We want a field that another manager owns, or that is new.
    #[error("{path} is wanted and not owned")]
    NotOwned {
        /// Path of the field.
        path: String,
    },
    /// We own a field that is no longer wanted.
    #[error("{path} is owned and no longer wanted")]
    NotWanted {
        /// Path of the field.
        path: String,
    },
    /// A field has another value.
    #[error("{path} has another value")]
    Value {
        /// Path of the field.
        path: String,
    },
}

impl Difference {
    /// Path of the field, if the difference is about one.
    pub fn path(&self) -> Option<&str> {
        match self {
            Self::NeverApplied => None,
            Self::NotOwned { path } | Self::NotWanted { path } | Self::Value { path } => Some(path),
        }
    }
}

/// Other managers that own a field, or something below it.
pub fn others(live: &Value, path: &str, manager: &str) -> Vec<String> {
    let entries = live.pointer("/metadata/managedFields").and_then(Value::as_array);
    let owns = |entry: &&Value| owns(&entry["fieldsV1"], path) && entry["manager"] != manager;
    let mut names: Vec<String> = entries
        .into_iter()
        .flatten()
        .filter(owns)
        .filter_map(|entry| Some(entry["manager"].as_str()?.to_owned()))
        .collect();
    names.dedup();
    names
}

/// Whether a manager has applied this field.
pub fn applied(live: &Value, path: &str, manager: &str) -> bool {
    applied_fields(live, manager).is_some_and(|fields| owns(&Value::Object(fields.clone()), path))
}

/// Names in a path may themselves have a `/`, so the fields lead.
fn owns(fields: &Value, path: &str) -> bool {
    let Some(rest) = path.strip_prefix('/') else { return true };
    fields.as_object().into_iter().flatten().any(|(key, below)| {
        let name = key.split_once(':').map_or("", |(_, name)| name);
        !name.is_empty()
            && rest
                .strip_prefix(name)
                .is_some_and(|rest| (rest.is_empty() || rest.starts_with('/')) && owns(below, rest))
    })
}

/// Finds out whether `live` is as `desired` says, for what `manager` applied.
pub fn in_sync(desired: &Value, live: &Value, manager: &str) -> Result<(), Difference> {
    let fields = applied_fields(live, manager).ok_or(Difference::NeverApplied)?;
    walk(fields, desired, live, "")
}

/// The fields that the manager's last apply of the object itself (no subresource) owns.
fn applied_fields<'a>(live: &'a Value, manager: &str) -> Option<&'a Map<String, Value>> {
    let entries = live.pointer("/metadata/managedFields")?.as_array()?;
    let ours = |entry: &&Value| {
        entry["manager"] == manager && entry["operation"] == "Apply" && entry.get("subresource").is_none()
    };
    entries.iter().find(ours)?.get("fieldsV1")?.as_object()
}

fn walk(fields: &Map<String, Value>, desired: &Value, live: &Value, path: &str) -> Result<(), Difference> {
    if fields.keys().all(|key| key == ".") {
        return if subset(desired, live) { Ok(()) } else { Err(Difference::Value { path: path.into() }) };
    }
    match desired {
        Value::Object(desired) => walk_object(fields, desired, live, path),
        Value::Array(desired) => walk_list(fields, desired, live, path),
        _ => Err(Difference::Value { path: path.into() }),
    }
}

fn walk_object(
    fields: &Map<String, Value>,
    desired: &Map<String, Value>,
    live: &Value,
    path: &str,
) -> Result<(), Difference> {
    for (name, wanted) in desired.iter().filter(|(name, _)| !identity(path, name)) {
        let path = format!("{path}/{name}");
        let Some(below) = fields.get(&format!("f:{name}")).and_then(Value::as_object) else {
            // Metadata of nothing but a name is owned by nobody.
            let only_identity =
                wanted.as_object().is_some_and(|map| map.keys().all(|key| identity(&path, key)));
            if only_identity && path == "/metadata" {
                continue;
            }
            return Err(Difference::NotOwned { path });
        };
        walk(below, wanted, live.get(name).unwrap_or(&Value::Null), &path)?;
    }
    let stale =
        fields.keys().filter_map(|key| key.strip_prefix("f:")).find(|name| !desired.contains_key(*name));
    stale.map_or(Ok(()), |name| Err(Difference::NotWanted { path: format!("{path}/{name}") }))
}

/// What says which object it is belongs to no manager.
fn identity(path: &str, name: &str) -> bool {
    match path {
        "" => matches!(name, "apiVersion" | "kind"),
        "/metadata" => matches!(name, "name" | "namespace"),
        _ => false,
    }
}

fn walk_list(
    fields: &Map<String, Value>,
    desired: &[Value],
    live: &Value,
    path: &str,
) -> Result<(), Difference> {
    let mut owned = 0;
    for (key, below) in fields {
        if let Some(text) = key.strip_prefix("k:") {
            walk_element(text, below, desired, live, path)?;
        } else if let Some(text) = key.strip_prefix("v:") {
            let item = parse(text, path)?;
            if !desired.contains(&item) {
                return Err(Difference::NotWanted { path: format!("{path}/{text}") });
            }
        } else {
            continue;
        }
        owned += 1;
    }
    // Each owned element was found among the wanted ones; more of these are not owned.
    if owned == desired.len() { Ok(()) } else { Err(Difference::NotOwned { path: path.into() }) }
}

fn walk_element(
    keys: &str,
    below: &Value,
    desired: &[Value],
    live: &Value,
    path: &str,
) -> Result<(), Difference> {
    let parsed = parse(keys, path)?;
    let path = format!("{path}/{keys}");
    let Some(parsed) = parsed.as_object() else { return Err(Difference::NotWanted { path }) };
    // The keys hold defaults of the API server too: a wanted element need not have all of them.
    let wanted = |item: &&Value| {
        parsed.iter().all(|(name, value)| item.get(name).is_none_or(|own| own == value))
            && parsed.keys().any(|name| item.get(name).is_some())
    };
    let found = |item: &&Value| parsed.iter().all(|(name, value)| item.get(name) == Some(value));
    let Some(wanted) = desired.iter().find(wanted) else { return Err(Difference::NotWanted { path }) };
    let live = live.as_array().and_then(|items| items.iter().find(found)).unwrap_or(&Value::Null);
    match below.as_object() {
        Some(below) if below.keys().any(|key| key != ".") => walk_keyed(below, wanted, live, parsed, &path),
        _ if subset(wanted, live) => Ok(()),
        _ => Err(Difference::Value { path }),
    }
}

/// An element whose keys may be owned although a wanted element leaves their defaults off.
fn walk_keyed(
    fields: &Map<String, Value>,
    desired: &Value,
    live: &Value,
    keys: &Map<String, Value>,
    path: &str,
) -> Result<(), Difference> {
    let mut fields = fields.clone();
    fields.retain(|field, _| {
        let name = field.strip_prefix("f:").unwrap_or(field);
        desired.get(name).is_some() || !keys.contains_key(name)
    });
    walk(&fields, desired, live, path)
}

fn parse(text: &str, path: &str) -> Result<Value, Difference> {
    serde_json::from_str(text).map_err(|_| Difference::Value { path: format!("{path}/{text}") })
}

/// Whether everything in `desired` stands in `live`; lists must be of one length.
fn subset(desired: &Value, live: &Value) -> bool {
    match (desired, live) {
        (Value::Object(desired), Value::Object(live)) => {
            desired.iter().all(|(name, value)| live.get(name).is_some_and(|live| subset(value, live)))
        }
        (Value::Array(desired), Value::Array(live)) => {
            desired.len() == live.len()
                && desired.iter().zip(live).all(|(desired, live)| subset(desired, live))
        }
        _ => desired == live,
    }
}

#[cfg(test)]
mod tests;

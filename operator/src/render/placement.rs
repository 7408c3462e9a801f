//! On which nodes a revision of a node daemon runs: by the label [`NODE_REVISION`], which the
//! operator alone writes.
//!
//! | label | an only revision | the old of two | the new of two |
//! |---|---|---|---|
//! | absent | runs | runs | |
//! | `handover` | runs | runs | runs |
//! | `draining` | runs | | |
//! | `new` | runs | | runs |
//!
//! A pod ends as soon as its node does not match any more, so moving a label moves a node; and a node that
//! joins, or is made anew, has no label and runs the old revision.

use serde_json::{Map, Value, json};

use crate::{names::NODE_REVISION, object::Desired};

const TERMS: &str = "/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms";

/// On which nodes a revision runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// On all.
    Everywhere,
    /// Where no other replaces it yet.
    Old,
    /// Where it has replaced another.
    New,
}

impl Placement {
    /// What a node has to have, if anything.
    fn expression(self) -> Option<Value> {
        match self {
            Self::Everywhere => None,
            Self::Old => {
                Some(json!({"key": NODE_REVISION, "operator": "NotIn", "values": ["new", "draining"]}))
            }
            Self::New => Some(json!({"key": NODE_REVISION, "operator": "In", "values": ["new", "handover"]})),
        }
    }
}

/// The DaemonSet, placed.
#[must_use]
pub fn placed(desired: &Desired, placement: Placement) -> Desired {
    let affinity = affinity(&desired.body, placement);
    desired.with(|body| {
        let Some(spec) = body.pointer_mut("/spec/template/spec").and_then(Value::as_object_mut) else {
            return;
        };
        match affinity {
            Value::Null => drop(spec.remove("affinity")),
            affinity => drop(spec.insert("affinity".into(), affinity)),
        }
    })
}

/// The affinity that a DaemonSet needs to be placed so, with all else that it says; null if none is left.
pub fn affinity(daemons: &Value, placement: Placement) -> Value {
    let mut affinity = daemons.pointer("/spec/template/spec/affinity").cloned().unwrap_or(Value::Null);
    let mut terms = affinity.pointer(TERMS).and_then(Value::as_array).cloned().unwrap_or_default();
    for term in &mut terms {
        let Some(term) = term.as_object_mut() else { continue };
        if let Some(expressions) = term.get_mut("matchExpressions").and_then(Value::as_array_mut) {
            expressions.retain(|expression| expression["key"] != NODE_REVISION);
        }
        term.retain(|_, part| part != &json!([]));
    }
    // A term that says nothing any more was ours; to the API server it would match no node.
    terms.retain(|term| term.as_object().is_some_and(|term| !term.is_empty()));
    if let Some(expression) = placement.expression() {
        // Each term alone is enough for a node, so each needs it.
        if terms.is_empty() {
            terms.push(json!({}));
        }
        for term in &mut terms {
            let expressions =
                term.as_object_mut().map(|term| term.entry("matchExpressions").or_insert(json!([])));
            if let Some(expressions) = expressions.and_then(Value::as_array_mut) {
                expressions.push(expression.clone());
            }
        }
    }
    set_terms(&mut affinity, terms);
    affinity
}

fn set_terms(affinity: &mut Value, terms: Vec<Value>) {
    let required = "requiredDuringSchedulingIgnoredDuringExecution";
    if !terms.is_empty() {
        affinity["nodeAffinity"][required]["nodeSelectorTerms"] = terms.into();
        return;
    }
    let Some(whole) = affinity.as_object_mut() else { return };
    if let Some(nodes) = whole.get_mut("nodeAffinity").and_then(Value::as_object_mut) {
        nodes.remove(required);
    }
    if whole.get("nodeAffinity").and_then(Value::as_object).is_some_and(Map::is_empty) {
        whole.remove("nodeAffinity");
    }
    if whole.is_empty() {
        *affinity = Value::Null;
    }
}

/// The merge patch that makes a value of another (RFC 7386).
pub fn merge_patch(from: &Value, to: &Value) -> Value {
    let (Some(old), Some(new)) = (from.as_object(), to.as_object()) else { return to.clone() };
    let removed = old.keys().filter(|name| !new.contains_key(*name)).map(|name| (name.clone(), Value::Null));
    let kept = new.iter().filter(|(name, value)| old.get(*name) != Some(value));
    let changed = kept.map(|(name, value)| (name.clone(), merge_patch(&from[name], value)));
    Value::Object(removed.chain(changed).collect())
}

/// How a DaemonSet is placed; nothing if in none of these ways.
pub fn placement(daemons: &Value) -> Option<Placement> {
    let now = daemons.pointer("/spec/template/spec/affinity").unwrap_or(&Value::Null);
    let placements = [Placement::Everywhere, Placement::Old, Placement::New];
    placements.into_iter().find(|placement| affinity(daemons, *placement) == *now)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn daemons(affinity: &Value) -> Value {
        json!({"spec": {"template": {"spec": {"affinity": affinity}}}})
    }

    #[test]
    fn a_placement_is_found_again_and_can_be_taken_back() {
        let zone = json!({"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]});
        let name = json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["w1"]}]});
        let required = "requiredDuringSchedulingIgnoredDuringExecution";
        for before in [
            Value::Null,
            json!({"podAntiAffinity": {"x": 1}}),
            json!({"nodeAffinity": {required: {"nodeSelectorTerms": [zone, name]}}}),
        ] {
            assert_eq!(placement(&daemons(&before)), Some(Placement::Everywhere));
            for kind in [Placement::Old, Placement::New] {
                let after = affinity(&daemons(&before), kind);
                assert_eq!(placement(&daemons(&after)), Some(kind), "{after}");
                assert_eq!(affinity(&daemons(&after), kind), after);
                assert_eq!(affinity(&daemons(&after), Placement::Everywhere), before);
                assert_eq!(merge_patch(&after, &after), json!({}));
                let terms = after.pointer(TERMS).and_then(Value::as_array).unwrap();
                assert!(terms.iter().all(|term| term.to_string().contains(NODE_REVISION)), "{after}");
            }
        }
    }
}

//! Before a mesh is removed its nodes close their connections: nobody would do it afterwards. A node that
//! does not answer in time is named, and left as it is.

use std::{
    collections::BTreeSet,
    mem,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use kube::ResourceExt;
use nsm_crds::{CONDITION_DRAINED, DesiredNode, NSMConfig, NSMNodeState};

use super::{Context, Error, Since};
use crate::{apply::Told, plan};

/// Reason of the Event that names nodes.
const NOT_DRAINED: &str = "NodeNotDrained";

/// What is known of nodes that are to close their connections.
#[derive(Debug, Default)]
pub(super) struct Draining {
    begun: Since,
    /// Those that are waited for no longer.
    left: Mutex<Vec<String>>,
}

/// How the nodes are.
pub(super) enum Nodes {
    /// Some close connections still: each with what it says.
    Closing(Vec<String>),
    /// All have none, or were given up.
    Done,
}

impl Draining {
    fn replace(&self, left: Vec<String>) -> Vec<String> {
        mem::replace(&mut *self.left.lock().unwrap_or_else(PoisonError::into_inner), left)
    }
}

/// Asks all nodes to close their connections, and looks how far they are.
pub(super) async fn drain(config: &NSMConfig, limit: Duration, context: &Context) -> Result<Nodes, Error> {
    let mut there = BTreeSet::new();
    context.known.stores().marks.each(|_, node, _| {
        there.insert(node.to_owned());
    });
    let mut closing = Vec::new();
    for state in context.known.nodes() {
        let node = state.name_any();
        // Where a node is gone its connections are.
        if !there.contains(&node) {
            continue;
        }
        if state.spec.spec.desired != DesiredNode::Drained {
            context.writer.want(&state, DesiredNode::Drained).await?;
        }
        closing.extend(missing(&state).map(|why| (node, why)));
    }
    closing.sort();
    let waited = context.draining.begun.since(&config.uid().unwrap_or_default());
    if waited < limit && !closing.is_empty() {
        context.draining.replace(Vec::new());
        return Ok(Nodes::Closing(
            closing.into_iter().map(|(node, why)| format!("{node} ({why})")).collect(),
        ));
    }
    let left: Vec<_> = closing.into_iter().map(|(node, _)| node).collect();
    let known = context.draining.replace(left.clone());
    if known != left && !left.is_empty() {
        let told = Told { warning: true, reason: NOT_DRAINED.into(), note: words(config, left) };
        context.writer.tell(config, &context.installation.namespace, &told).await;
    }
    Ok(Nodes::Done)
}

/// Why the node is not drained; nothing when it is.
fn missing(state: &NSMNodeState) -> Option<String> {
    let conditions = state.status.iter().flat_map(|status| &status.conditions);
    let told = conditions.into_iter().find(|condition| condition.type_ == CONDITION_DRAINED);
    match told {
        Some(told) if told.status == "True" => None,
        Some(told) => Some(told.message.clone()),
        None => Some("no answer yet".to_owned()),
    }
}

fn words(config: &NSMConfig, nodes: Vec<String>) -> String {
    format!(
        "did not close their connections within spec.teardownTimeout ({}), and are left as they are: {}; run nsm \
         purge on each",
        config.spec.teardown_timeout,
        plan::summary(nodes)
    )
}

/// What is to be said of nodes that were given up.
pub(super) fn left(config: &NSMConfig, context: &Context) -> Option<String> {
    let nodes = context.draining.left.lock().unwrap_or_else(PoisonError::into_inner).clone();
    (!nodes.is_empty()).then(|| words(config, nodes))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_node_is_drained_when_it_says_so_and_not_when_it_says_nothing() {
        let state = |conditions: serde_json::Value| -> NSMNodeState {
            let conditions = conditions.as_array().cloned().unwrap_or_default().into_iter().map(|mut one| {
                one["lastTransitionTime"] = "2026-01-01T00:00:00Z".into();
                one["reason"] = "R".into();
                one
            });
            let status = json!({"conditions": conditions.collect::<Vec<_>>()});
            serde_json::from_value(json!({
                "apiVersion": "operator.networkservicemesh.io/v1alpha1", "kind": "NSMNodeState",
                "metadata": {"name": "a"}, "status": status,
            }))
            .unwrap()
        };
        let told = |kind: &str, status: &str| {
            missing(&state(json!([{"type": kind, "status": status, "message": "fwd has 2 connections"}])))
        };
        assert_eq!(told("Drained", "True"), None);
        assert_eq!(told("Drained", "False").as_deref(), Some("fwd has 2 connections"));
        assert_eq!(told("Ready", "True").as_deref(), Some("no answer yet"));
    }
}

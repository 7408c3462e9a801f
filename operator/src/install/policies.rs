//! Admission policies: what rights alone cannot say. Each refusal tells who asked for what.

use serde_json::{Value, json};

use super::{Error, Options, value};
use crate::names::{MANAGER, NODE_REVISION, PART_OF, PRODUCT, component, policy};

/// The policies, each with the binding that puts it in force.
pub(super) fn objects(options: &Options) -> Result<Vec<Value>, Error> {
    [node_state(options), node_revision(options)].iter().flatten().map(value).collect()
}

/// An nsmgr reports of its own node, by the node in its token, and of no other. Everyone else is left
/// to their rights.
fn node_state(options: &Options) -> [Value; 2] {
    const NODE: &str = "authentication.kubernetes.io/node-name";
    let account = format!("system:serviceaccount:{}:{}", options.mesh_namespace, component::NSMGR);
    let policy = json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": policy::NODE_STATE, "labels": {PART_OF: PRODUCT}},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {"resourceRules": [{
                "apiGroups": [nsm_crds::OPERATOR_GROUP],
                "apiVersions": ["*"],
                "operations": ["CREATE", "UPDATE"],
                "resources": ["nsmnodestates", "nsmnodestates/status"],
            }]},
            "matchConditions": [{
                "name": "nsmgr",
                "expression": format!("request.userInfo.username == '{account}'"),
            }],
            "variables": [{
                "name": "node",
                "expression": format!(
                    "has(request.userInfo.extra) && '{NODE}' in request.userInfo.extra ? request.userInfo.extra['{NODE}'][0] : ''"
                ),
            }],
            "validations": [{
                "expression": "variables.node == object.metadata.name",
                "reason": "Forbidden",
                "messageExpression": "variables.node == '' ? 'the token of this nsmgr is bound to no node, so it may write no NSMNodeState' : 'nsmgr of node ' + variables.node + ' may not write NSMNodeState ' + object.metadata.name",
            }],
        },
    });
    [policy, binding(policy::NODE_STATE)]
}

/// Which revision runs on a node the operator says, and nobody else; and the operator changes nothing else
/// of a node. Whoever changes other labels, a kubelet among them, is left alone.
fn node_revision(options: &Options) -> [Value; 2] {
    let account = format!("system:serviceaccount:{}:{MANAGER}", options.namespace);
    let label = |object: &str| {
        format!(
            "{object} != null && has({object}.metadata.labels) && '{NODE_REVISION}' in {object}.metadata.labels ? {object}.metadata.labels['{NODE_REVISION}'] : ''"
        )
    };
    let given = format!(
        "'metadata.labels[{NODE_REVISION}] of Node ' + object.metadata.name + ' is given as ' + (variables.after == '' ? 'none' : variables.after)"
    );
    let same = |field: &str| {
        format!(
            "(has(object.{field}) ? object.{field} : {{}}) == (has(oldObject.{field}) ? oldObject.{field} : {{}})"
        )
    };
    let policy = json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": policy::NODE_REVISION, "labels": {PART_OF: PRODUCT}},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {"resourceRules": [{
                "apiGroups": [""],
                "apiVersions": ["v1"],
                "operations": ["CREATE", "UPDATE"],
                "resources": ["nodes", "nodes/status"],
            }]},
            "variables": [
                {"name": "operator", "expression": format!("request.userInfo.username == '{account}'")},
                {"name": "before", "expression": label("oldObject")},
                {"name": "after", "expression": label("object")},
            ],
            "validations": [
                {
                    "expression": "variables.operator || variables.after == variables.before",
                    "reason": "Forbidden",
                    "messageExpression": format!("{given} + ', and allowed is ' + (variables.before == '' ? 'none' : variables.before) + ': only {account} changes it, and ' + request.userInfo.username + ' asked'"),
                },
                {
                    "expression": "variables.after == variables.before || variables.after in ['', 'handover', 'draining', 'new']",
                    "reason": "Invalid",
                    "messageExpression": format!("{given} + ', and allowed are none, handover, draining and new'"),
                },
                {
                    "expression": format!(
                        "!variables.operator || (oldObject != null && object.spec == oldObject.spec && {} &&                          (has(object.metadata.labels) ? object.metadata.labels : {{}}).all(k, k == '{NODE_REVISION}' || (has(oldObject.metadata.labels) && k in oldObject.metadata.labels && oldObject.metadata.labels[k] == object.metadata.labels[k])) &&                          (has(oldObject.metadata.labels) ? oldObject.metadata.labels : {{}}).all(k, k == '{NODE_REVISION}' || (has(object.metadata.labels) && k in object.metadata.labels)))",
                        same("metadata.annotations"),
                    ),
                    "reason": "Forbidden",
                    "messageExpression": format!("'more of Node ' + object.metadata.name + ' is given than metadata.labels[{NODE_REVISION}], and that alone is allowed for ' + request.userInfo.username"),
                },
            ],
        },
    });
    [policy, binding(policy::NODE_REVISION)]
}

fn binding(name: &str) -> Value {
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": name, "labels": {PART_OF: PRODUCT}},
        "spec": {"policyName": name, "validationActions": ["Deny"]},
    })
}

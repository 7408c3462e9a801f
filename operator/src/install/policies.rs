//! Admission policies: what rights alone cannot say. Each refusal tells who asked for what.

use serde_json::{Value, json};

use super::{Error, Options, value};
use crate::names::{PART_OF, PRODUCT, component, policy};

/// The policies, each with the binding that puts it in force.
pub(super) fn objects(options: &Options) -> Result<Vec<Value>, Error> {
    let [policy, binding] = node_state(options);
    Ok(vec![value(&policy)?, value(&binding)?])
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

fn binding(name: &str) -> Value {
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": name, "labels": {PART_OF: PRODUCT}},
        "spec": {"policyName": name, "validationActions": ["Deny"]},
    })
}

//! Who may do what. Writes are allowed by name wherever the name is known before; the rights of
//! the mesh's processes are handed out by binding these roles, never by holding them.

use k8s_openapi::{
    api::{
        core::v1::ServiceAccount,
        rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use nsm_crds::{MESH_GROUP, OPERATOR_GROUP};
use serde_json::Value;

use super::{Error, Options, value};
use crate::names::{BUNDLE_CONFIG_MAP, MANAGER, PART_OF, PRODUCT, ROOT_SECRET, policy, role};

const RBAC: &str = "rbac.authorization.k8s.io";
const READ: [&str; 2] = ["list", "watch"];

/// Service account, roles, and the operator's own bindings.
pub(super) fn objects(options: &Options) -> Result<Vec<Value>, Error> {
    let account =
        ServiceAccount { metadata: metadata(MANAGER, Some(&options.namespace)), ..Default::default() };
    let role_in =
        |name, rules| Role { metadata: metadata(name, Some(&options.namespace)), rules: Some(rules) };
    Ok(vec![
        value(&account)?,
        value(&cluster_role(role::OPERATOR, operator(options)))?,
        value(&cluster_role(role::OPERANDS, operands()))?,
        value(&cluster_role(role::ENDPOINT_WORKLOADS, endpoint_workloads()))?,
        value(&cluster_role(role::NSMGR, nsmgr()))?,
        value(&cluster_role(role::REGISTRY, registry()))?,
        value(&cluster_role(role::REGISTRY_WRITER, registry_writer()))?,
        value(&cluster_role(role::AUTHORITY, authority()))?,
        value(&cluster_role(role::BUNDLE_WRITER, bundle_writer()))?,
        value(&cluster_role(role::BUNDLE_READER, bundle_reader()))?,
        value(&role_in(role::ROOT_KEY, root_key()))?,
        value(&role_in(role::OPERATOR, operator_at_home()))?,
        value(&ClusterRoleBinding {
            metadata: metadata(role::OPERATOR, None),
            role_ref: role_ref("ClusterRole"),
            subjects: Some(vec![subject(options)]),
        })?,
        value(&RoleBinding {
            metadata: metadata(role::OPERATOR, Some(&options.namespace)),
            role_ref: role_ref("Role"),
            subjects: Some(vec![subject(options)]),
        })?,
    ])
}

fn metadata(name: &str, namespace: Option<&str>) -> ObjectMeta {
    // Not the label of what the operator makes: it must not take its own rights for its work.
    let labels = [(PART_OF.to_owned(), PRODUCT.to_owned())].into();
    ObjectMeta {
        name: Some(name.into()),
        namespace: namespace.map(Into::into),
        labels: Some(labels),
        ..Default::default()
    }
}

fn cluster_role(name: &str, rules: Vec<PolicyRule>) -> ClusterRole {
    ClusterRole { metadata: metadata(name, None), rules: Some(rules), ..Default::default() }
}

fn role_ref(kind: &str) -> RoleRef {
    RoleRef { api_group: RBAC.into(), kind: kind.into(), name: role::OPERATOR.into() }
}

fn subject(options: &Options) -> Subject {
    Subject {
        kind: "ServiceAccount".into(),
        name: MANAGER.into(),
        namespace: Some(options.namespace.clone()),
        ..Default::default()
    }
}

fn rule(group: &str, resources: &[&str], verbs: &[&str], names: &[&str]) -> PolicyRule {
    let list = |items: &[&str]| items.iter().map(ToString::to_string).collect::<Vec<_>>();
    PolicyRule {
        api_groups: Some(vec![group.into()]),
        resources: Some(list(resources)),
        verbs: list(verbs),
        resource_names: (!names.is_empty()).then(|| list(names)),
        ..Default::default()
    }
}

/// On the whole cluster: sees what it reconciles, makes one namespace, binds the roles below.
fn operator(options: &Options) -> Vec<PolicyRule> {
    vec![
        rule(OPERATOR_GROUP, &["nsmconfigs", "nsmnodestates"], &READ, &[]),
        rule(OPERATOR_GROUP, &["nsmconfigs", "nsmconfigs/status", "nsmnodestates"], &["patch"], &[]),
        rule(MESH_GROUP, &["networkservices", "networkserviceendpoints"], &READ, &[]),
        rule(MESH_GROUP, &["networkservices/status", "networkserviceendpoints/status"], &["patch"], &[]),
        rule("", &["namespaces", "serviceaccounts", "services"], &READ, &[]),
        rule("", &["nodes", "pods"], &READ, &[]),
        // Of nodes one label alone: see the admission policies.
        rule("", &["nodes"], &["patch"], &[]),
        rule("apps", &["daemonsets", "deployments"], &READ, &[]),
        rule("policy", &["poddisruptionbudgets"], &READ, &[]),
        rule(RBAC, &["rolebindings", "clusterrolebindings"], &READ, &[]),
        rule("", &["namespaces"], &["create", "patch", "delete"], &[&options.mesh_namespace]),
        rule(
            "admissionregistration.k8s.io",
            &["validatingadmissionpolicies", "validatingadmissionpolicybindings"],
            &["get"],
            &policy::ALL,
        ),
        rule(RBAC, &["rolebindings"], &["create", "patch"], &[role::OPERANDS]),
        rule(
            RBAC,
            &["clusterrolebindings"],
            &["create", "patch", "delete"],
            &[role::NSMGR, role::REGISTRY, role::AUTHORITY],
        ),
        rule(
            RBAC,
            &["clusterroles"],
            &["bind"],
            &[
                role::OPERANDS,
                role::NSMGR,
                role::REGISTRY,
                role::REGISTRY_WRITER,
                role::AUTHORITY,
                role::BUNDLE_WRITER,
                role::BUNDLE_READER,
            ],
        ),
    ]
}

/// In its own namespace: elects its leader, tells of what it does, and lets the authority at the root key.
fn operator_at_home() -> Vec<PolicyRule> {
    vec![
        rule("events.k8s.io", &["events"], &["create", "patch"], &[]),
        rule("coordination.k8s.io", &["leases"], &["create"], &[]),
        rule("coordination.k8s.io", &["leases"], &["list", "watch", "update"], &[MANAGER]),
        rule(RBAC, &["rolebindings"], &["create", "patch", "delete"], &[role::ROOT_KEY]),
        rule(RBAC, &["roles"], &["bind"], &[role::ROOT_KEY]),
    ]
}

/// In the namespace of the mesh, where the operator binds this role to itself.
fn operands() -> Vec<PolicyRule> {
    let write = ["create", "patch", "delete"];
    vec![
        rule("", &["serviceaccounts", "services"], &write, &[]),
        rule("apps", &["daemonsets", "deployments"], &write, &[]),
        rule("policy", &["poddisruptionbudgets"], &write, &[]),
        rule(
            RBAC,
            &["rolebindings"],
            &write,
            &[role::OPERANDS, role::REGISTRY_WRITER, role::BUNDLE_WRITER, role::BUNDLE_READER],
        ),
    ]
}

/// In namespaces whose owners bind this role to the operator.
fn endpoint_workloads() -> Vec<PolicyRule> {
    vec![rule("apps", &["deployments"], &["create", "patch", "delete"], &[])]
}

fn nsmgr() -> Vec<PolicyRule> {
    vec![
        rule(OPERATOR_GROUP, &["nsmnodestates"], &["get", "list", "watch", "create", "patch"], &[]),
        rule(OPERATOR_GROUP, &["nsmnodestates/status"], &["patch"], &[]),
    ]
}

/// Names are mesh-wide, so registries see the objects of all namespaces.
fn registry() -> Vec<PolicyRule> {
    vec![rule(MESH_GROUP, &["networkservices", "networkserviceendpoints"], &READ, &[])]
}

/// They write those of their own alone, and look for one that another registry may have made just now; and
/// Leases: one a node, and one that says which registry ends what nobody refreshes. An apply that makes an
/// object is a create as well.
fn registry_writer() -> Vec<PolicyRule> {
    let lease = "coordination.k8s.io";
    vec![
        rule(
            MESH_GROUP,
            &["networkservices", "networkserviceendpoints"],
            &["get", "create", "patch", "delete"],
            &[],
        ),
        rule(lease, &["leases"], &["list", "watch", "create", "patch", "delete"], &[]),
        rule(lease, &["leases"], &["update"], &[role::REGISTRY]),
    ]
}

fn authority() -> Vec<PolicyRule> {
    vec![rule("authentication.k8s.io", &["tokenreviews"], &["create"], &[]), rule("", &["pods"], &READ, &[])]
}

fn bundle_writer() -> Vec<PolicyRule> {
    vec![
        rule("", &["configmaps"], &["create"], &[]),
        rule("", &["configmaps"], &["get", "patch", "update"], &[BUNDLE_CONFIG_MAP]),
    ]
}

fn bundle_reader() -> Vec<PolicyRule> {
    vec![rule("", &["configmaps"], &["get", "list", "watch"], &[])]
}

/// A create cannot be allowed by name; the rest is.
fn root_key() -> Vec<PolicyRule> {
    vec![rule("", &["secrets"], &["create"], &[]), rule("", &["secrets"], &["get", "update"], &[ROOT_SECRET])]
}

//! Service accounts, and who may do what. The roles are installed with the operator; here they are
//! bound, so the operator never needs the rights it hands out.

use k8s_openapi::api::{
    core::v1::ServiceAccount,
    rbac::v1::{ClusterRoleBinding, RoleBinding, RoleRef, Subject},
};
use nsm_crds::Storage;

use super::Mesh;
use crate::{
    names::{component, role},
    object::{Desired, Kind, ObjectError},
};

const API_GROUP: &str = "rbac.authorization.k8s.io";

/// The operator's own binding first: the rest of the mesh's namespace is written by its right.
pub(super) fn objects(mesh: &Mesh) -> Result<Vec<Desired>, ObjectError> {
    let operator = subject(&mesh.operator_account, &mesh.operator_namespace);
    let account = |name: &str| subject(name, &mesh.namespace);
    let mut objects = vec![in_mesh(mesh, role::OPERANDS, operator)?];
    for name in component::ALL {
        let account = ServiceAccount { metadata: mesh.metadata(name, name), ..Default::default() };
        objects.push(Desired::new(Kind::ServiceAccount, &account)?);
    }
    objects.extend([
        in_mesh(mesh, role::BUNDLE_WRITER, account(component::AUTHORITY))?,
        in_mesh(mesh, role::BUNDLE_READER, account(component::AGENT))?,
        root_key(mesh, account(component::AUTHORITY))?,
        on_cluster(mesh, role::AUTHORITY, account(component::AUTHORITY))?,
        on_cluster(mesh, role::NSMGR, account(component::NSMGR))?,
    ]);
    if mesh.registry.storage == Storage::Crd {
        objects.push(on_cluster(mesh, role::REGISTRY, account(component::REGISTRY))?);
        objects.push(in_mesh(mesh, role::REGISTRY_WRITER, account(component::REGISTRY))?);
    }
    Ok(objects)
}

fn subject(name: &str, namespace: &str) -> Subject {
    Subject {
        kind: "ServiceAccount".into(),
        name: name.into(),
        namespace: Some(namespace.into()),
        ..Default::default()
    }
}

fn role_ref(kind: &str, name: &str) -> RoleRef {
    RoleRef { api_group: API_GROUP.into(), kind: kind.into(), name: name.into() }
}

/// A ClusterRole, in the mesh's namespace alone.
fn in_mesh(mesh: &Mesh, role: &str, subject: Subject) -> Result<Desired, ObjectError> {
    let binding = RoleBinding {
        metadata: mesh.metadata(role, role),
        role_ref: role_ref("ClusterRole", role),
        subjects: Some(vec![subject]),
    };
    Desired::new(Kind::RoleBinding, &binding)
}

/// The Role for the root key, in the operator's namespace.
fn root_key(mesh: &Mesh, subject: Subject) -> Result<Desired, ObjectError> {
    let mut metadata = mesh.metadata(role::ROOT_KEY, role::ROOT_KEY);
    metadata.namespace = Some(mesh.operator_namespace.clone());
    let role_ref = role_ref("Role", role::ROOT_KEY);
    Desired::new(Kind::RoleBinding, &RoleBinding { metadata, role_ref, subjects: Some(vec![subject]) })
}

/// A ClusterRole, on the whole cluster.
fn on_cluster(mesh: &Mesh, role: &str, subject: Subject) -> Result<Desired, ObjectError> {
    let mut metadata = mesh.metadata(role, role);
    metadata.namespace = None;
    let binding = ClusterRoleBinding {
        metadata,
        role_ref: role_ref("ClusterRole", role),
        subjects: Some(vec![subject]),
    };
    Desired::new(Kind::ClusterRoleBinding, &binding)
}

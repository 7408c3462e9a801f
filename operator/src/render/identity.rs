//! Identity: the authority signs, the agent of each node serves the SPIFFE Workload API there.

use k8s_openapi::api::core::v1::{
    ProjectedVolumeSource, ServiceAccountTokenProjection, Volume, VolumeMount, VolumeProjection,
};
use nsm_components::{api::names as wire, settings::vars};

use super::{
    Mesh,
    pod::{self, Process},
    registry,
};
use crate::{
    names::{ROOT_SECRET, component},
    object::{Desired, Kind, ObjectError},
};

/// Variable with the address of the authority's Service, as Kubernetes makes it.
const AUTHORITY_HOST: &str = "NSM_IDENTITY_AUTHORITY_SERVICE_HOST";

const TOKEN_DIR: &str = "/var/run/secrets/nsm";

/// The stable address of the authority.
pub(super) fn authority_service(mesh: &Mesh) -> Result<Desired, ObjectError> {
    registry::service_of(mesh, component::AUTHORITY, wire::AUTHORITY_PORT)
}

/// Signs identities of pods that an agent vouches for.
pub(super) fn authority(mesh: &Mesh) -> Result<Desired, ObjectError> {
    let mut env = pod::common_env(mesh);
    env.extend([
        pod::value(vars::NSM_LISTEN_ON, format!("tcp://:{}", wire::AUTHORITY_PORT)),
        pod::value(vars::NSM_TRUST_DOMAIN, &mesh.trust_domain),
        pod::value(vars::NSM_SVID_LIFETIME, &mesh.svid_lifetime),
        pod::value(vars::NSM_ROOT_SECRET, format!("{}/{ROOT_SECRET}", mesh.operator_namespace)),
        pod::value(vars::NSM_BUNDLE_CONFIG_MAP, mesh.bundle()),
        pod::value(vars::NSM_AGENT_SERVICE_ACCOUNT, format!("{}/{}", mesh.namespace, component::AGENT)),
    ]);
    let process = Process {
        name: component::AUTHORITY,
        args: &["identity", "authority"],
        health: &["identity-authority"],
        env,
        folders: Vec::new(),
        security: pod::confined(),
    };
    let mut pod = process.pod(mesh);
    // It asks the API server about tokens and pods, and keeps the root key there.
    pod.automount_service_account_token = Some(true);
    pod.priority_class_name = Some("system-cluster-critical".into());
    mesh.workload(Kind::Deployment, component::AUTHORITY, &pod::deployment(mesh, component::AUTHORITY, pod))
}

/// Serves identities to the pods of its node; it sees their processes to know who asks.
pub(super) fn agent(mesh: &Mesh) -> Result<Desired, ObjectError> {
    let mut env = pod::common_env(mesh);
    env.extend([
        pod::value(vars::NSM_LISTEN_ON, format!("unix://{}", wire::IDENTITY_SOCKET)),
        pod::value(vars::NSM_AUTHORITY_URL, format!("tcp://$({AUTHORITY_HOST}):{}", wire::AUTHORITY_PORT)),
        pod::value(vars::NSM_AUTHORITY_TOKEN_FILE, format!("{TOKEN_DIR}/token")),
        pod::value(vars::NSM_BUNDLE_CONFIG_MAP, mesh.bundle()),
    ]);
    let process = Process {
        name: component::AGENT,
        args: &["identity", "agent"],
        health: &["identity-agent"],
        env,
        folders: vec![pod::host_folder("identity", wire::IDENTITY_DIR, false), authority_token()],
        security: pod::confined(),
    };
    let mut pod = pod::on_every_node(process.pod(mesh));
    pod.host_pid = Some(true);
    pod.automount_service_account_token = Some(true);
    mesh.workload(Kind::DaemonSet, component::AGENT, &pod::daemon_set(mesh, component::AGENT, pod))
}

/// A token that is good for the authority and for nobody else.
fn authority_token() -> (Volume, VolumeMount) {
    let token = ServiceAccountTokenProjection {
        audience: Some(wire::AUTHORITY_AUDIENCE.into()),
        expiration_seconds: Some(3600),
        path: "token".into(),
    };
    let source = VolumeProjection { service_account_token: Some(token), ..Default::default() };
    let projected = ProjectedVolumeSource { sources: Some(vec![source]), ..Default::default() };
    (
        Volume { name: "authority-token".into(), projected: Some(projected), ..Default::default() },
        VolumeMount {
            name: "authority-token".into(),
            mount_path: TOKEN_DIR.into(),
            read_only: Some(true),
            ..Default::default()
        },
    )
}

//! The nsmgr: one a node, on the node's network, under the node's name, so that after a restart it
//! is found where it was.

use nsm_components::{api::names as wire, settings::vars};

use super::{
    Mesh,
    pod::{self, NODE_IP, Process},
};
use crate::{
    names::component,
    object::{Desired, Kind, ObjectError},
};

/// Variable with the address of the registry's Service, as Kubernetes makes it.
const REGISTRY_HOST: &str = "REGISTRY_SERVICE_HOST";

/// The managers of all nodes.
pub(super) fn daemon_set(mesh: &Mesh) -> Result<Desired, ObjectError> {
    let mut env = pod::member_env(mesh);
    env.extend([
        pod::field(NODE_IP, "status.hostIP"),
        pod::value(vars::NSM_NAME, format!("{}-$({})", component::NSMGR, vars::NODE_NAME)),
        pod::value(
            vars::NSM_LISTEN_ON,
            format!("unix://{},tcp://$({NODE_IP}):{}", wire::NSMGR_SOCKET, wire::NSMGR_PORT),
        ),
        pod::value(vars::NSM_REGISTRY_URL, format!("tcp://$({REGISTRY_HOST}):{}", wire::REGISTRY_PORT)),
        pod::value(vars::NSM_NODE_STATE, format!("$({})", vars::NODE_NAME)),
    ]);
    let process = Process {
        name: component::NSMGR,
        args: &["nsmgr"],
        health: &[],
        env,
        folders: vec![pod::host_folder("mesh", wire::MESH_DIR, false), pod::identity_folder()],
        security: pod::confined(),
    };
    let mut pod = pod::on_every_node(process.pod(mesh));
    // It reports into the NSMNodeState of its node.
    pod.automount_service_account_token = Some(true);
    mesh.workload(Kind::DaemonSet, component::NSMGR, &pod::daemon_set(mesh, component::NSMGR, pod))
}

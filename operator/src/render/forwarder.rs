//! The forwarder: one a node, whichever DaemonSet it comes from, on the node's network. It makes links in the
//! network namespaces of pods, which it finds in `/run/netns`, and has the capabilities for that alone.

use k8s_openapi::api::core::v1::{Capabilities, SecurityContext, Volume, VolumeMount};
use nsm_components::{api::names as wire, settings::vars};
use nsm_crds::Forwarder;

use super::{
    Mesh,
    pod::{self, NODE_IP, Process},
};
use crate::{
    names::component,
    object::{Desired, Kind, ObjectError},
};

const NETNS_DIR: &str = "/run/netns";

/// Links and their events in all namespaces, echoes and neighbours, and to enter the namespaces.
const CAPABILITIES: [&str; 4] = ["NET_ADMIN", "NET_BROADCAST", "NET_RAW", "SYS_ADMIN"];

/// The forwarders of some nodes.
pub(super) fn daemon_set(mesh: &Mesh, forwarder: &Forwarder) -> Result<Desired, ObjectError> {
    let name = &forwarder.name;
    let mut env = pod::member_env(mesh);
    env.extend([
        pod::field(NODE_IP, "status.hostIP"),
        pod::value(vars::NSM_NAME, format!("{}-$({})", component::FORWARDER, vars::NODE_NAME)),
        pod::value(vars::NSM_CONNECT_TO, format!("unix://{}", wire::NSMGR_SOCKET)),
        pod::value(vars::NSM_LISTEN_ON, format!("unix://{}/forwarder.sock", wire::FORWARDER_DIR)),
        pod::value(vars::NSM_TUNNEL_IP, format!("$({NODE_IP})")),
        pod::value(vars::NSM_BASE_DIR, format!("{}/connections", wire::FORWARDER_DIR)),
    ]);
    let process = Process {
        name: component::FORWARDER,
        args: &["forwarder"],
        health: &[],
        env,
        folders: vec![
            pod::host_folder("mesh", wire::MESH_DIR, true),
            pod::host_folder("forwarder", wire::FORWARDER_DIR, false),
            pod::identity_folder(),
            network_namespaces(),
        ],
        security: security(),
    };
    let mut pod = pod::on_every_node(process.pod(mesh));
    pod.node_selector = (!forwarder.node_selector.is_empty()).then(|| forwarder.node_selector.clone());
    mesh.workload(Kind::DaemonSet, name, &pod::daemon_set(mesh, name, pod))
}

/// The named network namespaces of the node, also those made after the forwarder's start.
fn network_namespaces() -> (Volume, VolumeMount) {
    let (volume, mut mount) = pod::host_folder("netns", NETNS_DIR, false);
    mount.mount_propagation = Some("HostToContainer".into());
    (volume, mount)
}

fn security() -> SecurityContext {
    let confined = pod::confined();
    let add = Some(CAPABILITIES.map(str::to_owned).to_vec());
    let capabilities = confined.capabilities.map(|capabilities| Capabilities { add, ..capabilities });
    // Who has CAP_SYS_ADMIN may not be forbidden to get more rights, says the API server.
    SecurityContext { capabilities, allow_privilege_escalation: None, ..confined }
}

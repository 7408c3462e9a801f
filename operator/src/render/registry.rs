//! The registry: one pod that keeps services and endpoints in memory. After its restart the
//! managers register what they have again.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use nsm_components::{api::names as wire, settings::vars};

use super::{
    Mesh,
    pod::{self, Process},
};
use crate::{
    names::component,
    object::{Desired, Kind, ObjectError},
};

/// The stable address of the registry.
pub(super) fn service(mesh: &Mesh) -> Result<Desired, ObjectError> {
    service_of(mesh, component::REGISTRY, wire::REGISTRY_PORT)
}

/// A stable address for the pods of a component.
pub(super) fn service_of(mesh: &Mesh, component: &str, port: u16) -> Result<Desired, ObjectError> {
    let service = Service {
        metadata: mesh.metadata(component, component),
        spec: Some(ServiceSpec {
            selector: Some(pod::selector(component)),
            ports: Some(vec![ServicePort {
                name: Some("grpc".into()),
                port: port.into(),
                ..Default::default()
            }]),
            ..Default::default()
        }),
        ..Default::default()
    };
    Desired::new(Kind::Service, &service)
}

/// The registry's one pod.
pub(super) fn deployment(mesh: &Mesh) -> Result<Desired, ObjectError> {
    let mut env = pod::member_env(mesh);
    env.extend([
        pod::value(vars::NSM_NAME, component::REGISTRY),
        pod::value(vars::NSM_LISTEN_ON, format!("tcp://:{}", wire::REGISTRY_PORT)),
    ]);
    let process = Process {
        name: component::REGISTRY,
        args: &["registry"],
        health: &[],
        env,
        folders: vec![pod::identity_folder()],
        security: pod::confined(),
    };
    let mut pod = process.pod(mesh);
    pod.priority_class_name = Some("system-cluster-critical".into());
    mesh.workload(Kind::Deployment, component::REGISTRY, &pod::deployment(mesh, component::REGISTRY, pod))
}

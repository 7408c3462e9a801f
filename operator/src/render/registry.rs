//! The registries: some pods that keep services and endpoints as custom resources, or one that keeps them
//! in memory. After the restart of that one the managers register what they have again.

use k8s_openapi::{
    api::{
        apps::v1::{DeploymentStrategy, RollingUpdateDeployment},
        core::v1::{
            Affinity, PodAffinityTerm, PodAntiAffinity, Service, ServicePort, ServiceSpec,
            WeightedPodAffinityTerm,
        },
        policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec},
    },
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};
use nsm_components::{api::names as wire, settings::vars};
use nsm_crds::Storage;

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

/// The registries, and how many of them may be away at once.
pub(super) fn objects(mesh: &Mesh) -> Result<Vec<Desired>, ObjectError> {
    let mut objects = Vec::new();
    if mesh.registry.replicas() > 1 {
        objects.push(disruption_budget(mesh)?);
    }
    objects.push(deployment(mesh)?);
    Ok(objects)
}

/// Of several one at a time may be drained.
fn disruption_budget(mesh: &Mesh) -> Result<Desired, ObjectError> {
    let budget = PodDisruptionBudget {
        metadata: mesh.metadata(component::REGISTRY, component::REGISTRY),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(LabelSelector {
                match_labels: Some(pod::selector(component::REGISTRY)),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    };
    Desired::new(Kind::PodDisruptionBudget, &budget)
}

fn deployment(mesh: &Mesh) -> Result<Desired, ObjectError> {
    let mut env = pod::member_env(mesh);
    env.extend([
        pod::value(vars::NSM_NAME, component::REGISTRY),
        pod::value(vars::NSM_LISTEN_ON, format!("tcp://:{}", wire::REGISTRY_PORT)),
    ]);
    let shared = mesh.registry.storage == Storage::Crd;
    if shared {
        env.push(pod::value(vars::NSM_REGISTRY_STORAGE, "CRD"));
        env.push(pod::value(vars::NSM_NAMESPACE, &mesh.namespace));
    }
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
    if shared {
        pod.automount_service_account_token = Some(true);
        pod.affinity = Some(apart());
    }
    let mut deployment = pod::deployment(mesh, component::REGISTRY, pod);
    if let Some(spec) = deployment.spec.as_mut().filter(|_| shared) {
        spec.replicas = Some(mesh.registry.replicas());
        spec.strategy = Some(one_more_first());
    }
    mesh.workload(Kind::Deployment, component::REGISTRY, &deployment)
}

/// Registries that share what they keep are replaced one by one, the new one first.
fn one_more_first() -> DeploymentStrategy {
    let rolling_update = Some(RollingUpdateDeployment {
        max_surge: Some(IntOrString::Int(1)),
        // As a number it would be left out as empty.
        max_unavailable: Some(IntOrString::String("0%".into())),
    });
    DeploymentStrategy { type_: Some("RollingUpdate".into()), rolling_update }
}

/// On nodes of their own, as far as there are nodes.
fn apart() -> Affinity {
    let term = PodAffinityTerm {
        label_selector: Some(LabelSelector {
            match_labels: Some(pod::selector(component::REGISTRY)),
            ..Default::default()
        }),
        topology_key: "kubernetes.io/hostname".into(),
        ..Default::default()
    };
    let preferred = vec![WeightedPodAffinityTerm { pod_affinity_term: term, weight: 100 }];
    let pod_anti_affinity = Some(PodAntiAffinity {
        preferred_during_scheduling_ignored_during_execution: Some(preferred),
        ..Default::default()
    });
    Affinity { pod_anti_affinity, ..Default::default() }
}

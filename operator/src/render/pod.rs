//! What pods of the mesh have in common.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        apps::v1::{
            DaemonSet, DaemonSetSpec, DaemonSetUpdateStrategy, Deployment, DeploymentSpec, DeploymentStrategy,
        },
        core::v1::{
            Capabilities, Container, EmptyDirVolumeSource, EnvVar, EnvVarSource, ExecAction,
            HostPathVolumeSource, ObjectFieldSelector, PodSpec, PodTemplateSpec, Probe, ResourceRequirements,
            SeccompProfile, SecurityContext, Toleration, Volume, VolumeMount,
        },
    },
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{LabelSelector, ObjectMeta},
    },
};
use nsm_components::{api::names as wire, settings::vars};

use super::Mesh;
use crate::names::{self, component};

/// Labels of an object of a component.
pub(super) fn labels(component: &str) -> BTreeMap<String, String> {
    let mut labels = selector(component);
    labels.insert(names::MANAGED_BY.into(), names::MANAGER.into());
    labels
}

/// Labels by which the pods of a component are found; they never change.
pub(super) fn selector(component: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(names::NAME.into(), component.into()), (names::PART_OF.into(), names::PRODUCT.into())])
}

/// A variable with a value.
pub(super) fn value(name: &str, value: impl Into<String>) -> EnvVar {
    EnvVar { name: name.into(), value: Some(value.into()), ..Default::default() }
}

/// A variable with a field of the pod.
pub(super) fn field(name: &str, path: &str) -> EnvVar {
    let field_ref = Some(ObjectFieldSelector { field_path: path.into(), ..Default::default() });
    let value_from = Some(EnvVarSource { field_ref, ..Default::default() });
    EnvVar { name: name.into(), value_from, ..Default::default() }
}

/// Variable with the address of the node, for use in other variables after it.
pub(super) const NODE_IP: &str = "NODE_IP";

/// Variables of every process: who it is and how it logs.
pub(super) fn common_env(mesh: &Mesh) -> Vec<EnvVar> {
    vec![
        field(vars::NODE_NAME, "spec.nodeName"),
        field(vars::POD_NAME, "metadata.name"),
        value(vars::NSM_LOG_LEVEL, mesh.log_level.as_str()),
    ]
}

/// Variables of every process that talks to others of the mesh.
pub(super) fn member_env(mesh: &Mesh) -> Vec<EnvVar> {
    let mut env = common_env(mesh);
    env.push(value(vars::SPIFFE_ENDPOINT_SOCKET, format!("unix://{}", wire::IDENTITY_SOCKET)));
    env.push(value(vars::NSM_MAX_TOKEN_LIFETIME, &mesh.max_token_lifetime));
    env.push(value(vars::NSM_TRUSTED_IDS, trusted_ids(mesh)));
    env
}

/// The mesh's own processes, which pods in other namespaces do not know by their own ID: the node
/// daemons, and no pod of the same accounts.
fn trusted_ids(mesh: &Mesh) -> String {
    let (domain, namespace) = (&mesh.trust_domain, &mesh.namespace);
    [component::NSMGR, component::FORWARDER]
        .map(|account| format!("spiffe://{domain}/ns/{namespace}/sa/{account}/node"))
        .join(",")
}

/// A folder of the node, made when it is missing, and where the container sees it.
pub(super) fn host_folder(name: &str, path: &str, read_only: bool) -> (Volume, VolumeMount) {
    let host_path = HostPathVolumeSource { path: path.into(), type_: Some("DirectoryOrCreate".into()) };
    (
        Volume { name: name.into(), host_path: Some(host_path), ..Default::default() },
        VolumeMount {
            name: name.into(),
            mount_path: path.into(),
            read_only: read_only.then_some(true),
            ..Default::default()
        },
    )
}

/// The folder of the identity socket, for those who ask for an identity.
pub(super) fn identity_folder() -> (Volume, VolumeMount) {
    host_folder("identity", wire::IDENTITY_DIR, true)
}

/// A folder in memory for what the process writes.
pub(super) fn memory_folder(path: &str) -> (Volume, VolumeMount) {
    let empty_dir = EmptyDirVolumeSource { medium: Some("Memory".into()), ..Default::default() };
    (
        Volume { name: "tmp".into(), empty_dir: Some(empty_dir), ..Default::default() },
        VolumeMount { name: "tmp".into(), mount_path: path.into(), ..Default::default() },
    )
}

/// What a process with no special rights is confined to.
pub(super) fn confined() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".into()]), ..Default::default() }),
        read_only_root_filesystem: Some(true),
        seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".into(), ..Default::default() }),
        ..Default::default()
    }
}

/// A probe by the program itself, every `period` seconds.
pub(super) fn probe(command: &[&str], period: i32, failures: i32) -> Probe {
    let mut words = vec!["/nsm".to_owned(), "health".to_owned()];
    words.extend(command.iter().map(ToString::to_string));
    Probe {
        exec: Some(ExecAction { command: Some(words) }),
        period_seconds: Some(period),
        timeout_seconds: Some(3),
        failure_threshold: Some(failures),
        ..Default::default()
    }
}

/// One process of the mesh, before it becomes a pod.
pub(super) struct Process<'a> {
    pub(super) name: &'a str,
    pub(super) args: &'a [&'a str],
    /// Words after `nsm health`.
    pub(super) health: &'a [&'a str],
    pub(super) env: Vec<EnvVar>,
    pub(super) folders: Vec<(Volume, VolumeMount)>,
    pub(super) security: SecurityContext,
}

impl Process<'_> {
    /// The pod with this one process.
    pub(super) fn pod(self, mesh: &Mesh) -> PodSpec {
        let (volumes, mounts) = self.folders.into_iter().unzip();
        let container = Container {
            name: self.name.into(),
            image: Some(mesh.image.clone()),
            image_pull_policy: Some(mesh.pull_policy.as_str().into()),
            args: Some(self.args.iter().map(ToString::to_string).collect()),
            env: Some(self.env),
            volume_mounts: Some(mounts),
            security_context: Some(self.security),
            // Quick while it starts, rare once it runs.
            startup_probe: Some(probe(self.health, 1, 300)),
            readiness_probe: Some(probe(self.health, 5, 2)),
            resources: Some(ResourceRequirements {
                requests: Some(BTreeMap::from([
                    ("cpu".into(), Quantity("10m".into())),
                    ("memory".into(), Quantity("32Mi".into())),
                ])),
                ..Default::default()
            }),
            ..Default::default()
        };
        PodSpec {
            containers: vec![container],
            volumes: Some(volumes),
            service_account_name: Some(self.name.into()),
            automount_service_account_token: Some(false),
            termination_grace_period_seconds: Some(10),
            ..Default::default()
        }
    }
}

/// The pod as a daemon of every node, whatever its taints, in the node's network.
pub(super) fn on_every_node(mut pod: PodSpec) -> PodSpec {
    pod.host_network = Some(true);
    pod.priority_class_name = Some("system-node-critical".into());
    pod.tolerations = Some(vec![Toleration { operator: Some("Exists".into()), ..Default::default() }]);
    pod
}

/// A DaemonSet of the component. Its pods stay as they are until they are moved to another revision.
pub(super) fn daemon_set(mesh: &Mesh, component: &str, pod: PodSpec) -> DaemonSet {
    DaemonSet {
        metadata: mesh.metadata(component, component),
        spec: Some(DaemonSetSpec {
            selector: LabelSelector { match_labels: Some(selector(component)), ..Default::default() },
            template: template(labels(component), pod),
            update_strategy: Some(DaemonSetUpdateStrategy {
                type_: Some("OnDelete".into()),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// A Deployment of the component, with one pod at a time.
pub(super) fn deployment(mesh: &Mesh, component: &str, pod: PodSpec) -> Deployment {
    Deployment {
        metadata: mesh.metadata(component, component),
        spec: Some(DeploymentSpec {
            replicas: Some(1),
            selector: LabelSelector { match_labels: Some(selector(component)), ..Default::default() },
            strategy: Some(DeploymentStrategy { type_: Some("Recreate".into()), ..Default::default() }),
            template: template(labels(component), pod),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// A pod template.
pub(super) fn template(labels: BTreeMap<String, String>, pod: PodSpec) -> PodTemplateSpec {
    let metadata = ObjectMeta { labels: Some(labels), ..Default::default() };
    PodTemplateSpec { metadata: Some(metadata), spec: Some(pod) }
}

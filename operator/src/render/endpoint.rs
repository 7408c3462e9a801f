//! The Deployment of an endpoint template. Its pods register themselves, under their own names.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentSpec},
        core::v1::{Container, EnvVar, PodSpec},
    },
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta},
};
use nsm_components::{api::names as wire, settings::vars};
use nsm_crds::Workload;
use serde_json::Value;

use super::{Mesh, Template, pod, quantity};
use crate::{
    names,
    object::{Desired, Kind, ObjectError},
};

/// The Deployment of a template on this mesh, beside what runs.
///
/// Where nothing but the mesh's image would change, the pods keep the one that they have: a new release of
/// the mesh restarts nobody's endpoints. `kubectl rollout restart` moves them to it.
pub fn endpoint(mesh: &Mesh, template: &Template, live: Option<&Value>) -> Result<Desired, ObjectError> {
    if template.workload.image.is_some() {
        return deployment(mesh, template);
    }
    let text = |pointer: String| live.and_then(|live| live.pointer(&pointer)?.as_str());
    let noted = |name: &str| text(format!("/metadata/annotations/{}", escaped(name)));
    let asked = text(format!("/spec/template/metadata/annotations/{}", escaped(names::KUBECTL_RESTARTED_AT)));
    let started_with = |image: &str| {
        let rendered = deployment(&Mesh { image: image.to_owned(), ..mesh.clone() }, template)?;
        Ok(rendered.with(|body| {
            let annotations = &mut body["metadata"]["annotations"];
            annotations[names::MESH_IMAGE] = image.into();
            if let Some(asked) = asked {
                annotations[names::RESTARTED_AT] = asked.into();
            }
        }))
    };
    if let Some(before) = noted(names::MESH_IMAGE) {
        let unmoved = started_with(before)?;
        if unmoved.revision() == noted(names::REVISION) {
            return Ok(unmoved);
        }
    }
    started_with(&mesh.image)
}

/// A name as part of a JSON pointer (RFC 6901).
fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

fn deployment(mesh: &Mesh, template: &Template) -> Result<Desired, ObjectError> {
    let selector = BTreeMap::from([
        (names::TEMPLATE.to_owned(), template.name.clone()),
        (names::PART_OF.to_owned(), names::PRODUCT.to_owned()),
    ]);
    let mut labels = selector.clone();
    labels.insert(names::NAME.into(), template.name.clone());
    labels.insert(names::MANAGED_BY.into(), names::MANAGER.into());
    let deployment = Deployment {
        metadata: ObjectMeta {
            name: Some(template.name.clone()),
            namespace: Some(template.namespace.clone()),
            labels: Some(labels.clone()),
            owner_references: Some(vec![template.owner.clone()]),
            ..Default::default()
        },
        spec: Some(DeploymentSpec {
            replicas: Some(template.workload.replicas),
            selector: LabelSelector { match_labels: Some(selector), ..Default::default() },
            template: pod::template(labels, pod_spec(mesh, &template.workload)),
            ..Default::default()
        }),
        ..Default::default()
    };
    Desired::new(Kind::Deployment, &deployment)
}

fn pod_spec(mesh: &Mesh, workload: &Workload) -> PodSpec {
    let folders =
        [pod::host_folder("mesh", wire::MESH_DIR, true), pod::identity_folder(), pod::memory_folder("/tmp")];
    let (volumes, mounts) = folders.into_iter().unzip();
    let own = workload.image.is_none();
    let probe = |period, failures| own.then(|| pod::probe(&[], period, failures));
    let container = Container {
        name: "nse".into(),
        image: Some(workload.image.clone().unwrap_or_else(|| mesh.image.clone())),
        image_pull_policy: Some(mesh.pull_policy.as_str().into()),
        args: Some(if own && workload.args.is_empty() { vec!["nse".into()] } else { workload.args.clone() }),
        env: Some(environment(mesh, workload)),
        volume_mounts: Some(mounts),
        security_context: Some(pod::confined()),
        startup_probe: probe(1, 300),
        readiness_probe: probe(5, 2),
        resources: workload.resources.as_ref().map(quantity::requirements),
        ..Default::default()
    };
    PodSpec {
        containers: vec![container],
        volumes: Some(volumes),
        node_selector: (!workload.node_selector.is_empty()).then(|| workload.node_selector.clone()),
        service_account_name: workload.service_account_name.clone(),
        automount_service_account_token: Some(false),
        termination_grace_period_seconds: Some(10),
        ..Default::default()
    }
}

/// The operator's variables, except where the workload has its own.
fn environment(mesh: &Mesh, workload: &Workload) -> Vec<EnvVar> {
    let mut env = pod::member_env(mesh);
    // Or a look at the mesh's own logs would replace the pods of its users.
    env.retain(|variable| variable.name != vars::NSM_LOG_LEVEL);
    env.extend([
        pod::value(vars::NSM_NAME, format!("$({})", vars::POD_NAME)),
        pod::value(vars::NSM_CONNECT_TO, format!("unix://{}", wire::NSMGR_SOCKET)),
        pod::value(vars::NSM_LISTEN_ON, wire::NSE_LISTEN_ON),
        pod::value(vars::NSM_SERVICE_NAMES, workload.network_services.join(",")),
        pod::value(vars::NSM_PAYLOAD, workload.payload.as_str()),
    ]);
    if !workload.labels.is_empty() {
        let labels: Vec<String> =
            workload.labels.iter().map(|(key, value)| format!("{key}:{value}")).collect();
        env.push(pod::value(vars::NSM_LABELS, labels.join(",")));
    }
    if !workload.cidr_prefixes.is_empty() {
        env.push(pod::value(vars::NSM_CIDR_PREFIX, workload.cidr_prefixes.join(",")));
    }
    env.retain(|variable| workload.env.iter().all(|own| own.name != variable.name));
    env.extend(workload.env.iter().map(|own| pod::value(&own.name, &own.value)));
    env
}

//! The nodes that a control plane alone has not: someone must say that pods run.

use std::time::Duration;

use anyhow::Result;
use k8s_openapi::api::{
    apps::v1::{DaemonSet, Deployment},
    core::v1::Pod,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::wait::over_and_over;

/// Pause between two looks at what should run.
const PACE: Duration = Duration::from_millis(50);

/// Says that whatever should run does, until it is dropped.
#[derive(Debug)]
pub struct Kubelet(JoinHandle<()>);

impl Kubelet {
    /// Where no controllers are: says that all Deployments run, and DaemonSets on so many nodes.
    pub fn for_workloads(client: Client, nodes: i32) -> Self {
        let look = move || {
            let client = client.clone();
            // What fails, because the API server is away, is tried again with the next look.
            async move { workloads_run(&client, nodes).await }
        };
        Self(tokio::spawn(over_and_over(PACE, look)))
    }

    /// Where controllers make pods: brings those of nodes there, says that they are ready, and lets them end.
    pub fn for_pods(client: Client) -> Self {
        let look = move || {
            let client = client.clone();
            async move { pods_run(&client).await }
        };
        Self(tokio::spawn(over_and_over(PACE, look)))
    }

    /// Says that all pods of this Deployment run.
    pub async fn run_deployment(client: &Client, namespace: &str, name: &str) -> Result<()> {
        let api: Api<Deployment> = Api::namespaced(client.clone(), namespace);
        let status = deployment_runs(&api.get(name).await?);
        api.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await?;
        Ok(())
    }

    /// Says of how many of its nodes this DaemonSet runs on how many.
    pub async fn run_daemon_set(
        client: &Client,
        namespace: &str,
        name: &str,
        nodes: i32,
        ready: i32,
    ) -> Result<()> {
        let api: Api<DaemonSet> = Api::namespaced(client.clone(), namespace);
        let status = daemon_set_runs(&api.get(name).await?, nodes, ready);
        api.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await?;
        Ok(())
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn workloads_run(client: &Client, nodes: i32) -> Result<()> {
    let params = PatchParams::default();
    for deployment in Api::<Deployment>::all(client.clone()).list(&ListParams::default()).await? {
        let seen = deployment.status.as_ref().and_then(|status| status.observed_generation);
        if seen != deployment.metadata.generation {
            let api: Api<Deployment> = Api::namespaced(client.clone(), &namespace(&deployment));
            let status = Patch::Merge(deployment_runs(&deployment));
            api.patch_status(&deployment.name_any(), &params, &status).await?;
        }
    }
    for daemons in Api::<DaemonSet>::all(client.clone()).list(&ListParams::default()).await? {
        let seen = daemons.status.as_ref().and_then(|status| status.observed_generation);
        if seen != daemons.metadata.generation {
            let api: Api<DaemonSet> = Api::namespaced(client.clone(), &namespace(&daemons));
            let status = Patch::Merge(daemon_set_runs(&daemons, nodes, nodes));
            api.patch_status(&daemons.name_any(), &params, &status).await?;
        }
    }
    Ok(())
}

async fn pods_run(client: &Client) -> Result<()> {
    for pod in Api::<Pod>::all(client.clone()).list(&ListParams::default()).await? {
        let api: Api<Pod> = Api::namespaced(client.clone(), &namespace(&pod));
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        if pod.metadata.deletion_timestamp.is_some() {
            api.delete(&pod.name_any(), &DeleteParams::default().grace_period(0)).await?;
        } else if let Some(node) = unbound(&pod) {
            bind(client, &pod, node).await?;
        } else if phase != Some("Running") && !is_broken(&pod) {
            let ready =
                json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
            api.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Strategic(ready)).await?;
        }
    }
    Ok(())
}

/// Whether its image is one that no node has.
fn is_broken(pod: &Pod) -> bool {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    containers.filter_map(|container| container.image.as_deref()).any(|image| image.ends_with(":broken"))
}

/// The node that a pod of a DaemonSet is for, while it is not there.
fn unbound(pod: &Pod) -> Option<&str> {
    let spec = pod.spec.as_ref().filter(|spec| spec.node_name.is_none())?;
    let nodes = spec.affinity.as_ref()?.node_affinity.as_ref()?;
    let terms = &nodes.required_during_scheduling_ignored_during_execution.as_ref()?.node_selector_terms;
    let fields = terms.iter().filter_map(|term| term.match_fields.as_ref()).flatten();
    fields
        .filter(|field| field.key == "metadata.name")
        .find_map(|field| field.values.as_ref()?.first().map(String::as_str))
}

/// Does what a scheduler would.
async fn bind(client: &Client, pod: &Pod, node: &str) -> Result<()> {
    let name = pod.name_any();
    let binding = json!({
        "apiVersion": "v1", "kind": "Binding", "metadata": {"name": name},
        "target": {"apiVersion": "v1", "kind": "Node", "name": node},
    });
    let url = format!("/api/v1/namespaces/{}/pods/{name}/binding", namespace(pod));
    let request =
        kube::core::Request::new(url).create(&PostParams::default(), serde_json::to_vec(&binding)?)?;
    client.request_text(request).await?;
    Ok(())
}

fn deployment_runs(deployment: &Deployment) -> Value {
    let pods = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    json!({"status": {
        "observedGeneration": deployment.metadata.generation,
        "replicas": pods, "updatedReplicas": pods, "readyReplicas": pods, "availableReplicas": pods,
    }})
}

fn daemon_set_runs(daemons: &DaemonSet, nodes: i32, ready: i32) -> Value {
    json!({"status": {
        "observedGeneration": daemons.metadata.generation,
        "desiredNumberScheduled": nodes, "currentNumberScheduled": nodes, "updatedNumberScheduled": nodes,
        "numberReady": ready, "numberAvailable": ready, "numberUnavailable": nodes - ready, "numberMisscheduled": 0,
    }})
}

fn namespace(object: &impl ResourceExt) -> String {
    object.namespace().unwrap_or_default()
}

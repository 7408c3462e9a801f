//! A `NetworkServiceEndpoint` with a workload: its Deployment, and how its endpoints fare.

use std::sync::Arc;

use futures::{FutureExt, future::BoxFuture};
use k8s_openapi::jiff::Timestamp;
use kube::{ResourceExt, runtime::controller::Action};
use nsm_crds::{DeletionPolicy, NetworkServiceEndpoint};

use super::{Context, Error, daemons, object_key, teardown};
use crate::{
    apply::{self, Pods},
    object::{Desired, Key, Kind},
    plan::{Step, step},
    render::{self, Mesh},
    status::{self, Accepted, EndpointInput, Rollout},
    validate::{self, permit_command},
};

pub(super) fn reconcile(
    endpoint: Arc<NetworkServiceEndpoint>,
    context: Arc<Context>,
) -> BoxFuture<'static, Result<Action, Error>> {
    async move { run(&endpoint, &context).await }.boxed()
}

async fn run(endpoint: &NetworkServiceEndpoint, context: &Context) -> Result<Action, Error> {
    if endpoint.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    if endpoint.spec.workload.is_none() {
        remove(endpoint, Pods::Later, context).await?;
        return Ok(Action::await_change());
    }
    let (accepted, failure) = match make(endpoint, context).await {
        Ok(accepted) => (accepted, None),
        Err(error) => (refusal(endpoint, context, &error), Some(error)),
    };
    write_status(endpoint, &accepted, context).await?;
    if let Some(error) = failure {
        return Err(error);
    }
    context.attempts.succeeded(&object_key(endpoint));
    Ok(Action::await_change())
}

/// What the status says of an error.
fn refusal(endpoint: &NetworkServiceEndpoint, context: &Context, error: &Error) -> Accepted {
    match error {
        Error::Apply(apply::Error::Forbidden { .. }) => {
            let namespace = endpoint.namespace().unwrap_or_default();
            Accepted::NotPermitted(format!(
                "the operator may not run endpoints in this namespace; its owner allows it with: {}",
                permit_command(&namespace, &context.installation)
            ))
        }
        error => Accepted::Failed(error.to_string()),
    }
}

/// Makes the template's Deployment as wanted.
async fn make(endpoint: &NetworkServiceEndpoint, context: &Context) -> Result<Accepted, Error> {
    let Some(config) = context.known.config().filter(|config| config.metadata.deletion_timestamp.is_none())
    else {
        return without_mesh(endpoint, context).await;
    };
    let directives = validate::directives(&config);
    if directives.paused || directives.plan_only {
        return Ok(Accepted::NoMesh("the NSMConfig is paused: nothing is written for now".into()));
    }
    let mesh = match validate::mesh(&config, &context.installation) {
        Ok(mesh) => mesh,
        Err(error) => return Ok(Accepted::NoMesh(format!("the NSMConfig cannot be used: {error}"))),
    };
    let template = match validate::template(endpoint) {
        Ok(template) => template,
        Err(error) => return Ok(Accepted::Invalid(error.to_string())),
    };
    let (namespace, name) = (template.namespace.clone(), template.name.clone());
    let live = context.known.live(&Key { kind: Kind::Deployment, namespace, name });
    apply(&render::endpoint(&mesh, &template, live.as_deref())?, &mesh, context).await
}

/// An endpoint of no mesh runs nothing, unless a mesh was left running.
async fn without_mesh(endpoint: &NetworkServiceEndpoint, context: &Context) -> Result<Accepted, Error> {
    let orphaned = match context.known.config() {
        Some(config) => teardown::policy(&config) == DeletionPolicy::Orphan,
        None => context.known.runs_daemons(),
    };
    if orphaned {
        return Ok(Accepted::NoMesh(
            "the mesh runs without its NSMConfig, and this endpoint as it is: apply an NSMConfig named default".into(),
        ));
    }
    // What removes the mesh waits for this, so that endpoints end while it still works.
    let pods = if context.known.config().is_some() { Pods::First } else { Pods::Later };
    remove(endpoint, pods, context).await?;
    Ok(Accepted::NoMesh("there is no mesh: apply an NSMConfig named default".into()))
}

async fn apply(desired: &Desired, mesh: &Mesh, context: &Context) -> Result<Accepted, Error> {
    let live = context.known.live(&desired.key);
    let todo = step(desired, live.as_deref());
    match (&todo, daemons::forwarders(mesh, context)?) {
        // The mesh changes first, endpoints after it.
        (Step::Nothing, _) | (Step::Change, Step::Change) => {}
        (Step::Create, Step::Create) => {
            return Ok(Accepted::NoMesh("the mesh is being installed: see kubectl get nsm -o wide".into()));
        }
        _ => {
            context.take(&todo, desired, live.as_deref()).await?;
        }
    }
    Ok(Accepted::Applied)
}

/// Removes what was made for the template.
async fn remove(endpoint: &NetworkServiceEndpoint, pods: Pods, context: &Context) -> Result<(), Error> {
    for object in context.known.controlled_by(&endpoint.uid().unwrap_or_default()) {
        context.delete(&object, pods).await?;
    }
    Ok(())
}

async fn write_status(
    endpoint: &NetworkServiceEndpoint,
    accepted: &Accepted,
    context: &Context,
) -> Result<(), Error> {
    let (namespace, name) = (endpoint.namespace().unwrap_or_default(), endpoint.name_any());
    let key = (namespace.clone(), name.clone());
    let newer = context.endpoints.newer_than(&key, endpoint.resource_version().as_deref());
    let old = newer.as_ref().or(endpoint.status.as_ref());
    let nodes = context.known.nodes();
    let deployment = Key { kind: Kind::Deployment, namespace: namespace.clone(), name: name.clone() };
    let new = status::endpoint(&EndpointInput {
        old,
        generation: endpoint.metadata.generation,
        accepted,
        rollout: Rollout::of(context.known.live(&deployment).as_deref()),
        rollup: status::template(nodes.iter().map(AsRef::as_ref), &namespace, &name),
        now: Timestamp::now(),
    });
    if old != Some(&new) {
        let written = context.writer.status(endpoint, &new).await?;
        context.endpoints.remember(key, written.resource_version().as_deref(), new);
    }
    Ok(())
}

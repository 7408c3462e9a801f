//! Removing a mesh: first its connections are closed. What serves others goes after these, each when its pods
//! have ended, and the `NSMConfig` last of all.

use std::time::Duration;

use kube::ResourceExt;
use nsm_crds::{DeletionPolicy, NSMConfig};
use serde_json::json;
use tracing::info;

use super::{
    Context, Error, daemons,
    nodes::{self, Nodes},
};
use crate::{
    apply::Pods,
    dereference::Owned,
    names::{FINALIZER, component},
    object::Kind,
    plan, render,
    status::{self, Outcome},
    validate,
};

/// How long endpoints may take to close their connections before the mesh goes without them.
const PATIENCE: Duration = Duration::from_secs(30);

/// Kubernetes' own finalizer of a delete that leaves what is owned.
const ORPHAN: &str = "orphan";

/// Takes the next step: what it waits for now, or nothing when it is done.
pub(super) async fn step(config: &NSMConfig, context: &Context) -> Result<Option<Outcome>, Error> {
    if !config.finalizers().iter().any(|finalizer| finalizer == FINALIZER) {
        return Ok(None);
    }
    let connections = status::mesh(context.known.nodes().iter().map(AsRef::as_ref)).counts.total;
    match policy(config) {
        DeletionPolicy::Orphan => {
            release(config, context).await?;
            return done(config, context).await;
        }
        DeletionPolicy::DeleteWhenIdle if connections > 0 => {
            return Ok(Some(Outcome::WaitingForIdle(connections)));
        }
        _ => {}
    }
    if endpoints_may_end(config, context) {
        return Ok(Some(Outcome::Deleting("waits for the endpoints of templates to end".into())));
    }
    let owned = context.known.controlled_by(&config.uid().unwrap_or_default());
    // Without nsmgrs there is nobody to ask.
    let asks =
        |object: &Owned| object.key.kind == Kind::DaemonSet && object.key.component() == component::NSMGR;
    if owned.iter().any(asks)
        && let Nodes::Closing(nodes) =
            nodes::drain(config, validate::teardown_timeout(config), context).await?
    {
        let nodes = plan::summary(nodes);
        return Ok(Some(Outcome::Deleting(format!("waits for nodes to close their connections: {nodes}"))));
    }
    let Some(turn) = owned.iter().map(|object| plan::teardown_order(&object.key)).min() else {
        daemons::unmark(context).await?;
        return done(config, context).await;
    };
    let mut now: Vec<_> = owned.iter().filter(|object| plan::teardown_order(&object.key) == turn).collect();
    now.sort_by_key(|object| &object.key);
    for object in &now {
        context.delete(object, Pods::First).await?;
    }
    let names: Vec<_> = now.iter().map(|object| object.key.to_string()).collect();
    let left = nodes::left(config, context).map(|words| format!("; {words}")).unwrap_or_default();
    Ok(Some(Outcome::Deleting(format!("waits for the end of {}{left}", names.join(", ")))))
}

/// What is to become of the mesh.
pub(super) fn policy(config: &NSMConfig) -> DeletionPolicy {
    let orphan = config.finalizers().iter().any(|finalizer| finalizer == ORPHAN);
    if orphan { DeletionPolicy::Orphan } else { config.spec.deletion_policy }
}

/// Whether there are endpoints of templates, and time left for them. Their own controller removes them.
fn endpoints_may_end(config: &NSMConfig, context: &Context) -> bool {
    // By the own clock alone: that of the API server may be another.
    let waited = context.deleting.since(&config.uid().unwrap_or_default());
    waited < PATIENCE && context.known.runs_templates()
}

/// When to look again: how long endpoints and nodes take is no event.
pub(super) const LOOK: Duration = Duration::from_secs(1);

/// Takes everything off its owner, so that the garbage collector leaves it.
async fn release(config: &NSMConfig, context: &Context) -> Result<(), Error> {
    let uid = config.uid().unwrap_or_default();
    for Owned { key, uid, .. } in context.known.controlled_by(&uid) {
        context.writer.release(&key, &uid).await?;
        info!(object = %key, "left an object without its mesh");
    }
    for node in context.known.nodes() {
        if node.owner_references().iter().any(|owner| owner.uid == uid) {
            context.writer.adopt(&node, None).await?;
        }
    }
    Ok(())
}

/// Lets the `NSMConfig` go.
async fn done(config: &NSMConfig, context: &Context) -> Result<Option<Outcome>, Error> {
    let left: Vec<_> = config.finalizers().iter().filter(|finalizer| *finalizer != FINALIZER).collect();
    context.writer.mark(config, json!({"finalizers": left})).await?;
    info!("nothing of the mesh is left to remove");
    Ok(None)
}

/// Marks the `NSMConfig` as parent of the apply set that its mesh is, and to be removed in order.
pub(super) async fn mark(config: &NSMConfig, context: &Context) -> Result<(), Error> {
    let name = config.name_any();
    let parent = render::parent();
    let marked = config.finalizers().iter().any(|finalizer| finalizer == FINALIZER)
        && parent.labels.iter().all(|(name, value)| config.labels().get(name) == Some(value))
        && parent.annotations.iter().all(|(name, value)| config.annotations().get(name) == Some(value));
    let version = config.resource_version();
    if marked || context.marked.newer_than(&name, version.as_deref()).is_some() {
        return Ok(());
    }
    let mut finalizers = config.finalizers().to_vec();
    finalizers.retain(|finalizer| finalizer != FINALIZER);
    finalizers.push(FINALIZER.into());
    let metadata = json!({
        "finalizers": finalizers,
        "labels": parent.labels,
        "annotations": parent.annotations,
    });
    let written = context.writer.mark(config, metadata).await?;
    context.marked.remember(name, written.resource_version().as_deref(), ());
    Ok(())
}

//! The `NSMConfig`: makes the mesh as it is wanted, tier by tier, and sums up how it fares.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures::{FutureExt, future::BoxFuture};
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Condition, jiff::Timestamp};
use kube::{ResourceExt, runtime::controller::Action};
use nsm_crds::{Component, NSMConfig, NSMConfigStatus};
use tracing::info;

use super::{Context, Error, object_key};
use crate::{
    apply,
    object::{Desired, Key, Kind},
    plan::{Gate, step},
    render::{self, Mesh, Tier},
    status::{self, ConfigInput, GRACE, Outcome, Rollout},
    validate,
};

/// Failures in a row before the status speaks of them: rights that were just granted take a moment.
const PATIENCE: u32 = 3;

/// Shortest time between two writes of a status in which only counts differ.
const COUNTS_EVERY: Duration = Duration::from_secs(1);

pub(super) fn reconcile(
    config: Arc<NSMConfig>,
    context: Arc<Context>,
) -> BoxFuture<'static, Result<Action, Error>> {
    async move { run(&config, &context).await }.boxed()
}

async fn run(config: &NSMConfig, context: &Context) -> Result<Action, Error> {
    let key = object_key(config);
    let mut components = Vec::new();
    let (outcome, failure) = if config.metadata.deletion_timestamp.is_some() {
        (Outcome::Deleting, None)
    } else {
        match validate::mesh(config, &context.installation) {
            Err(error) => (Outcome::Invalid(error.to_string()), None),
            Ok(mesh) => {
                let tiers = render::mesh(&mesh)?;
                let made = make(&mesh, &tiers, context).await;
                components = observe(&tiers, context);
                judge(made, context.attempts.so_far(&key))
            }
        }
    };
    let written = write_status(config, &components, &outcome, context).await?;
    if let Some(error) = failure {
        return Err(error);
    }
    context.attempts.succeeded(&key);
    Ok(match written {
        Delay::Later(wait) => Action::requeue(wait),
        Delay::None if matches!(outcome, Outcome::Applied | Outcome::Waiting(_)) => Action::requeue(GRACE),
        Delay::None => Action::await_change(),
    })
}

/// What the status says of a result, and the error to try again for.
fn judge(made: Result<Option<&'static str>, Error>, failures: u32) -> (Outcome, Option<Error>) {
    match made {
        Ok(None) => (Outcome::Applied, None),
        Ok(Some(tier)) => (Outcome::Waiting(tier), None),
        Err(error) => {
            let permanent = matches!(&error, Error::Apply(error) if error.is_permanent());
            let outcome = if permanent || failures >= PATIENCE {
                Outcome::Failed(explain(&error))
            } else {
                Outcome::Waiting("last write, which is repeated")
            };
            (outcome, Some(error))
        }
    }
}

/// The error, and what to do about it where the text alone does not say.
fn explain(error: &Error) -> String {
    match error {
        Error::Apply(apply::Error::Forbidden { .. }) => format!(
            "{error}; the rights come with the operator's installation: apply that of this version, \
             for another spec.namespace with meshNamespace set to it"
        ),
        error => error.to_string(),
    }
}

/// Does what there is to do, in the order of the tiers; the tier that the rest waits for, if any.
/// After an error nothing new is begun, since it may need what failed; edits are still put back.
async fn make(mesh: &Mesh, tiers: &[Tier], context: &Context) -> Result<Option<&'static str>, Error> {
    let mut gate = Gate::default();
    let mut failure = None;
    for (tier, desired) in in_order(tiers) {
        let mut live = context.known.live(&desired.key);
        let todo = step(desired, live.as_ref());
        if gate.allows(&todo) {
            match context.take(&todo, desired).await {
                Ok(written) => live = Some(written),
                Err(error) => {
                    gate.close(tier);
                    failure.get_or_insert(error);
                }
            }
        }
        gate.pass(tier, desired.key.kind, live.as_ref());
    }
    if let Some(error) = failure {
        return Err(error.into());
    }
    prune(mesh, tiers, context).await?;
    adopt(mesh, context).await?;
    Ok(gate.waits_for())
}

/// All objects, with the names of their tiers.
fn in_order(tiers: &[Tier]) -> Vec<(&'static str, &Desired)> {
    tiers.iter().flat_map(|tier| tier.objects.iter().map(|object| (tier.name, object))).collect()
}

/// Deletes what the mesh owns and no longer consists of, last tiers first.
async fn prune(mesh: &Mesh, tiers: &[Tier], context: &Context) -> Result<(), Error> {
    let wanted: BTreeSet<&Key> =
        tiers.iter().flat_map(|tier| &tier.objects).map(|object| &object.key).collect();
    for (key, uid) in context.known.controlled_by(&mesh.owner.uid).into_iter().rev() {
        if !wanted.contains(&key) {
            context.writer.delete(&key, &uid).await?;
            info!(object = %key, "deleted an object that the mesh no longer has");
        }
    }
    Ok(())
}

/// Makes the mesh the owner of the nodes' reports, so that they go with it.
async fn adopt(mesh: &Mesh, context: &Context) -> Result<(), Error> {
    for node in context.known.nodes() {
        if node.owner_references().iter().all(|owner| owner.uid != mesh.owner.uid) {
            context.writer.adopt(&node, &mesh.owner).await?;
        }
    }
    Ok(())
}

fn observe(tiers: &[Tier], context: &Context) -> Vec<Component> {
    let workload = |object: &&Desired| matches!(object.key.kind, Kind::Deployment | Kind::DaemonSet);
    let workloads = tiers.iter().flat_map(|tier| &tier.objects).filter(workload);
    workloads
        .map(|object| Rollout::of(context.known.live(&object.key).as_ref()).component(&object.key))
        .collect()
}

/// Whether a status still has to be written.
enum Delay {
    None,
    Later(Duration),
}

async fn write_status(
    config: &NSMConfig,
    components: &[Component],
    outcome: &Outcome,
    context: &Context,
) -> Result<Delay, Error> {
    let name = config.name_any();
    let newer = context.configs.newer_than(&name, config.resource_version().as_deref());
    let old = newer.as_ref().or(config.status.as_ref());
    let nodes = context.known.nodes();
    let new = status::config(&ConfigInput {
        old,
        generation: config.metadata.generation,
        namespace: &config.spec.namespace,
        outcome,
        components,
        connections: status::mesh(nodes.iter().map(AsRef::as_ref)),
        now: Timestamp::now(),
    });
    if old == Some(&new) {
        return Ok(Delay::None);
    }
    if let Some(age) = context.configs.age(&name)
        && age < COUNTS_EVERY
        && old.is_some_and(|old| only_counts_differ(old, &new))
    {
        return Ok(Delay::Later(COUNTS_EVERY.saturating_sub(age)));
    }
    let written = context.writer.status(config, &new).await?;
    context.configs.remember(name, written.resource_version().as_deref(), new);
    Ok(Delay::None)
}

fn only_counts_differ(old: &NSMConfigStatus, new: &NSMConfigStatus) -> bool {
    let verdicts = |conditions: &[Condition]| -> Vec<(String, String, String)> {
        let verdict = |c: &Condition| (c.type_.clone(), c.status.clone(), c.reason.clone());
        conditions.iter().map(verdict).collect()
    };
    old.components == new.components
        && old.observed_generation == new.observed_generation
        && verdicts(&old.conditions) == verdicts(&new.conditions)
}

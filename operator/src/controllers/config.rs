//! The `NSMConfig`: makes the mesh as it is wanted, tier by tier, and sums up how it fares.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{FutureExt, future::BoxFuture};
use kube::{ResourceExt, runtime::controller::Action};
use nsm_crds::{Component, NSMConfig};

use super::{
    Context, Error, object_key, rehearsal,
    report::{self, Delay},
    teardown,
};
use crate::{
    apply::{self, Pods},
    dereference::Owned,
    metrics,
    object::{Desired, Key},
    plan::{self, Gate, step},
    render::{self, Mesh, Tier},
    status::{GRACE, Outcome, Rollout},
    validate::{self, Directives},
};

/// Failures in a row before the status speaks of them: rights that were just granted take a moment.
const PATIENCE: u32 = 3;

pub(super) fn reconcile(
    config: Arc<NSMConfig>,
    context: Arc<Context>,
) -> BoxFuture<'static, Result<Action, Error>> {
    async move { run(&config, &context).await }.boxed()
}

async fn run(config: &NSMConfig, context: &Context) -> Result<Action, Error> {
    let key = object_key(config);
    let directives = validate::directives(config);
    if context.breaker().retry(directives.retry.as_deref()) {
        context.attempts.succeeded(&key);
    }
    let mut components = Vec::new();
    let made = if let Some(refusal) = &context.server.refusal {
        Ok(Outcome::Unsupported(refusal.clone()))
    } else if config.metadata.deletion_timestamp.is_some() && !directives.paused {
        match teardown::step(config, context).await {
            Ok(None) => return Ok(Action::await_change()),
            Ok(Some(outcome)) => Ok(outcome),
            Err(error) => Err(error),
        }
    } else {
        match validate::mesh(config, &context.installation) {
            Err(error) => Ok(Outcome::Invalid(error.to_string())),
            Ok(mesh) => {
                let tiers = render::mesh(&mesh)?;
                let made = bring_about(config, &mesh, &tiers, &directives, context).await;
                components = observe(&tiers, context);
                made
            }
        }
    };
    let (outcome, failure) = judge(made, context.attempts.so_far(&key));
    let written = report::write(config, &components, &outcome, context).await?;
    if let Some(error) = failure {
        return Err(error);
    }
    context.attempts.succeeded(&key);
    Ok(next_look(&outcome, &written, context))
}

/// When to look again without an event.
fn next_look(outcome: &Outcome, written: &Delay, context: &Context) -> Action {
    let status = match written {
        Delay::Later(wait) => Some(*wait),
        Delay::None => None,
    };
    let own = match outcome {
        Outcome::Applied | Outcome::Waiting(_) => Some(GRACE),
        Outcome::Deleting(_) => Some(teardown::LOOK),
        _ => None,
    };
    let now = Instant::now();
    let fights = context.breaker().fights(now);
    let count = fights.as_ref().map_or(0, |(words, _)| u32::try_from(words.len()).unwrap_or(u32::MAX));
    context.metrics.set(metrics::FIGHTS, &[], count.into());
    let fight = fights.map(|(_, look)| look.saturating_duration_since(now));
    match [status, own, fight].into_iter().flatten().min() {
        Some(wait) => Action::requeue(wait.max(Duration::from_millis(10))),
        None => Action::await_change(),
    }
}

/// Makes the mesh as it is wanted, as far as the annotations let it.
async fn bring_about(
    config: &NSMConfig,
    mesh: &Mesh,
    tiers: &[Tier],
    directives: &Directives,
    context: &Context,
) -> Result<Outcome, Error> {
    if directives.paused {
        return Ok(Outcome::Paused);
    }
    if directives.plan_only {
        return Ok(Outcome::Planned(preview(mesh, tiers, context)));
    }
    teardown::mark(config, context).await?;
    let waits_for = make(mesh, tiers, context).await?;
    if let Some((words, _)) = context.breaker().fights(Instant::now()) {
        return Ok(Outcome::NonConverging(words.join("; ")));
    }
    Ok(waits_for.map_or(Outcome::Applied, Outcome::Waiting))
}

/// What would be done.
fn preview(mesh: &Mesh, tiers: &[Tier], context: &Context) -> String {
    let intent = |desired: &Desired| {
        plan::intent(&desired.key, &step(desired, context.known.live(&desired.key).as_ref()))
    };
    let mut intents: Vec<_> =
        in_order(tiers).into_iter().filter_map(|(_, desired)| intent(desired)).collect();
    intents.extend(superfluous(mesh, tiers, context).iter().map(|object| format!("delete {}", object.key)));
    plan::summary(intents)
}

/// What the status says of a result, and the error to try again for.
fn judge(made: Result<Outcome, Error>, failures: u32) -> (Outcome, Option<Error>) {
    match made {
        Ok(outcome) => (outcome, None),
        Err(Error::Override { name, message }) => {
            let words = format!("the overrides of {name} cannot be used: {message}");
            (Outcome::Invalid(words), Some(Error::Override { name, message }))
        }
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
    let mut rehearsed = false;
    for (tier, desired) in in_order(tiers) {
        // By now there is the namespace that a rehearsal needs.
        if desired.key.kind.is_workload()
            && !std::mem::replace(&mut rehearsed, true)
            && let Err(error) = rehearsal::all(mesh, tiers, context).await
        {
            gate.close(tier);
            failure.get_or_insert(error);
        }
        let mut live = context.known.live(&desired.key);
        let todo = step(desired, live.as_ref());
        if gate.allows(&todo) {
            match context.take(&todo, desired, live.as_ref()).await {
                Ok(None) => {}
                Ok(written) => live = written,
                Err(error) => {
                    gate.close(tier);
                    failure.get_or_insert(error.into());
                }
            }
        }
        gate.pass(tier, desired.key.kind, live.as_ref());
    }
    if let Some(error) = failure {
        return Err(error);
    }
    prune(mesh, tiers, context).await?;
    adopt(mesh, context).await?;
    Ok(gate.waits_for())
}

/// All objects, with the names of their tiers.
fn in_order(tiers: &[Tier]) -> Vec<(&'static str, &Desired)> {
    tiers.iter().flat_map(|tier| tier.objects.iter().map(|object| (tier.name, object))).collect()
}

/// Deletes what the mesh no longer consists of, last tiers first.
async fn prune(mesh: &Mesh, tiers: &[Tier], context: &Context) -> Result<(), Error> {
    for object in superfluous(mesh, tiers, context) {
        context.delete(&object, Pods::Later).await?;
    }
    Ok(())
}

/// What the mesh owns, says to be of its apply set, and is not wanted. A watch that is opened again
/// shows its old list until the new one is whole, so nothing is taken for superfluous by mistake.
fn superfluous(mesh: &Mesh, tiers: &[Tier], context: &Context) -> Vec<Owned> {
    let wanted: BTreeSet<&Key> = in_order(tiers).into_iter().map(|(_, object)| &object.key).collect();
    let mut owned = context.known.controlled_by(&mesh.owner.uid);
    owned.retain(|object| object.member && !wanted.contains(&object.key));
    owned.sort_by_key(|object| plan::teardown_order(&object.key));
    owned
}

/// Makes the mesh the owner of the nodes' reports, so that they go with it.
async fn adopt(mesh: &Mesh, context: &Context) -> Result<(), Error> {
    for node in context.known.nodes() {
        if node.owner_references().iter().all(|owner| owner.uid != mesh.owner.uid) {
            context.writer.adopt(&node, Some(&mesh.owner)).await?;
        }
    }
    Ok(())
}

fn observe(tiers: &[Tier], context: &Context) -> Vec<Component> {
    let workload = |object: &&Desired| object.key.kind.is_workload();
    let workloads = tiers.iter().flat_map(|tier| &tier.objects).filter(workload);
    workloads
        .map(|object| Rollout::of(context.known.live(&object.key).as_ref()).component(&object.key))
        .collect()
}

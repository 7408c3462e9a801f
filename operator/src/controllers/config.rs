//! The `NSMConfig`: makes the mesh as it is wanted, tier by tier, and sums up how it fares.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{FutureExt, future::BoxFuture};
use kube::{ResourceExt, runtime::controller::Action};
use nsm_crds::{Component, DesiredNode, NSMConfig, RolloutStatus};
use serde_json::Value;

use super::{
    Context, Error,
    daemons::{self, Daemons},
    object_key, rehearsal,
    report::{self, Delay},
    teardown,
};
use crate::{
    apply::{self, Pods},
    dereference::Owned,
    kept::{Kept, addressed},
    metrics,
    object::{Desired, Key, Kind},
    plan::{self, Gate, Step, step},
    render::{Mesh, Tier},
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
        context.moves().retry();
    }
    let mut components = Vec::new();
    let mut kept = Kept::told(report::last(config, context).as_ref());
    if let Some(mesh) = validate::mesh(config, &context.installation)
        .ok()
        .filter(|_| config.metadata.deletion_timestamp.is_none())
    {
        remember(&mut kept, &context.rendered.of(&mesh)?, context);
    }
    let mut rollout = config.status.as_ref().and_then(|status| status.rollout.clone());
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
            Ok(mut mesh) => {
                kept.tell(&mut mesh);
                let tiers = context.rendered.of(&mesh)?;
                let daemons = Daemons::look(config, &mesh, &tiers, context);
                let made = bring_about(config, &mesh, &tiers, &daemons, &directives, context).await;
                components = observe(&tiers, &daemons, context);
                rollout = daemons.status();
                remember(&mut kept, &tiers, context);
                made
            }
        }
    };
    let (outcome, failure) = judge(made, context.attempts.so_far(&key));
    let outcome = rolling(outcome, rollout.as_ref());
    let written = report::write(config, &components, rollout, kept, &outcome, context).await?;
    if let Some(error) = failure {
        return Err(error);
    }
    context.attempts.succeeded(&key);
    Ok(next_look(&outcome, &written, context))
}

/// What the status says while nodes are moved, unless there is something else to say.
fn rolling(outcome: Outcome, rollout: Option<&RolloutStatus>) -> Outcome {
    match (&outcome, rollout) {
        (Outcome::Applied | Outcome::Waiting(_), Some(rollout)) => daemons::outcome(rollout),
        _ => outcome,
    }
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
        // How long a node takes is no event.
        Outcome::Rolling(_) | Outcome::Halted(_) => Some(Duration::from_secs(1)),
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
    daemons: &Daemons,
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
    let waits_for = make(mesh, tiers, daemons, context).await?;
    let held = prune(mesh, tiers, &daemons.keys(), directives.allow_prune, context).await?;
    adopt(mesh, context).await?;
    if let Some((words, _)) = context.breaker().fights(Instant::now()) {
        return Ok(Outcome::NonConverging(words.join("; ")));
    }
    Ok(match held {
        Some(outcome) => outcome,
        None => waits_for.map_or(Outcome::Applied, Outcome::Waiting),
    })
}

/// What would be done.
fn preview(mesh: &Mesh, tiers: &[Tier], context: &Context) -> String {
    let intent = |desired: &Desired| {
        let live = context.known.live(&desired.key);
        plan::intent(&desired.key, &step(&addressed(desired, mesh, live.as_deref()), live.as_deref()))
    };
    let mut intents: Vec<_> =
        in_order(tiers).into_iter().filter_map(|(_, desired)| intent(desired)).collect();
    intents.extend(
        superfluous(mesh, tiers, &BTreeSet::new(), context)
            .iter()
            .map(|object| format!("delete {}", object.key)),
    );
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
async fn make(
    mesh: &Mesh,
    tiers: &[Tier],
    daemons: &Daemons,
    context: &Context,
) -> Result<Option<&'static str>, Error> {
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
        if desired.key.kind == Kind::DaemonSet {
            if let Err(error) = daemons.tend(desired, &gate, context).await {
                gate.close(tier);
                failure.get_or_insert(error);
            }
            gate.pass_rollout(tier, daemons.state(desired, context));
            continue;
        }
        let mut live = context.known.live(&desired.key);
        let plain = desired;
        let desired = &addressed(plain, mesh, live.as_deref());
        let todo = step(desired, live.as_deref());
        if gate.allows(&todo) {
            match take(&todo, desired, plain, live.as_deref(), context).await {
                Ok(None) => {}
                Ok(written) => live = written,
                Err(error) => {
                    gate.close(tier);
                    failure.get_or_insert(error.into());
                }
            }
        }
        gate.pass(tier, desired.key.kind, live.as_deref());
    }
    // A node that is on its way must not stay there because of something else.
    if let Err(error) = daemons.advance(context).await {
        failure.get_or_insert(error);
    }
    if let Some(error) = failure {
        return Err(error);
    }
    Ok(gate.waits_for())
}

/// Takes one step on one object. A Service whose address is someone else's by now gets another.
async fn take(
    todo: &Step,
    desired: &Desired,
    plain: &Desired,
    live: Option<&Value>,
    context: &Context,
) -> Result<Option<Arc<Value>>, apply::Error> {
    match context.take(todo, desired, live).await {
        Err(apply::Error::Refused { .. }) if desired != plain && *todo == Step::Create => {
            context.take(todo, plain, live).await
        }
        result => result,
    }
}

/// Takes note of what must outlive its object.
fn remember(kept: &mut Kept, tiers: &[Tier], context: &Context) {
    for (_, desired) in in_order(tiers) {
        if matches!(desired.key.kind, Kind::Service | Kind::ServiceAccount) {
            kept.note(desired.key.kind, &desired.key.name, context.known.live(&desired.key).as_deref());
        }
    }
}

/// All objects, with the names of their tiers.
fn in_order(tiers: &[Tier]) -> Vec<(&'static str, &Desired)> {
    tiers.iter().flat_map(|tier| tier.objects.iter().map(|object| (tier.name, object))).collect()
}

/// Deletes what the mesh no longer consists of, last tiers first; unless that is most of it.
async fn prune(
    mesh: &Mesh,
    tiers: &[Tier],
    keep: &BTreeSet<Key>,
    allowed: usize,
    context: &Context,
) -> Result<Option<Outcome>, Error> {
    let superfluous = superfluous(mesh, tiers, keep, context);
    let all = context.known.controlled_by(&mesh.owner.uid).len();
    if !plan::may_prune(superfluous.len(), all, allowed) {
        let words = superfluous.iter().map(|object| object.key.to_string()).collect();
        return Ok(Some(Outcome::PruneHeld(plan::summary(words), superfluous.len())));
    }
    for object in superfluous {
        context.delete(&object, Pods::Later).await?;
    }
    Ok(None)
}

/// What the mesh owns, says to be of its apply set, and is not wanted. A watch that is opened again
/// shows its old list until the new one is whole, so nothing is taken for superfluous by mistake.
fn superfluous(mesh: &Mesh, tiers: &[Tier], keep: &BTreeSet<Key>, context: &Context) -> Vec<Owned> {
    let wanted: BTreeSet<&Key> = in_order(tiers).into_iter().map(|(_, object)| &object.key).collect();
    let mut owned = context.known.controlled_by(&mesh.owner.uid);
    owned.retain(|object| object.member && !wanted.contains(&object.key) && !keep.contains(&object.key));
    owned.sort_by_cached_key(|object| (plan::teardown_order(&object.key), object.key.clone()));
    owned
}

/// Makes the mesh the owner of the nodes' reports, so that they go with it.
async fn adopt(mesh: &Mesh, context: &Context) -> Result<(), Error> {
    for node in context.known.nodes() {
        if node.owner_references().iter().all(|owner| owner.uid != mesh.owner.uid) {
            // Of a mesh that was just removed: this one wants its connections.
            if !node.owner_references().is_empty() && node.spec.spec.desired == DesiredNode::Drained {
                context.writer.want(&node, DesiredNode::Serving).await?;
            }
            context.writer.adopt(&node, Some(&mesh.owner)).await?;
        }
    }
    Ok(())
}

fn observe(tiers: &[Tier], daemons: &Daemons, context: &Context) -> Vec<Component> {
    let workload = |object: &&Desired| object.key.kind.is_workload();
    let workloads = tiers.iter().flat_map(|tier| &tier.objects).filter(workload);
    let rollout = |object: &Desired| {
        let newest = Rollout::of(context.known.live(&object.key).as_deref());
        match object.key.kind {
            Kind::DaemonSet => Rollout { updated: newest.updated, ..daemons.state(object, context) },
            _ => newest,
        }
    };
    workloads.map(|object| rollout(object).component(&object.key)).collect()
}

//! The node daemons: their DaemonSets, one a revision, and the nodes that are moved from one to the next.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use nsm_crds::{NSMConfig, RolloutStatus};
use serde_json::{Value, json};
use tracing::{info, warn};

mod present;

use self::present::{Present, marks, may_begin, named, of, pods, present, wanted};
use super::{Context, Error};
use crate::{
    apply::{self, Pods},
    metrics,
    object::{Desired, Key, Kind, digest},
    plan::{Gate, Step, step},
    render::{self, Mesh, Tier},
    rollout::{self, Action, Daemon, Mark, Node, Plan, View},
    status::{Outcome, Rollout},
};

/// How long an own label counts more than a watch that has not delivered it.
const TRUST: Duration = Duration::from_secs(5);

/// What is remembered of nodes between two looks. All of it may be lost.
#[derive(Debug, Default)]
pub(super) struct Moves {
    nodes: BTreeMap<String, Seen>,
    looked: bool,
    failed: Option<Failure>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Failure {
    target: String,
    node: String,
}

#[derive(Debug)]
struct Seen {
    mark: Mark,
    /// Nothing, if it was so before this operator looked.
    since: Option<Instant>,
    wrote: bool,
    expects: Option<BTreeSet<String>>,
    proven: bool,
}

/// The node daemons as they are, and what is to be done.
pub(super) struct Daemons {
    present: Vec<Present>,
    target: String,
    view: View,
    plan: Plan,
}

impl Moves {
    /// Lets a revision that failed be tried once more.
    pub(super) fn retry(&mut self) {
        self.failed = None;
    }

    /// Takes note of the labels as the watch knows them.
    fn observe(&mut self, marks: &BTreeMap<String, Mark>) {
        self.nodes.retain(|name, _| marks.contains_key(name));
        for (name, mark) in marks {
            let fresh = || Seen { mark: *mark, since: None, wrote: false, expects: None, proven: false };
            let seen = self.nodes.entry(name.clone()).or_insert_with(fresh);
            let trusted = seen.wrote && seen.since.is_some_and(|since| since.elapsed() < TRUST);
            if seen.mark == *mark {
                seen.wrote = false;
            } else if !trusted {
                *seen = Seen { since: Some(Instant::now()), ..fresh() };
            }
            // What this operator has not seen done it gives as much time as if it had just begun.
            if seen.since.is_none() && *mark != Mark::None {
                seen.since = Some(Instant::now());
            }
        }
    }

    fn moved(&mut self, node: &str, mark: Mark, ran: BTreeSet<String>) {
        let Some(seen) = self.nodes.get_mut(node) else { return };
        let expects = if mark == Mark::Draining { Some(ran) } else { seen.expects.take() };
        *seen = Seen { mark, since: Some(Instant::now()), wrote: true, expects, proven: false };
    }

    fn nodes(&self) -> Vec<Node> {
        let node = |(name, seen): (&String, &Seen)| Node {
            name: name.clone(),
            mark: seen.mark,
            since: seen.since.map_or(Duration::MAX, |since| since.elapsed()),
            expects: seen.expects.clone(),
            proven: seen.proven,
        };
        self.nodes.iter().map(node).collect()
    }
}

impl Daemons {
    /// Looks at what is there.
    pub(super) fn look(config: &NSMConfig, mesh: &Mesh, tiers: &[Tier], context: &Context) -> Self {
        let wanted: Vec<(String, String, &Desired)> = wanted(tiers).collect();
        let present = present(mesh, &wanted, context);
        let target = digest(&json!(wanted.iter().map(|(_, revision, _)| revision).collect::<Vec<_>>()));
        let daemons = wanted.iter().map(|(name, revision, _)| Daemon {
            name: name.clone(),
            target: revision.clone(),
            sets: present.iter().filter(|one| one.daemon == *name).map(|one| one.set.clone()).collect(),
        });
        let mut moves = context.moves();
        moves.observe(&marks(context));
        if !std::mem::replace(&mut moves.looked, true) {
            let told = config.status.as_ref().and_then(|status| status.rollout.as_ref());
            let failure = |told: &RolloutStatus| {
                Some(Failure { target: told.revision.clone(), node: told.failed_node.clone()? })
            };
            moves.failed = told.and_then(failure);
        }
        if moves.failed.as_ref().is_some_and(|failed| failed.target != target) {
            moves.failed = None;
        }
        let view = View {
            daemons: daemons.collect(),
            nodes: moves.nodes(),
            pods: pods(mesh, context),
            may_begin: may_begin(tiers, &present, context),
            failed: moves.failed.as_ref().map(|failed| failed.node.clone()),
            limit: context.node_timeout,
        };
        drop(moves);
        let plan = rollout::plan(&view);
        Self { present, target, view, plan }
    }

    /// DaemonSets that are still needed.
    pub(super) fn keys(&self) -> BTreeSet<Key> {
        self.present.iter().map(|one| one.object.key.clone()).collect()
    }

    /// How far the daemon of this DaemonSet is, over all its revisions.
    pub(super) fn state(&self, desired: &Desired, context: &Context) -> Rollout {
        let (name, _) = of(&desired.body).unwrap_or_default();
        let live = |one: &Present| Rollout::of(context.known.live(&one.object.key).as_deref());
        let mut parts: Vec<_> = self.present.iter().filter(|one| one.daemon == name).map(live).collect();
        if self.present.iter().all(|one| one.object.key != desired.key) {
            parts.extend(context.known.live(&desired.key).map(|live| Rollout::of(Some(&*live))));
        }
        Rollout::sum(parts)
    }

    /// Makes the wanted DaemonSet as it is wanted now, if its turn has come.
    pub(super) async fn tend(&self, desired: &Desired, gate: &Gate, context: &Context) -> Result<(), Error> {
        let (name, revision) = of(&desired.body).unwrap_or_default();
        let first = self.present.iter().all(|one| one.daemon != name);
        let Some(placement) = self.plan.placements.get(&(name, revision)) else { return Ok(()) };
        let desired = render::placed(desired, *placement);
        let live = context.known.live(&desired.key);
        match step(&desired, live.as_deref()) {
            Step::Nothing => {
                if let Some(one) = self.present.iter().find(|one| one.object.key == desired.key) {
                    place(one, *placement, context).await?;
                }
            }
            Step::Create if first && !gate.allows(&Step::Create) => {}
            // Another revision is no repair.
            Step::Create if !first => drop(context.write(&Step::Create, &desired).await?),
            step => drop(context.take(&step, &desired, live.as_deref()).await?),
        }
        Ok(())
    }

    /// Places what is not wanted any more, and takes the next step with the nodes.
    pub(super) async fn advance(&self, context: &Context) -> Result<(), Error> {
        for one in &self.present {
            let wanted = self.plan.placements.get(&(one.daemon.clone(), one.set.revision.clone()));
            let target =
                self.view.daemons.iter().any(|d| d.name == one.daemon && d.target == one.set.revision);
            if let Some(placement) = wanted.filter(|_| !target) {
                place(one, *placement, context).await?;
            }
        }
        for action in &self.plan.actions {
            self.act(action, context).await?;
        }
        let mut moves = context.moves();
        for name in &self.plan.proven {
            if let Some(seen) = moves.nodes.get_mut(name) {
                seen.proven = true;
            }
        }
        if let Some(node) = &self.plan.failed {
            warn!(node, revision = self.target, "a revision does not get ready and is taken back");
            moves.failed = Some(Failure { target: self.target.clone(), node: node.clone() });
        }
        Ok(())
    }

    async fn act(&self, action: &Action, context: &Context) -> Result<(), apply::Error> {
        match action {
            Action::Mark(node, mark) => {
                context.writer.mark_node(node, mark.label()).await?;
                context.metrics.count(metrics::WRITES, &[("kind", "Node"), ("reason", "rollout")]);
                info!(node, label = mark.label(), revision = self.target, "moved a node");
                let there = self.view.pods.iter().filter(|pod| pod.node.as_ref() == Some(node));
                context.moves().moved(node, *mark, there.map(|pod| pod.daemon.clone()).collect());
            }
            Action::Delete(daemon, revision) => {
                let mut sets = self.present.iter();
                let found = sets.find(|one| one.daemon == *daemon && one.set.revision == *revision);
                if let Some(one) = found {
                    context.delete(&one.object, Pods::Later).await?;
                }
            }
        }
        Ok(())
    }

    /// What the status tells while nodes are moved.
    pub(super) fn status(&self) -> Option<RolloutStatus> {
        let progress = self.plan.progress.as_ref()?;
        let count = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
        Some(RolloutStatus {
            revision: self.target.clone(),
            nodes: count(progress.nodes),
            done: count(progress.done),
            message: progress.doing.clone(),
            failed_node: self.plan.failed.clone().or_else(|| self.view.failed.clone()),
        })
    }
}

/// How it goes, in words.
pub(super) fn outcome(rollout: &RolloutStatus) -> Outcome {
    let RolloutStatus { revision, nodes, done, message, failed_node } = rollout;
    match failed_node {
        Some(node) => Outcome::Halted(node.clone()),
        None => Outcome::Rolling(format!("revision {revision} runs on {done} of {nodes} nodes: {message}")),
    }
}

/// Takes the labels off all nodes.
pub(super) async fn unmark(context: &Context) -> Result<(), apply::Error> {
    for (node, mark) in marks(context) {
        if mark != Mark::None {
            context.writer.mark_node(&node, None).await?;
        }
    }
    Ok(())
}

/// What is left to do for the forwarders. They come last: once they are as wanted, so is all that
/// an endpoint needs.
pub(super) fn forwarders(mesh: &Mesh, context: &Context) -> Result<Step, Error> {
    let objects = render::forwarders(mesh)?;
    let wanted: Vec<_> = objects.iter().filter_map(|desired| named(desired)).collect();
    let present = present(mesh, &wanted, context);
    let mut steps = wanted.iter().map(|(name, revision, _)| {
        let mut mine =
            present.iter().filter(|one| one.daemon == *name).map(|one| one.set.revision == *revision);
        match (mine.next(), mine.next()) {
            (None, _) => Step::Create,
            (Some(true), None) => Step::Nothing,
            _ => Step::Change,
        }
    });
    let all: Vec<_> = steps.by_ref().collect();
    let worst = [Step::Create, Step::Change].into_iter().find(|step| all.contains(step));
    Ok(worst.unwrap_or(Step::Nothing))
}

async fn place(one: &Present, placement: render::Placement, context: &Context) -> Result<(), apply::Error> {
    if one.set.placement == Some(placement) {
        return Ok(());
    }
    let now = one.live.pointer("/spec/template/spec/affinity").unwrap_or(&Value::Null);
    let patch = render::merge_patch(now, &render::affinity(&one.live, placement));
    let written = context.writer.place(&one.object.key, &one.object.uid, patch).await?;
    context.metrics.count(metrics::WRITES, &[("kind", Kind::DaemonSet.name()), ("reason", "rollout")]);
    info!(object = %one.object.key, ?placement, "placed a revision");
    context.known.wrote(&one.object.key, &written);
    Ok(())
}

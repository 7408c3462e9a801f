//! Moving nodes while there are two revisions.

use std::collections::BTreeSet;

use super::{Action, Daemon, Mark, Node, Plan, SETTLE, STUCK, View, begin};

/// Which of two revisions.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Old,
    New,
}

/// The next step of the walk.
pub(super) fn step(view: &View, plan: &mut Plan) {
    // What is wanted of others joins before the first node moves, and has to wait after that.
    let joining = !view.marked() && begin(view, plan);
    let walk = Walk { view, daemons: view.daemons.iter().filter(|daemon| daemon.sets.len() > 1).collect() };
    if joining || !walk.is_placed(plan) {
        plan.doing(view, "the new revision is made");
        return;
    }
    match &view.failed {
        _ if !walk.is_forward() => walk.back(plan),
        Some(node) => walk.halt(node, plan),
        None => walk.forward(plan),
    }
}

struct Walk<'a> {
    view: &'a View,
    daemons: Vec<&'a Daemon>,
}

impl Walk<'_> {
    fn is_placed(&self, plan: &Plan) -> bool {
        self.daemons.iter().all(|daemon| {
            daemon.sets.iter().all(|set| {
                let wanted = plan.placements.get(&(daemon.name.clone(), set.revision.clone()));
                wanted.is_some_and(|wanted| set.is(*wanted))
            })
        })
    }

    /// Whether the newest is what is wanted.
    fn is_forward(&self) -> bool {
        self.daemons.iter().all(|daemon| daemon.sets.last().is_some_and(|set| set.revision == daemon.target))
    }

    fn forward(&self, plan: &mut Plan) {
        if self.drain(Mark::New, plan) {
            return;
        }
        for node in self.marked(Mark::New).filter(|node| !node.proven) {
            if self.is_ready(node, Side::New) {
                plan.proven.push(node.name.clone());
            } else if node.since >= self.view.limit {
                plan.failed = Some(node.name.clone());
                plan.doing(self.view, format!("the daemons of node {} do not get ready", node.name));
                return;
            } else {
                plan.doing(self.view, format!("waits for the daemons of node {}", node.name));
                return;
            }
        }
        let mut rest: Vec<&Node> =
            self.view.nodes.iter().filter(|node| matches!(node.mark, Mark::None | Mark::Handover)).collect();
        // A node that is broken holds up none that is not.
        rest.sort_by_key(|node| (!self.is_sound(node), node.name.as_str()));
        if let Some(next) = rest.first() {
            self.take(&next.name, Mark::Draining, plan);
        } else if let Some(stuck) = self.marked(Mark::Draining).next() {
            plan.doing(self.view, format!("waits for the end of the old daemons of node {}", stuck.name));
        } else {
            plan.doing(self.view, "the old revision is deleted");
            self.delete(Side::Old, plan);
        }
    }

    /// Leads all nodes back to the old revision.
    fn back(&self, plan: &mut Plan) {
        if self.drain(Mark::None, plan) {
            return;
        }
        let waits = |node: &&Node| node.since < self.view.limit && !self.is_ready(node, Side::Old);
        if let Some(node) = self.marked(Mark::None).find(waits) {
            plan.doing(self.view, format!("waits for the daemons of node {}", node.name));
            return;
        }
        if let Some(node) = self.marked(Mark::Handover).next() {
            self.take(&node.name, Mark::None, plan);
        } else if let Some(node) = self.marked(Mark::New).next() {
            self.take(&node.name, Mark::Draining, plan);
        } else if let Some(stuck) = self.marked(Mark::Draining).next() {
            plan.doing(self.view, format!("waits for the end of the daemons of node {}", stuck.name));
        } else {
            plan.doing(self.view, "what is no longer wanted is deleted");
            self.delete(Side::New, plan);
        }
    }

    /// Leads the one node back where the new revision failed, and leaves all others as they are.
    fn halt(&self, failed: &str, plan: &mut Plan) {
        if !self.drain(Mark::None, plan)
            && self.marked(Mark::New).any(|node| node.name == failed && !node.proven)
        {
            self.take(failed, Mark::Draining, plan);
        }
        plan.doing(self.view, format!("stopped at node {failed}"));
    }

    /// Moves on nodes whose pods have ended; whether others have to wait for one.
    fn drain(&self, to: Mark, plan: &mut Plan) -> bool {
        let mut busy = false;
        for node in self.marked(Mark::Draining) {
            if self.pods_on(&node.name).next().is_none() {
                self.take(&node.name, to, plan);
                busy = true;
            } else if node.since < STUCK {
                plan.doing(self.view, format!("waits for the end of the daemons of node {}", node.name));
                busy = true;
            }
        }
        busy
    }

    fn take(&self, node: &str, mark: Mark, plan: &mut Plan) {
        plan.doing(self.view, format!("moves node {node}"));
        plan.actions.push(Action::Mark(node.to_owned(), mark));
    }

    fn delete(&self, side: Side, plan: &mut Plan) {
        for daemon in &self.daemons {
            for (index, set) in daemon.sets.iter().enumerate() {
                // What is wanted is the newest if the walk was forward, and no other than the oldest if not.
                let newest = index + 1 == daemon.sets.len();
                if (side == Side::Old && !newest) || (side == Side::New && index > 0) {
                    plan.actions.push(Action::Delete(daemon.name.clone(), set.revision.clone()));
                }
            }
        }
    }

    fn marked(&self, mark: Mark) -> impl Iterator<Item = &Node> {
        self.view.nodes.iter().filter(move |node| node.mark == mark)
    }

    /// Pods of what is being moved, by daemon, whether of the oldest revision, and whether ready.
    fn pods_on(&self, node: &str) -> impl Iterator<Item = (&str, Side, bool)> {
        let on = move |place: &Option<String>| place.as_deref() == Some(node);
        self.pods()
            .filter(move |(_, _, place, _)| on(place))
            .map(|(name, side, _, ready)| (name, side, ready))
    }

    fn pods(&self) -> impl Iterator<Item = (&str, Side, &Option<String>, bool)> {
        self.view.pods.iter().filter_map(|pod| {
            let daemon = self.daemons.iter().find(|daemon| daemon.name == pod.daemon)?;
            let old = daemon.sets.first().is_some_and(|set| set.revision == pod.revision);
            Some((pod.daemon.as_str(), if old { Side::Old } else { Side::New }, &pod.node, pod.ready))
        })
    }

    fn is_sound(&self, node: &Node) -> bool {
        self.pods_on(&node.name).all(|(_, _, ready)| ready)
    }

    /// Whether all that runs on a node does, as far as can be told.
    fn is_ready(&self, node: &Node, side: Side) -> bool {
        let mine: Vec<_> = self.pods_on(&node.name).collect();
        if mine.iter().any(|(_, of, ready)| *of != side || !ready) {
            return false;
        }
        let there: BTreeSet<&str> = mine.iter().map(|(name, ..)| *name).collect();
        let expected = |name: &str| node.expects.as_ref().is_none_or(|expects| expects.contains(name));
        let all =
            self.daemons.iter().all(|daemon| !expected(&daemon.name) || there.contains(daemon.name.as_str()));
        // Not every daemon runs on every node, and whether it should is the scheduler's to know.
        all || (node.since >= SETTLE && self.pods().all(|(_, of, place, _)| of != side || place.is_some()))
    }
}

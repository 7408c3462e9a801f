//! Which revision of the node daemons runs where, and the next step towards the wanted one. No effects, and
//! no clock of its own.
//!
//! Of a daemon there is one DaemonSet at rest. When another revision is wanted, a second one is made beside
//! it, and nodes are moved one at a time by their label: `draining` until the old pods have ended, `new`
//! until the new ones are ready, then the next. So a node is without its daemons for as long as they take
//! to stop and start, and never has two of a kind. A revision that does not get ready is taken back from the
//! node where it failed, and goes no further. Who wants yet another revision meanwhile gets it after the
//! nodes have been led back: the same walk, the other way.
//!
//! Everything is decided from what is there, so that any operator goes on where another one stopped.

mod walk;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::render::Placement;

/// How long a node may have no pod of a daemon before it is taken not to run there at all.
pub const SETTLE: Duration = Duration::from_secs(10);

/// How long the daemons of a node may take to get ready, unless it is set otherwise.
pub const LIMIT: Duration = Duration::from_mins(2);

/// How long other nodes wait for one whose old pods do not end.
pub const STUCK: Duration = Duration::from_mins(1);

/// The label of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mark {
    /// The old revision runs.
    #[default]
    None,
    /// Both run.
    Handover,
    /// Neither does.
    Draining,
    /// The new one does.
    New,
}

impl Mark {
    /// Reads a label; what nobody can know leaves the old revision where it is, as `handover` does.
    pub fn of(label: Option<&str>) -> Self {
        match label {
            None => Self::None,
            Some("draining") => Self::Draining,
            Some("new") => Self::New,
            Some(_) => Self::Handover,
        }
    }

    /// The label.
    pub fn label(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Handover => Some("handover"),
            Self::Draining => Some("draining"),
            Self::New => Some("new"),
        }
    }
}

/// What there is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// All node daemons that are wanted.
    pub daemons: Vec<Daemon>,
    /// All nodes.
    pub nodes: Vec<Node>,
    /// All pods of node daemons.
    pub pods: Vec<Pod>,
    /// Whether all that goes before the nodes is as wanted.
    pub may_begin: bool,
    /// The node where the wanted revision did not get ready.
    pub failed: Option<String>,
    /// How long the daemons of a node may take to get ready.
    pub limit: Duration,
}

/// A node daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Daemon {
    /// Its name.
    pub name: String,
    /// The wanted revision.
    pub target: String,
    /// Its DaemonSets, oldest first.
    pub sets: Vec<Set>,
}

/// A DaemonSet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// Its revision.
    pub revision: String,
    /// How it is placed.
    pub placement: Option<Placement>,
    /// Whether its controller has seen that.
    pub observed: bool,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its label.
    pub mark: Mark,
    /// For how long it has had that.
    pub since: Duration,
    /// The daemons that ran there before, if that is known.
    pub expects: Option<BTreeSet<String>>,
    /// Its new daemons were ready once.
    pub proven: bool,
}

/// A pod of a node daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// The daemon.
    pub daemon: String,
    /// Its revision.
    pub revision: String,
    /// Where it is.
    pub node: Option<String>,
    /// Whether it is ready.
    pub ready: bool,
}

/// Something to do once all DaemonSets are placed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Give a node its label.
    Mark(String, Mark),
    /// Delete the DaemonSet of a daemon and a revision.
    Delete(String, String),
}

/// What is to be done now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// DaemonSets by daemon and revision: how each is to be placed, made if it is missing.
    pub placements: BTreeMap<(String, String), Placement>,
    /// What to do then.
    pub actions: Vec<Action>,
    /// Nodes whose new daemons are ready.
    pub proven: Vec<String>,
    /// The node where the new revision does not get ready.
    pub failed: Option<String>,
    /// How far it is, while it lasts.
    pub progress: Option<Progress>,
}

/// How far a rollout is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Nodes with the wanted revision.
    pub done: usize,
    /// All nodes.
    pub nodes: usize,
    /// What it waits for.
    pub doing: String,
}

impl View {
    fn marked(&self) -> bool {
        self.nodes.iter().any(|node| node.mark != Mark::None)
    }

    /// Daemons of which another revision is wanted and not there yet.
    fn pending(&self) -> impl Iterator<Item = &Daemon> {
        self.daemons
            .iter()
            .filter(|daemon| daemon.sets.len() == 1 && daemon.sets[0].revision != daemon.target)
    }
}

impl Set {
    fn is(&self, placement: Placement) -> bool {
        self.placement == Some(placement) && self.observed
    }
}

impl Plan {
    fn place(&mut self, daemon: &Daemon, revision: &str, placement: Placement) {
        self.placements.insert((daemon.name.clone(), revision.to_owned()), placement);
    }

    fn doing(&mut self, view: &View, doing: impl Into<String>) {
        let done = view.nodes.iter().filter(|node| node.mark == Mark::New).count();
        self.progress = Some(Progress { done, nodes: view.nodes.len(), doing: doing.into() });
    }
}

/// The next step.
pub fn plan(view: &View) -> Plan {
    let mut plan = Plan::default();
    for daemon in &view.daemons {
        match daemon.sets.as_slice() {
            [] => plan.place(daemon, &daemon.target, Placement::Everywhere),
            [only] => plan.place(daemon, &only.revision, Placement::Everywhere),
            [old, new @ ..] => {
                plan.place(daemon, &old.revision, Placement::Old);
                for set in new {
                    plan.place(daemon, &set.revision, Placement::New);
                }
            }
        }
    }
    if view.daemons.iter().any(|daemon| daemon.sets.len() > 1) {
        walk::step(view, &mut plan);
    } else if view.marked() {
        unmark(view, &mut plan);
    } else {
        begin(view, &mut plan);
    }
    plan
}

/// Takes the labels off, once they mean nothing any more.
fn unmark(view: &View, plan: &mut Plan) {
    plan.doing(view, "the labels of the nodes are taken off");
    let everywhere = |daemon: &Daemon| daemon.sets.iter().all(|set| set.is(Placement::Everywhere));
    if view.daemons.iter().all(everywhere) {
        let marked = view.nodes.iter().filter(|node| node.mark != Mark::None);
        plan.actions = marked.map(|node| Action::Mark(node.name.clone(), Mark::None)).collect();
    }
}

/// Makes the new revisions, once the old ones would give way; whether any are still to be made.
fn begin(view: &View, plan: &mut Plan) -> bool {
    let pending: Vec<&Daemon> = view.pending().collect();
    if pending.is_empty() {
        return false;
    }
    if !view.may_begin || view.failed.is_some() {
        plan.doing(view, "the nodes wait for what goes before them");
        for daemon in pending.iter().filter(|daemon| daemon.sets[0].placement == Some(Placement::Old)) {
            plan.place(daemon, &daemon.sets[0].revision, Placement::Old);
        }
        return false;
    }
    plan.doing(view, "the new revision is made");
    let ready = pending.iter().all(|daemon| daemon.sets[0].is(Placement::Old));
    for daemon in pending {
        plan.place(daemon, &daemon.sets[0].revision, Placement::Old);
        if ready {
            plan.place(daemon, &daemon.target, Placement::New);
        }
    }
    true
}

#[cfg(test)]
mod tests;

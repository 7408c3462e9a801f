//! What has to be done about one object, and whether its turn has come. No effects.
//!
//! * An object that is missing is made when everything before it *serves*.
//! * An object that is wanted differently than before is changed when everything before it is
//!   *complete*: a new release goes tier by tier.
//! * An object that someone edited is put back at once, whatever its neighbours do. The hash that
//!   was noted at the last write tells the two apart.

use serde_json::Value;

use crate::{
    compare::{self, Difference},
    names,
    object::{Desired, Key, Kind, revision},
    status::Rollout,
};

/// What has to be done about an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// It is as wanted.
    Nothing,
    /// It is missing.
    Create,
    /// Something else is wanted than at the last write.
    Change,
    /// It is not what was written.
    PutBack(Difference),
}

impl Step {
    /// What is wrong with the object, and who else writes it, for people.
    pub fn words(&self, key: &Key, live: Option<&Value>) -> String {
        let Self::PutBack(difference) = self else { return format!("{key} is deleted") };
        let others = match (difference.path(), live) {
            (Some(path), Some(live)) => compare::others(live, path, names::MANAGER),
            _ => Vec::new(),
        };
        if others.is_empty() {
            format!("{key}: {difference}")
        } else {
            format!("{key}: {difference}; it belongs to {}", others.join(", "))
        }
    }

    /// Whether it undoes what someone else did.
    pub fn is_repair(&self) -> bool {
        matches!(self, Self::Create | Self::PutBack(_))
    }

    /// The word for logs.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Nothing => "in sync",
            Self::Create => "create",
            Self::Change => "change",
            Self::PutBack(_) => "put back",
        }
    }
}

/// Compares what is wanted with what is there.
pub fn step(desired: &Desired, live: Option<&Value>) -> Step {
    let Some(live) = live else { return Step::Create };
    match compare::in_sync(&desired.body, live, names::MANAGER) {
        Ok(()) => Step::Nothing,
        Err(difference) if revision(live) == desired.revision() => Step::PutBack(difference),
        Err(_) => Step::Change,
    }
}

/// What the tiers before allow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gate {
    no_create: Option<&'static str>,
    no_change: Option<&'static str>,
}

impl Gate {
    /// Whether the step may be taken now.
    pub fn allows(&self, step: &Step) -> bool {
        match step {
            Step::Nothing => false,
            Step::Create => self.no_create.is_none(),
            Step::Change => self.no_change.is_none(),
            Step::PutBack(_) => true,
        }
    }

    /// The tier that others wait for, if any.
    pub fn waits_for(&self) -> Option<&'static str> {
        self.no_create.or(self.no_change)
    }

    /// Lets nothing new begin after this tier.
    pub fn close(&mut self, tier: &'static str) {
        self.no_create.get_or_insert(tier);
        self.no_change.get_or_insert(tier);
    }

    /// Takes into account an object of a tier, after what was to be done about it was done.
    pub fn pass(&mut self, tier: &'static str, kind: Kind, live: Option<&Value>) {
        if kind.is_workload() {
            return self.pass_rollout(tier, Rollout::of(live));
        }
        self.note(tier, live.is_some(), live.is_some());
    }

    /// Takes into account how far a workload of a tier is.
    pub fn pass_rollout(&mut self, tier: &'static str, rollout: Rollout) {
        self.note(tier, rollout.serves(), rollout.complete());
    }

    fn note(&mut self, tier: &'static str, serves: bool, complete: bool) {
        if !serves {
            self.no_create.get_or_insert(tier);
        }
        if !complete {
            self.no_change.get_or_insert(tier);
        }
    }
}

/// When an object goes as a mesh is removed: those that serve others after these, and the right to
/// remove the rest last but for the namespace.
pub fn teardown_order(key: &Key) -> usize {
    let workloads = names::component::ALL.len();
    let component = names::component::ALL.iter().rev().position(|name| *name == key.component());
    match key.kind {
        Kind::Deployment | Kind::DaemonSet => component.unwrap_or(0),
        Kind::RoleBinding if key.name == names::role::OPERANDS => workloads + 1,
        Kind::Namespace => workloads + 2,
        _ => workloads,
    }
}

/// Whether so many objects of all that a mesh has may be deleted at once: half of them, or as many as
/// someone has looked at and allowed. More than that is likelier a mistake than a wish.
pub fn may_prune(superfluous: usize, all: usize, allowed: usize) -> bool {
    superfluous * 2 <= all || superfluous <= allowed
}

/// What would be done about an object, for people.
pub fn intent(key: &Key, step: &Step) -> Option<String> {
    match step {
        Step::Nothing => None,
        Step::PutBack(difference) => Some(format!("put back {key} ({difference})")),
        Step::Create | Step::Change => Some(format!("{} {key}", step.word())),
    }
}

/// Many intents in one text; empty if there are none.
pub fn summary(mut intents: Vec<String>) -> String {
    const MOST: usize = 12;
    let more = intents.len().saturating_sub(MOST);
    intents.truncate(MOST);
    if more > 0 {
        intents.push(format!("{more} more"));
    }
    intents.join(", ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn desired(image: &str) -> Desired {
        let object = json!({"metadata": {"name": "a"}, "spec": {"image": image}});
        Desired::new(Kind::DaemonSet, &object).expect("a value is JSON")
    }

    /// What the API server has after an apply of the given object.
    fn written(desired: &Desired) -> Value {
        let mut live = desired.body.clone();
        live["metadata"]["managedFields"] = json!([{
            "manager": names::MANAGER, "operation": "Apply", "fieldsV1": {
                "f:metadata": {"f:annotations": {format!("f:{}", names::REVISION): {}}},
                "f:spec": {"f:image": {}},
            }
        }]);
        live
    }

    #[test]
    fn an_edit_is_told_from_a_change_of_what_is_wanted() {
        let one = desired("one");
        assert_eq!(step(&one, None), Step::Create);
        assert_eq!(step(&one, Some(&written(&one))), Step::Nothing);
        assert_eq!(step(&desired("two"), Some(&written(&one))), Step::Change);
        let mut edited = written(&one);
        edited["spec"]["image"] = json!("evil");
        assert!(matches!(step(&one, Some(&edited)), Step::PutBack(_)));
    }

    #[test]
    fn more_than_half_of_a_mesh_is_not_deleted_at_once_unless_someone_says_how_many() {
        for (superfluous, all, allowed, may) in
            [(0, 0, 0, true), (10, 20, 0, true), (11, 20, 0, false), (11, 20, 11, true), (12, 20, 11, false)]
        {
            assert_eq!(
                may_prune(superfluous, all, allowed),
                may,
                "{superfluous} of {all}, {allowed} allowed"
            );
        }
    }

    #[test]
    fn one_broken_node_holds_back_changes_but_nothing_that_is_missing() {
        let live = |ready: i32| {
            json!({"metadata": {"generation": 1}, "status": {
                "observedGeneration": 1, "desiredNumberScheduled": 2, "currentNumberScheduled": 2,
                "updatedNumberScheduled": 2, "numberReady": ready}})
        };
        let put_back = Step::PutBack(Difference::NeverApplied);
        let mut gate = Gate::default();
        gate.pass("managers", Kind::DaemonSet, Some(&live(2)));
        assert!(gate.allows(&Step::Create) && gate.allows(&Step::Change) && gate.waits_for().is_none());
        gate.pass("managers", Kind::DaemonSet, Some(&live(1)));
        assert!(gate.allows(&Step::Create) && !gate.allows(&Step::Change));
        gate.pass("forwarders", Kind::DaemonSet, Some(&live(0)));
        assert!(!gate.allows(&Step::Create) && gate.allows(&put_back));
        assert_eq!(gate.waits_for(), Some("forwarders"));
    }
}

//! Status of the `NSMConfig`.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use nsm_crds::{
    CONDITION_PROTECTED, CONDITION_READY, CONDITION_RECONCILING, CONDITION_STALLED, Component, ConfigReason,
    MeshConnections, NSMConfigStatus, RolloutStatus,
};

use super::conditions::{Verdict, conditions};
use crate::{kept::Kept, names};

/// How long components may take before the message asks for help.
pub const GRACE: Duration = Duration::from_mins(2);

/// How the last attempt to make the mesh as it is wanted ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The settings cannot be used.
    Invalid(String),
    /// The API server refused.
    Failed(String),
    /// The API server is none that is supported.
    Unsupported(String),
    /// The rest waits for this tier.
    Waiting(&'static str),
    /// Everything is as wanted.
    Applied,
    /// What is superfluous is so much that it is not deleted: what, and how many.
    PruneHeld(String, usize),
    /// Nodes are moved to another revision: how far that is.
    Rolling(String),
    /// Another revision did not get ready on this node.
    Halted(String),
    /// Someone undoes what is written: which fields, and who.
    NonConverging(String),
    /// Nothing is written, as an annotation asks.
    Paused,
    /// What would be written; nothing is, as an annotation asks.
    Planned(String),
    /// The mesh is to be removed once it has no connections; it has so many.
    WaitingForIdle(i64),
    /// The mesh is being removed, and what that waits for.
    Deleting(String),
}

/// What the status is made from.
#[derive(Clone, Debug)]
pub struct ConfigInput<'a> {
    /// The status before.
    pub old: Option<&'a NSMConfigStatus>,
    /// Generation of the spec that was read.
    pub generation: Option<i64>,
    /// Namespace of the mesh, for commands in messages.
    pub namespace: &'a str,
    /// How it went.
    pub outcome: &'a Outcome,
    /// All workloads, in the order in which they start.
    pub components: &'a [Component],
    /// How far nodes are moved to another revision, while they are.
    pub rollout: Option<RolloutStatus>,
    /// What of objects must outlive them.
    pub kept: Kept,
    /// Sum over all nodes.
    pub connections: MeshConnections,
    /// Admission policies that are not in force.
    pub unprotected: &'a [String],
    /// Now.
    pub now: Timestamp,
}

/// The status to be.
pub fn config(input: ConfigInput<'_>) -> NSMConfigStatus {
    let old = input.old.map(|old| old.conditions.as_slice()).unwrap_or_default();
    NSMConfigStatus {
        observed_generation: input.generation,
        conditions: conditions(
            old,
            vec![ready(&input), reconciling(&input), stalled(&input), protected(&input)],
            input.generation,
            input.now,
        ),
        components: input.components.to_vec(),
        rollout: input.rollout,
        services: input.kept.services,
        service_accounts: input.kept.accounts,
        connections: input.connections,
        version: env!("CARGO_PKG_VERSION").into(),
    }
}

fn ready(input: &ConfigInput<'_>) -> Verdict {
    let no = |reason, message: String| Verdict::new(CONDITION_READY, false, reason, message);
    match input.outcome {
        Outcome::Invalid(message) => no(ConfigReason::InvalidConfig, message.clone()),
        Outcome::Failed(message) => no(ConfigReason::ApplyFailed, message.clone()),
        Outcome::Unsupported(message) => no(ConfigReason::UnsupportedServer, message.clone()),
        Outcome::NonConverging(words) => no(ConfigReason::NonConverging, undone(words)),
        Outcome::Rolling(progress) => no(ConfigReason::Progressing, progress.clone()),
        Outcome::Halted(node) => no(ConfigReason::RolloutHalted, halted(node, input.namespace)),
        Outcome::WaitingForIdle(count) => no(ConfigReason::WaitingForIdle, busy(*count)),
        Outcome::Deleting(waits) => no(ConfigReason::Deleting, waits.clone()),
        Outcome::Waiting(_)
        | Outcome::Applied
        | Outcome::PruneHeld(..)
        | Outcome::Paused
        | Outcome::Planned(_) => match incomplete(input) {
            Some(component) if overdue(input) => {
                no(ConfigReason::ComponentNotReady, advice(component, input.namespace))
            }
            Some(component) => {
                no(ConfigReason::Progressing, format!("{}: {}", component.name, component.message))
            }
            None if matches!(input.outcome, Outcome::Waiting(_)) => {
                no(ConfigReason::Progressing, "components start".into())
            }
            None => Verdict::new(CONDITION_READY, true, ConfigReason::AllReady, all_ready(input)),
        },
    }
}

fn incomplete<'a>(input: &ConfigInput<'a>) -> Option<&'a Component> {
    input.components.iter().find(|component| !component.message.is_empty())
}

/// Whether the mesh has not been ready for longer than the grace.
fn overdue(input: &ConfigInput<'_>) -> bool {
    let conditions = input.old.map(|old| old.conditions.as_slice()).unwrap_or_default();
    conditions.iter().any(|condition| {
        condition.type_ == CONDITION_READY
            && condition.status == "False"
            // A time to come was written by someone whose clock is wrong.
            && Duration::try_from(input.now.duration_since(condition.last_transition_time.0))
                .is_ok_and(|age| age >= GRACE)
    })
}

fn advice(component: &Component, namespace: &str) -> String {
    let Component { name, message, .. } = component;
    format!(
        "{name}: {message}; see why with: kubectl --namespace {namespace} describe pods --selector {}={name}",
        names::NAME
    )
}

fn all_ready(input: &ConfigInput<'_>) -> String {
    let MeshConnections { counts, .. } = input.connections;
    let components = input.components.len();
    if counts.down == 0 {
        return format!("{components} components run, {} connections are up", counts.up);
    }
    format!(
        "{components} components run; {} of {} connections are down, see which and why with: kubectl get nsmnode -o yaml",
        counts.down, counts.total
    )
}

fn undone(words: &str) -> String {
    format!(
        "{words}: what is written does not last, so it is repaired seldom by now; stop who undoes it, then set the \
         annotation {} to a new value",
        names::RETRY
    )
}

fn held(what: &str, count: usize) -> String {
    format!(
        "{count} objects would be deleted, which is more than half of the mesh: {what}; nothing of it is deleted. If it \
         shall be, delete the objects, or set the annotation {} to {count}",
        names::ALLOW_PRUNE
    )
}

fn halted(node: &str, namespace: &str) -> String {
    format!(
        "the daemons of the new revision did not get ready on node {node}, which has the old one back; see why with: \
         kubectl --namespace {namespace} get events; then change the settings, or set the annotation {} to a new value \
         to try again",
        names::RETRY
    )
}

fn busy(connections: i64) -> String {
    format!(
        "{connections} connections are open: the mesh is removed when they are closed, or at once with \
         spec.deletionPolicy: Delete"
    )
}

fn reconciling(input: &ConfigInput<'_>) -> Verdict {
    let verdict =
        |status, reason, message: String| Verdict::new(CONDITION_RECONCILING, status, reason, message);
    match input.outcome {
        Outcome::Waiting(tier) => {
            verdict(true, ConfigReason::Progressing, format!("the rest waits for the {tier}"))
        }
        Outcome::Rolling(progress) => verdict(true, ConfigReason::Progressing, progress.clone()),
        Outcome::Applied => verdict(false, ConfigReason::UpToDate, "all objects are as wanted".into()),
        Outcome::Deleting(waits) => verdict(true, ConfigReason::Deleting, waits.clone()),
        Outcome::WaitingForIdle(count) => verdict(true, ConfigReason::WaitingForIdle, busy(*count)),
        Outcome::Paused => {
            let message = format!("nothing is written while the annotation {} is true", names::PAUSED);
            verdict(false, ConfigReason::Paused, message)
        }
        Outcome::Planned(todo) if todo.is_empty() => {
            verdict(false, ConfigReason::PlanOnly, "nothing would be written".into())
        }
        Outcome::Planned(todo) => verdict(false, ConfigReason::PlanOnly, format!("would {todo}")),
        outcome => {
            let (reason, message) =
                halt(outcome, input.namespace).unwrap_or((ConfigReason::UpToDate, String::new()));
            verdict(false, reason, message)
        }
    }
}

/// What does not go on by itself.
fn halt(outcome: &Outcome, namespace: &str) -> Option<(ConfigReason, String)> {
    match outcome {
        Outcome::Invalid(message) => Some((ConfigReason::InvalidConfig, message.clone())),
        Outcome::Failed(message) => Some((ConfigReason::ApplyFailed, message.clone())),
        Outcome::Unsupported(message) => Some((ConfigReason::UnsupportedServer, message.clone())),
        Outcome::NonConverging(words) => Some((ConfigReason::NonConverging, undone(words))),
        Outcome::Halted(node) => Some((ConfigReason::RolloutHalted, halted(node, namespace))),
        Outcome::PruneHeld(what, count) => Some((ConfigReason::PruneHeld, held(what, *count))),
        Outcome::Waiting(_)
        | Outcome::Rolling(_)
        | Outcome::WaitingForIdle(_)
        | Outcome::Applied
        | Outcome::Paused
        | Outcome::Planned(_)
        | Outcome::Deleting(_) => None,
    }
}

fn protected(input: &ConfigInput<'_>) -> Verdict {
    if input.unprotected.is_empty() {
        let message = "the admission policies are in force";
        return Verdict::new(CONDITION_PROTECTED, true, ConfigReason::PoliciesInForce, message);
    }
    let message = format!(
        "missing: {}; apply the operator's installation again, and restart the operator",
        input.unprotected.join(", ")
    );
    Verdict::new(CONDITION_PROTECTED, false, ConfigReason::PoliciesMissing, message)
}

fn stalled(input: &ConfigInput<'_>) -> Verdict {
    match halt(input.outcome, input.namespace) {
        Some((reason, message)) => Verdict::new(CONDITION_STALLED, true, reason, message),
        None => Verdict::new(CONDITION_STALLED, false, ConfigReason::UpToDate, "nobody has to act"),
    }
}

#[cfg(test)]
mod tests {
    use nsm_crds::ComponentKind;

    use super::*;

    fn component(message: &str) -> Component {
        Component {
            name: "nsmgr".into(),
            kind: ComponentKind::DaemonSet,
            desired: 2,
            ready: 1,
            message: message.into(),
        }
    }

    fn status(
        old: Option<&NSMConfigStatus>,
        outcome: &Outcome,
        message: &str,
        second: i64,
    ) -> NSMConfigStatus {
        config(ConfigInput {
            old,
            generation: Some(3),
            namespace: "nsm-system",
            outcome,
            components: &[component(message)],
            rollout: None,
            kept: Kept::default(),
            connections: MeshConnections::default(),
            unprotected: &[],
            now: Timestamp::from_second(second).unwrap(),
        })
    }

    fn ready(status: &NSMConfigStatus) -> (&str, &str) {
        (status.conditions[0].status.as_str(), status.conditions[0].reason.as_str())
    }

    #[test]
    fn ready_needs_all_components_and_nothing_left_to_apply() {
        assert_eq!(ready(&status(None, &Outcome::Applied, "", 0)), ("True", "AllReady"));
        assert_eq!(ready(&status(None, &Outcome::Waiting("managers"), "", 0)), ("False", "Progressing"));
        assert_eq!(ready(&status(None, &Outcome::Applied, "1 of 2", 0)), ("False", "Progressing"));
        assert_eq!(ready(&status(None, &Outcome::Invalid("x".into()), "", 0)), ("False", "InvalidConfig"));
        assert_eq!(ready(&status(None, &Outcome::Failed("x".into()), "", 0)), ("False", "ApplyFailed"));
    }

    #[test]
    fn what_takes_longer_than_the_grace_asks_for_help_with_a_command() {
        let first = status(None, &Outcome::Applied, "1 of 2", 0);
        let later = status(Some(&first), &Outcome::Applied, "1 of 2", 121);
        assert_eq!(ready(&later), ("False", "ComponentNotReady"));
        assert!(later.conditions[0].message.contains("kubectl --namespace nsm-system describe pods"));
        assert_eq!(later.conditions[0].last_transition_time, first.conditions[0].last_transition_time);
    }

    #[test]
    fn a_clock_that_was_ahead_makes_nothing_overdue() {
        let first = status(None, &Outcome::Applied, "1 of 2", 100_000);
        let later = status(Some(&first), &Outcome::Applied, "1 of 2", 0);
        assert_eq!(ready(&later), ("False", "Progressing"));
    }

    #[test]
    fn nothing_new_is_the_same_status() {
        let first = status(None, &Outcome::Applied, "", 0);
        assert_eq!(status(Some(&first), &Outcome::Applied, "", 1000), first);
    }
}

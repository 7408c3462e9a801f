//! Status of an endpoint template.

use k8s_openapi::jiff::Timestamp;
use nsm_crds::{CONDITION_ACCEPTED, CONDITION_READY, EndpointReason, NetworkServiceEndpointStatus};

use super::{
    conditions::{Verdict, conditions},
    rollup::TemplateRollup,
    workload::Rollout,
};

/// Whether the template's workload is applied, and if not, what would be needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// It is.
    Applied,
    /// The template cannot be rendered.
    Invalid(String),
    /// The namespace's owner has not allowed it; the text has the command that does.
    NotPermitted(String),
    /// The API server refused it.
    Failed(String),
    /// The mesh is not there yet.
    NoMesh(String),
}

/// What the status is made from.
#[derive(Clone, Copy, Debug)]
pub struct EndpointInput<'a> {
    /// The status before.
    pub old: Option<&'a NetworkServiceEndpointStatus>,
    /// Generation of the template that was read.
    pub generation: Option<i64>,
    /// Whether its workload is applied.
    pub accepted: &'a Accepted,
    /// How far its pods are.
    pub rollout: Rollout,
    /// What the nodes report of its endpoints.
    pub rollup: TemplateRollup,
    /// Now.
    pub now: Timestamp,
}

/// The status to be.
pub fn endpoint(input: &EndpointInput<'_>) -> NetworkServiceEndpointStatus {
    let before = input.old.map(|old| old.conditions.as_slice()).unwrap_or_default();
    NetworkServiceEndpointStatus {
        observed_generation: input.generation,
        registered: input.rollup.registered,
        connections: input.rollup.connections,
        conditions: conditions(
            before,
            vec![accepted(input.accepted), ready(input)],
            input.generation,
            input.now,
        ),
    }
}

impl Accepted {
    /// Why the workload is not applied, if it is not.
    fn refusal(&self) -> Option<(EndpointReason, &str)> {
        match self {
            Self::Applied => None,
            Self::Invalid(message) => Some((EndpointReason::InvalidWorkload, message)),
            Self::NotPermitted(message) => Some((EndpointReason::NotPermitted, message)),
            Self::Failed(message) => Some((EndpointReason::ApplyFailed, message)),
            Self::NoMesh(message) => Some((EndpointReason::NoMesh, message)),
        }
    }
}

fn accepted(accepted: &Accepted) -> Verdict {
    match accepted.refusal() {
        None => {
            Verdict::new(CONDITION_ACCEPTED, true, EndpointReason::WorkloadApplied, "the workload is applied")
        }
        Some((reason, message)) => Verdict::new(CONDITION_ACCEPTED, false, reason, message),
    }
}

fn ready(input: &EndpointInput<'_>) -> Verdict {
    let EndpointInput { rollout, rollup, .. } = *input;
    let verdict = |status, reason, message: String| Verdict::new(CONDITION_READY, status, reason, message);
    // What is there may serve on although its latest change was refused.
    if let Some((reason, message)) = input.accepted.refusal().filter(|_| !rollout.exists) {
        return verdict(false, reason, message.to_owned());
    }
    if !rollout.complete() {
        return verdict(false, EndpointReason::WorkloadNotReady, rollout.message());
    }
    if rollup.registered < i64::from(rollout.desired) {
        let message = format!(
            "{} of {} endpoints are registered: look at the logs of the other pods",
            rollup.registered, rollout.desired
        );
        return verdict(false, EndpointReason::NotRegistered, message);
    }
    let message =
        format!("{} endpoints are registered, {} connections", rollup.registered, rollup.connections);
    verdict(true, EndpointReason::Registered, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reasons(accepted: &Accepted, ready: i32, registered: i64) -> Vec<String> {
        let rollout = Rollout { exists: true, observed: true, desired: 2, updated: 2, ready, total: 2 };
        let rollup = TemplateRollup { registered, connections: 0 };
        let input = EndpointInput {
            old: None,
            generation: Some(1),
            accepted,
            rollout,
            rollup,
            now: Timestamp::UNIX_EPOCH,
        };
        endpoint(&input).conditions.into_iter().map(|condition| condition.reason).collect()
    }

    #[test]
    fn ready_needs_pods_and_registrations() {
        assert_eq!(reasons(&Accepted::Applied, 2, 2), ["WorkloadApplied", "Registered"]);
        assert_eq!(reasons(&Accepted::Applied, 2, 1), ["WorkloadApplied", "NotRegistered"]);
        assert_eq!(reasons(&Accepted::Applied, 1, 1), ["WorkloadApplied", "WorkloadNotReady"]);
        let refused = Accepted::NotPermitted("x".into());
        assert_eq!(reasons(&refused, 2, 2), ["NotPermitted", "Registered"]);
    }
}

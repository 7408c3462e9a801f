//! Conditions: what is said now, with the time since when it is so.

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};
use nsm_crds::Reason;

/// Most characters of a message.
const MAX_MESSAGE: usize = 1024;

/// One condition as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    kind: &'static str,
    status: bool,
    reason: &'static str,
    message: String,
}

impl Verdict {
    /// A verdict; the message says what to do next unless all is well.
    pub fn new(kind: &'static str, status: bool, reason: impl Reason, message: impl Into<String>) -> Self {
        Self { kind, status, reason: reason.as_str(), message: message.into() }
    }
}

/// The verdicts as conditions. A condition keeps its transition time unless its status flips.
pub fn conditions(
    old: &[Condition],
    verdicts: Vec<Verdict>,
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    verdicts.into_iter().map(|verdict| condition(old, verdict, generation, now)).collect()
}

fn condition(old: &[Condition], verdict: Verdict, generation: Option<i64>, now: Timestamp) -> Condition {
    let status = if verdict.status { "True" } else { "False" };
    let before = old.iter().find(|old| old.type_ == verdict.kind && old.status == status);
    Condition {
        type_: verdict.kind.into(),
        status: status.into(),
        reason: verdict.reason.into(),
        message: shorten(verdict.message),
        observed_generation: generation,
        last_transition_time: before
            .map_or(Time(whole_seconds(now)), |before| before.last_transition_time.clone()),
    }
}

/// The API server keeps whole seconds; more would never compare equal.
fn whole_seconds(now: Timestamp) -> Timestamp {
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

fn shorten(mut message: String) -> String {
    if let Some((end, _)) = message.char_indices().nth(MAX_MESSAGE) {
        message.truncate(end);
    }
    message
}

#[cfg(test)]
mod tests {
    use nsm_crds::{CONDITION_READY, ServiceReason};

    use super::*;

    fn at(second: i64, status: bool, old: &[Condition]) -> Vec<Condition> {
        let reason = if status { ServiceReason::EndpointsAvailable } else { ServiceReason::NoEndpoints };
        let verdict = Verdict::new(CONDITION_READY, status, reason, "m");
        conditions(old, vec![verdict], Some(1), Timestamp::from_second(second).unwrap())
    }

    #[test]
    fn the_transition_time_moves_only_when_the_status_flips() {
        let first = at(10, false, &[]);
        assert_eq!(at(20, false, &first), first);
        let flipped = at(30, true, &first);
        assert_eq!(flipped[0].last_transition_time.0.as_second(), 30);
        assert_eq!(flipped[0].reason, "EndpointsAvailable");
    }

    #[test]
    fn a_message_of_any_length_fits() {
        let verdict = Verdict::new(CONDITION_READY, true, ServiceReason::NoEndpoints, "ä".repeat(5000));
        let conditions = conditions(&[], vec![verdict], None, Timestamp::UNIX_EPOCH);
        assert_eq!(conditions[0].message.chars().count(), MAX_MESSAGE);
    }
}

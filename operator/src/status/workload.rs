//! How far a workload is, from its object.

use nsm_crds::{Component, ComponentKind};
use serde_json::Value;

use crate::object::{Key, Kind};

/// How far the pods of a workload are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rollout {
    /// The workload exists.
    pub exists: bool,
    /// Its controller has seen its last change.
    pub observed: bool,
    /// Pods that should run.
    pub desired: i32,
    /// Pods of the wanted revision.
    pub updated: i32,
    /// Pods of any revision that are ready.
    pub ready: i32,
    /// All pods there are.
    pub total: i32,
}

impl Rollout {
    /// Whether the controller of a workload has seen its last change.
    pub fn has_been_observed(live: &Value) -> bool {
        Self::of(Some(live)).observed
    }

    /// Reads a Deployment or a DaemonSet.
    pub fn of(live: Option<&Value>) -> Self {
        let Some(live) = live else { return Self::default() };
        let number = |pointer: &str| live.pointer(pointer).and_then(Value::as_i64);
        let pods = |pointer: &str| number(pointer).and_then(|n| i32::try_from(n).ok()).unwrap_or(0);
        let generation = number("/metadata/generation").unwrap_or(0);
        let observed = number("/status/observedGeneration").is_some_and(|seen| seen >= generation);
        let daemons = live.pointer("/status/desiredNumberScheduled").is_some();
        if daemons {
            return Self {
                exists: true,
                observed,
                desired: pods("/status/desiredNumberScheduled"),
                // Of one DaemonSet all pods are of one revision.
                updated: pods("/status/currentNumberScheduled"),
                ready: pods("/status/numberReady"),
                total: pods("/status/currentNumberScheduled"),
            };
        }
        Self {
            exists: true,
            observed,
            desired: number("/spec/replicas").and_then(|n| i32::try_from(n).ok()).unwrap_or(0),
            updated: pods("/status/updatedReplicas"),
            ready: pods("/status/readyReplicas"),
            total: pods("/status/replicas"),
        }
    }

    /// Several that do the same for different nodes, as one.
    pub fn sum(parts: impl IntoIterator<Item = Self>) -> Self {
        let whole = Self { observed: true, ..Self::default() };
        let sum = parts.into_iter().fold(whole, |sum, part| Self {
            exists: sum.exists || part.exists,
            observed: sum.observed && part.observed,
            desired: sum.desired + part.desired,
            updated: sum.updated + part.updated,
            ready: sum.ready + part.ready,
            total: sum.total + part.total,
        });
        Self { observed: sum.observed && sum.exists, ..sum }
    }

    /// Enough runs for what comes after it to start: one broken node does not hold up the others.
    pub fn serves(&self) -> bool {
        self.observed && (self.ready > 0 || self.desired == 0)
    }

    /// Everything runs, and nothing of an older revision.
    pub fn complete(&self) -> bool {
        self.observed
            && self.updated >= self.desired
            && self.ready >= self.desired
            && self.total <= self.updated
    }

    /// Pods that are ready and, as far as can be told, of the wanted revision.
    pub fn current(&self) -> i32 {
        if self.observed { self.ready.min(self.updated).min(self.desired) } else { 0 }
    }

    /// What is missing; empty when nothing is.
    pub fn message(&self) -> String {
        if !self.exists {
            return "not made yet: it starts when what it needs runs".into();
        }
        if !self.observed {
            return "just changed".into();
        }
        if self.complete() {
            return String::new();
        }
        if self.updated < self.desired || self.total > self.updated {
            return format!(
                "{} of {} pods ready, {} of the new revision",
                self.ready, self.desired, self.updated
            );
        }
        format!("{} of {} pods ready", self.ready, self.desired)
    }

    /// The entry in the status of the mesh.
    pub fn component(&self, key: &Key) -> Component {
        let kind =
            if key.kind == Kind::DaemonSet { ComponentKind::DaemonSet } else { ComponentKind::Deployment };
        Component {
            name: key.component().into(),
            kind,
            desired: self.desired,
            ready: self.current(),
            message: self.message(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn daemon_set(generation: i64, desired: i32, updated: i32, ready: i32) -> Value {
        json!({
            "metadata": {"generation": generation},
            "status": {
                "observedGeneration": 2, "desiredNumberScheduled": desired, "currentNumberScheduled": updated,
                "updatedNumberScheduled": updated, "numberReady": ready
            }
        })
    }

    #[test]
    fn a_daemon_set_serves_with_one_pod_and_is_complete_with_all() {
        let half = Rollout::of(Some(&daemon_set(2, 2, 2, 1)));
        assert!(half.serves() && !half.complete());
        assert_eq!(half.message(), "1 of 2 pods ready");
        let all = Rollout::of(Some(&daemon_set(2, 2, 2, 2)));
        assert!(all.complete() && all.message().is_empty());
        let sum = Rollout::sum([half, Rollout::of(Some(&daemon_set(2, 1, 1, 1)))]);
        let old = Rollout { updated: 1, ..sum };
        assert!(Rollout::sum([all, all]).complete() && !Rollout::sum([]).observed);
        assert!(!old.complete() && old.message().contains("1 of the new revision"), "{}", old.message());
    }

    #[test]
    fn an_unseen_change_counts_as_nothing() {
        let unseen = Rollout::of(Some(&daemon_set(3, 2, 2, 2)));
        assert!(!unseen.serves() && !unseen.complete());
        assert_eq!(unseen.current(), 0);
        assert!(!Rollout::of(None).serves());
    }

    #[test]
    fn a_cluster_without_nodes_does_not_wait_for_daemons() {
        assert!(Rollout::of(Some(&daemon_set(2, 0, 0, 0))).complete());
    }

    #[test]
    fn a_deployment_waits_until_its_old_pods_are_gone() {
        let deployment = |total: i32| {
            Rollout::of(Some(&json!({
                "metadata": {"generation": 1}, "spec": {"replicas": 1},
                "status": {"observedGeneration": 1, "replicas": total, "updatedReplicas": 1, "readyReplicas": 1}
            })))
        };
        assert!(deployment(1).complete());
        assert!(!deployment(2).complete());
    }
}

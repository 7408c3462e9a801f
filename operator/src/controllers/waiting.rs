//! What waits to be looked at by a controller, told in the figures.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use crate::metrics::{self, Metrics};

/// See the module. Clones share it.
pub(super) struct Waiting<T> {
    since: Arc<Mutex<HashMap<T, Instant>>>,
    metrics: Metrics,
    controller: String,
}

impl<T> Clone for Waiting<T> {
    fn clone(&self) -> Self {
        let Self { since, metrics, controller } = self;
        Self { since: since.clone(), metrics: metrics.clone(), controller: controller.clone() }
    }
}

impl<T: Hash + Eq> Waiting<T> {
    /// Of the controller of this name.
    pub(super) fn new(metrics: Metrics, controller: &str) -> Self {
        let waiting = Self { since: Arc::default(), metrics, controller: controller.to_owned() };
        waiting.metrics.set(metrics::QUEUED, &waiting.labels(), 0.0);
        waiting
    }

    /// It is to be looked at; nothing is new if that was so before.
    pub(super) fn begins(&self, what: T) {
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        let before = since.len();
        since.entry(what).or_insert_with(Instant::now);
        if since.len() > before {
            self.metrics.count(metrics::ADDED, &self.labels());
            self.metrics.add(metrics::QUEUED, &self.labels(), 1.0);
        }
    }

    /// It is looked at, because of that or because it was to be looked at again.
    pub(super) fn ends(&self, what: &T) {
        let known = self.since.lock().unwrap_or_else(PoisonError::into_inner).remove(what);
        if let Some(since) = known {
            self.metrics.add(metrics::QUEUED, &self.labels(), -1.0);
            self.metrics.took(metrics::QUEUE_TIME, &self.labels(), since.elapsed());
        }
    }

    fn labels(&self) -> [(&str, &str); 1] {
        [("name", &self.controller)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_several_times_waits_once_and_each_wait_is_counted_with_its_time() {
        let metrics = Metrics::default();
        let waiting = Waiting::new(metrics.clone(), "c");
        let tells = |line: &str| metrics.text().lines().any(|told| told == line);
        assert!(tells("workqueue_depth{name=\"c\"} 0"), "{}", metrics.text());
        for what in ["a", "b", "a"] {
            waiting.begins(what);
        }
        assert!(tells("workqueue_depth{name=\"c\"} 2"), "{}", metrics.text());
        waiting.ends(&"a");
        // It was looked at again, and nobody had asked.
        waiting.ends(&"a");
        for line in [
            "workqueue_depth{name=\"c\"} 1",
            "workqueue_adds_total{name=\"c\"} 2",
            "workqueue_queue_duration_seconds_count{name=\"c\"} 1",
            "# TYPE workqueue_queue_duration_seconds histogram",
        ] {
            assert!(tells(line), "{line} is not in {}", metrics.text());
        }
    }
}

//! Figures for Prometheus. Those that every controller has keep the names of controller-runtime, so that
//! dashboards for it work. No effects.

use std::{
    collections::BTreeMap,
    fmt::Write,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// Names of the lines of a histogram.
#[derive(Clone, Copy, Debug)]
pub struct Histogram {
    base: &'static str,
    bucket: &'static str,
    sum: &'static str,
    count: &'static str,
}

/// One figure: its name, kind and meaning.
struct Figure {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
}

/// Reconciles by controller and result.
pub const RECONCILES: &str = "controller_runtime_reconcile_total";
/// Reconciles that failed, by controller.
pub const RECONCILE_ERRORS: &str = "controller_runtime_reconcile_errors_total";
/// Time of reconciles, by controller.
pub const RECONCILE_TIME: Histogram = Histogram {
    base: "controller_runtime_reconcile_time_seconds",
    bucket: "controller_runtime_reconcile_time_seconds_bucket",
    sum: "controller_runtime_reconcile_time_seconds_sum",
    count: "controller_runtime_reconcile_time_seconds_count",
};
/// Objects that wait to be looked at, by controller.
pub const QUEUED: &str = "workqueue_depth";
/// How often one began to wait, by controller.
pub const ADDED: &str = "workqueue_adds_total";
/// How long they waited, by controller.
pub const QUEUE_TIME: Histogram = Histogram {
    base: "workqueue_queue_duration_seconds",
    bucket: "workqueue_queue_duration_seconds_bucket",
    sum: "workqueue_queue_duration_seconds_sum",
    count: "workqueue_queue_duration_seconds_count",
};
/// Whether this process leads.
pub const LEADS: &str = "leader_election_master_status";
/// Requests to the API server, by answer, host and method.
pub const REQUESTS: &str = "rest_client_requests_total";
/// Reconciles that are under way, by controller.
pub const ACTIVE: &str = "controller_runtime_active_workers";
/// How many may be, by controller.
pub const WORKERS: &str = "controller_runtime_max_concurrent_reconciles";
/// From a watch's event to the write that answers it: repairs alone.
pub const EVENT_TO_WRITE: Histogram = Histogram {
    base: "nsm_operator_event_to_apply_seconds",
    bucket: "nsm_operator_event_to_apply_seconds_bucket",
    sum: "nsm_operator_event_to_apply_seconds_sum",
    count: "nsm_operator_event_to_apply_seconds_count",
};
/// Writes by kind and reason.
pub const WRITES: &str = "nsm_operator_writes_total";
/// Repairs left out because they do not last, by kind.
pub const HELD: &str = "nsm_operator_writes_held_total";
/// Objects whose repairs do not last.
pub const FIGHTS: &str = "nsm_operator_nonconverging_objects";
/// Watches that failed and were opened again, by kind.
pub const WATCH_RESTARTS: &str = "nsm_operator_watch_restarts_total";
/// Objects that are known, by kind.
pub const CACHED: &str = "nsm_operator_cache_objects";
/// Connections of the mesh, by state.
pub const CONNECTIONS: &str = "nsm_connections";
/// The version.
pub const BUILD: &str = "nsm_operator_build_info";

const FIGURES: [Figure; 18] = [
    Figure { name: RECONCILES, kind: "counter", help: "Reconciles, by controller and result" },
    Figure { name: RECONCILE_ERRORS, kind: "counter", help: "Reconciles that failed, by controller" },
    Figure { name: RECONCILE_TIME.base, kind: "histogram", help: "Time of reconciles, by controller" },
    Figure { name: QUEUED, kind: "gauge", help: "Objects that wait for a reconcile, by controller" },
    Figure { name: ADDED, kind: "counter", help: "How often an object began to wait, by controller" },
    Figure { name: QUEUE_TIME.base, kind: "histogram", help: "How long objects waited, by controller" },
    Figure { name: ACTIVE, kind: "gauge", help: "Reconciles under way, by controller" },
    Figure { name: WORKERS, kind: "gauge", help: "Reconciles that may be under way, by controller" },
    Figure {
        name: REQUESTS,
        kind: "counter",
        help: "Requests to the API server, by code of the answer, host and method",
    },
    Figure {
        name: EVENT_TO_WRITE.base,
        kind: "histogram",
        help: "From a watch's event about an object to the write that repairs it",
    },
    Figure { name: LEADS, kind: "gauge", help: "1 if this process holds the Lease" },
    Figure {
        name: WRITES,
        kind: "counter",
        help: "Writes, by kind of object and reason: spec, drift, status",
    },
    Figure {
        name: HELD,
        kind: "counter",
        help: "Repairs left out because they do not last, by kind of object",
    },
    Figure { name: FIGHTS, kind: "gauge", help: "Objects whose repairs someone undoes" },
    Figure {
        name: WATCH_RESTARTS,
        kind: "counter",
        help: "Watches that failed and were opened again, by kind of object",
    },
    Figure { name: CACHED, kind: "gauge", help: "Objects known from watches, by kind" },
    Figure { name: CONNECTIONS, kind: "gauge", help: "Connections that nodes report, by state" },
    Figure { name: BUILD, kind: "gauge", help: "1, with the version" },
];

/// Upper bounds of the histograms' buckets, in seconds.
const BUCKETS: [f64; 8] = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 10.0];

/// All figures of the process; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Metrics(Arc<Mutex<BTreeMap<(&'static str, String), f64>>>);

impl Metrics {
    /// Adds one.
    pub fn count(&self, name: &'static str, labels: &[(&str, &str)]) {
        self.add(name, labels, 1.0);
    }

    /// Sets a value.
    pub fn set(&self, name: &'static str, labels: &[(&str, &str)], value: f64) {
        self.lock().insert((name, words(labels)), value);
    }

    /// Notes how long something took.
    pub fn took(&self, histogram: Histogram, labels: &[(&str, &str)], time: Duration) {
        let seconds = time.as_secs_f64();
        for bound in BUCKETS {
            let bound_text = bound.to_string();
            let bucket = [labels, &[("le", bound_text.as_str())]].concat();
            let inside = if seconds <= bound { 1.0 } else { 0.0 };
            self.add(histogram.bucket, &bucket, inside);
        }
        self.add(histogram.bucket, &[labels, &[("le", "+Inf")]].concat(), 1.0);
        self.add(histogram.sum, labels, seconds);
        self.add(histogram.count, labels, 1.0);
    }

    /// The figures as Prometheus reads them.
    pub fn text(&self) -> String {
        let values = self.lock();
        let mut text = String::new();
        for Figure { name, kind, help } in FIGURES {
            let mine: Vec<_> = values.iter().filter(|((of, _), _)| base(of) == name).collect();
            if mine.is_empty() {
                continue;
            }
            // Writing to a text does not fail.
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for ((name, labels), value) in mine {
                let _ = writeln!(text, "{name}{labels} {value}");
            }
        }
        text
    }

    /// Adds as much, which may be less than nothing.
    pub fn add(&self, name: &'static str, labels: &[(&str, &str)], by: f64) {
        *self.lock().entry((name, words(labels))).or_default() += by;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<(&'static str, String), f64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn base(name: &'static str) -> &'static str {
    let all = [RECONCILE_TIME, QUEUE_TIME, EVENT_TO_WRITE];
    let histogram = all.into_iter().find(|known| name.starts_with(known.base));
    histogram.map_or(name, |histogram| histogram.base)
}

fn words(labels: &[(&str, &str)]) -> String {
    if labels.is_empty() {
        return String::new();
    }
    let escaped = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let pairs: Vec<_> = labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
    format!("{{{}}}", pairs.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_told_as_prometheus_reads_them() {
        let metrics = Metrics::default();
        metrics.count(WRITES, &[("kind", "Service"), ("reason", "drift")]);
        metrics.count(WRITES, &[("kind", "Service"), ("reason", "drift")]);
        metrics.set(LEADS, &[("name", "a\"b")], 1.0);
        metrics.took(RECONCILE_TIME, &[("controller", "c")], Duration::from_millis(20));
        let text = metrics.text();
        for line in [
            "# TYPE nsm_operator_writes_total counter",
            "nsm_operator_writes_total{kind=\"Service\",reason=\"drift\"} 2",
            "leader_election_master_status{name=\"a\\\"b\"} 1",
            "# TYPE controller_runtime_reconcile_time_seconds histogram",
            "controller_runtime_reconcile_time_seconds_bucket{controller=\"c\",le=\"0.01\"} 0",
            "controller_runtime_reconcile_time_seconds_bucket{controller=\"c\",le=\"0.03\"} 1",
            "controller_runtime_reconcile_time_seconds_bucket{controller=\"c\",le=\"+Inf\"} 1",
            "controller_runtime_reconcile_time_seconds_count{controller=\"c\"} 1",
        ] {
            assert!(text.lines().any(|told| told == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("nsm_operator_cache_objects"), "what has no value is not told");
    }
}

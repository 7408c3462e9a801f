//! Figures of a process as Prometheus reads them (text format 0.0.4).
//!
//! Whoever counts keeps its own counters and says here once how they are read; so counting costs one
//! addition, and nobody needs this registry to count.

use std::{fmt, fmt::Write as _, sync::Arc};

use parking_lot::Mutex;

/// Content type of [`Metrics::text`].
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// One value with its labels: name and value each.
pub type Sample = (Vec<(&'static str, String)>, u64);

/// All figures of a process. Clones share them.
#[derive(Clone, Default)]
pub struct Metrics(Arc<Mutex<Vec<Family>>>);

struct Family {
    name: &'static str,
    help: &'static str,
    kind: &'static str,
    read: Box<dyn Fn() -> Vec<Sample> + Send>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.lock().iter().map(|family| family.name)).finish()
    }
}

impl Metrics {
    /// A number that only grows; its name ends with `_total`.
    pub fn counter(&self, name: &'static str, help: &'static str, read: impl Fn() -> u64 + Send + 'static) {
        self.add(name, help, "counter", move || vec![(Vec::new(), read())]);
    }

    /// Numbers that only grow, told apart by one label.
    pub fn counters<S: Into<String>>(
        &self,
        name: &'static str,
        help: &'static str,
        label: &'static str,
        read: impl Fn() -> Vec<(S, u64)> + Send + 'static,
    ) {
        self.labelled(name, help, "counter", label, read);
    }

    /// Numbers that go up and down, told apart by one label.
    pub fn gauges<S: Into<String>>(
        &self,
        name: &'static str,
        help: &'static str,
        label: &'static str,
        read: impl Fn() -> Vec<(S, u64)> + Send + 'static,
    ) {
        self.labelled(name, help, "gauge", label, read);
    }

    fn labelled<S: Into<String>>(
        &self,
        name: &'static str,
        help: &'static str,
        kind: &'static str,
        label: &'static str,
        read: impl Fn() -> Vec<(S, u64)> + Send + 'static,
    ) {
        let row = move |(value, count): (S, u64)| (vec![(label, value.into())], count);
        self.add(name, help, kind, move || read().into_iter().map(row).collect());
    }

    /// A number that goes up and down.
    pub fn gauge(&self, name: &'static str, help: &'static str, read: impl Fn() -> u64 + Send + 'static) {
        self.add(name, help, "gauge", move || vec![(Vec::new(), read())]);
    }

    /// One 1 whose labels say what runs.
    pub fn info(&self, name: &'static str, help: &'static str, labels: Vec<(&'static str, String)>) {
        self.add(name, help, "gauge", move || vec![(labels.clone(), 1)]);
    }

    fn add(
        &self,
        name: &'static str,
        help: &'static str,
        kind: &'static str,
        read: impl Fn() -> Vec<Sample> + Send + 'static,
    ) {
        self.0.lock().push(Family { name, help, kind, read: Box::new(read) });
    }

    /// All of them, as they are now.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for family in self.0.lock().iter() {
            // Writing to a string cannot fail.
            let _ = family.write(&mut text);
        }
        text
    }
}

impl Family {
    fn write(&self, text: &mut String) -> fmt::Result {
        let Self { name, help, kind, read } = self;
        writeln!(text, "# HELP {name} {help}")?;
        writeln!(text, "# TYPE {name} {kind}")?;
        for (labels, value) in read() {
            text.push_str(name);
            for (at, (label, value)) in labels.iter().enumerate() {
                let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
                write!(text, "{}{label}=\"{value}\"", if at == 0 { '{' } else { ',' })?;
            }
            writeln!(text, "{} {value}", if labels.is_empty() { "" } else { "}" })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Counter;

    #[test]
    fn figures_are_written_as_prometheus_reads_them() {
        let (metrics, dials) = (Metrics::default(), Arc::new(Counter::default()));
        let read = dials.clone();
        metrics.counter("nsm_dials_total", "Connections made.", move || read.get());
        metrics.counters("nsm_calls_total", "Calls.", "method", || vec![("/a/B", 2), ("q\"\\\n", 0)]);
        metrics.info("nsm_build_info", "What runs.", vec![("version", "1".into()), ("name", "x".into())]);
        dials.add();
        let expected = "# HELP nsm_dials_total Connections made.\n# TYPE nsm_dials_total counter\nnsm_dials_total 1\n\
            # HELP nsm_calls_total Calls.\n# TYPE nsm_calls_total counter\nnsm_calls_total{method=\"/a/B\"} 2\n\
            nsm_calls_total{method=\"q\\\"\\\\\\n\"} 0\n\
            # HELP nsm_build_info What runs.\n# TYPE nsm_build_info gauge\nnsm_build_info{version=\"1\",name=\"x\"} 1\n";
        assert_eq!(metrics.text(), expected);
    }
}

//! The figures of a process, by name: what `/metrics` shows. Units are in the names; counts begin at zero
//! with the process.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use crate::{
    api::{
        Counter,
        registry::{NetworkService, NetworkServiceEndpoint},
    },
    chain::SessionCounts,
    daemon::{Admission, Metrics, Readiness},
    dataplane::Netlink,
    elements::{
        Adoption, Findings, Index, Monitor, Outcomes, Vnis, Wireguards, Xconnect,
        registry::{Leases, Reach, Storage},
    },
    settings::Common,
    transport::{Channels, Counts, Source},
};

/// Who the process is, and what it did towards its peers.
pub(super) fn identity(metrics: &Metrics, readiness: &Readiness, source: &Source, common: &Common) {
    let labels = vec![("name", common.name.clone()), ("version", env!("CARGO_PKG_VERSION").to_owned())];
    metrics.info("nsm_build_info", "What runs here.", labels);
    let own = source.clone();
    metrics.gauge("nsm_svid_expires_seconds", "End of the own X.509-SVID, seconds since 1970.", move || {
        own.current().ok().and_then(|svid| u64::try_from(svid.leaf.not_after).ok()).unwrap_or(0)
    });
    let own = source.clone();
    readiness.require("identity", move || match own.current() {
        Err(error) => Some(error.to_string()),
        Ok(svid) => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            let over = u64::try_from(svid.leaf.not_after).is_ok_and(|end| end <= now);
            over.then(|| format!("the SVID {} ended and no new one came", svid.leaf.id))
        }
    });
    let tasks = tokio::runtime::Handle::current().metrics();
    metrics.gauge("nsm_tasks", "Tasks of the process.", move || tasks.num_alive_tasks() as u64);
    let counts = source.counts();
    let count = |name, help, read: fn(&Counts) -> &Counter| {
        let counts = counts.clone();
        metrics.counter(name, help, move || read(&counts).get());
    };
    count("nsm_dials_total", "TLS connections made to peers.", |counts| &counts.dials);
    count("nsm_accepted_total", "TLS connections accepted.", |counts| &counts.accepted);
    count("nsm_handshakes_refused_total", "TLS handshakes of peers that failed.", |counts| &counts.refused);
    count("nsm_tokens_signed_total", "Tokens signed.", |counts| &counts.signatures);
    count("nsm_tokens_reused_total", "Tokens used again.", |counts| &counts.signatures_saved);
    count("nsm_tokens_verified_total", "Signatures of tokens verified.", |counts| &counts.verifications);
    count("nsm_tokens_remembered_total", "Tokens known to be verified.", |counts| {
        &counts.verifications_saved
    });
    let calls = counts.clone();
    metrics.counters("nsm_calls_total", "Calls made to peers.", "method", move || calls.calls().collect());
}

/// Whom the process knows the way to.
pub(super) fn channels(metrics: &Metrics, channels: &Channels) {
    gauge(metrics, channels, "nsm_channels", "Peers with a channel.", Channels::len);
}

/// What the process tells of connections.
pub(super) fn monitor(metrics: &Metrics, monitor: &Arc<Monitor>) {
    gauge(metrics, monitor, "nsm_connections_shown", "Connections that monitors are told of.", |monitor| {
        monitor.size().0
    });
    gauge(metrics, monitor, "nsm_monitors", "Streams that are told of connections.", |monitor| {
        monitor.size().1
    });
}

/// What a registry keeps.
pub(super) fn registry(
    metrics: &Metrics,
    services: &Arc<dyn Storage<NetworkService>>,
    endpoints: &Arc<dyn Storage<NetworkServiceEndpoint>>,
) {
    gauge(metrics, services, "nsm_services_registered", "Network services that are registered.", |kept| {
        kept.size().0
    });
    gauge(metrics, services, "nsm_services_watches", "Streams that are told of network services.", |kept| {
        kept.size().1
    });
    gauge(metrics, endpoints, "nsm_endpoints_registered", "Endpoints that are registered.", |kept| {
        kept.size().0
    });
    gauge(metrics, endpoints, "nsm_endpoints_watches", "Streams that are told of endpoints.", |kept| {
        kept.size().1
    });
}

/// How a registry stands with the API server.
pub(super) fn kubernetes(
    metrics: &Metrics,
    reach: &Reach,
    leases: &Leases,
    leads: impl Fn() -> bool + Send + Sync + 'static,
) {
    let known = reach.clone();
    let help = "For how long what is found may be old, because the API server cannot be followed.";
    metrics.gauge("nsm_registry_stale_seconds", help, move || {
        known.stale().map_or(0, |(time, _)| time.as_secs().max(1))
    });
    gauge(metrics, leases, "nsm_registry_nodes", "Nodes whose managers refresh endpoints.", Leases::len);
    let help = "Whether this registry is the one that ends what nobody refreshes.";
    metrics.gauge("nsm_registry_ends_entries", help, move || u64::from(leads()));
}

/// What is known of the registry.
pub(super) fn index(metrics: &Metrics, index: &Index) {
    gauge(metrics, index, "nsm_services_indexed", "Network services in use, which are followed.", |index| {
        index.size().0
    });
    gauge(metrics, index, "nsm_endpoints_indexed", "Endpoints known of those.", |index| index.size().1);
}

/// What is asked of the kernel.
pub(super) fn kernel(metrics: &Metrics, kernel: &Netlink, xconnect: &Xconnect<Netlink>, vnis: &Vnis) {
    counter(
        metrics,
        kernel,
        "nsm_kernel_writes_total",
        "Netlink messages that change something.",
        |kernel| kernel.counters().writes,
    );
    counter(
        metrics,
        kernel,
        "nsm_kernel_reads_total",
        "Netlink questions, of single objects or all.",
        |kernel| kernel.counters().reads,
    );
    counter(metrics, kernel, "nsm_kernel_sysctls_total", "Files written under /proc/sys.", |kernel| {
        kernel.counters().sysctls
    });
    let help = "Files under /proc/sys that cannot be written here, which connections do without.";
    counter(metrics, kernel, "nsm_kernel_sysctls_unavailable_total", help, |kernel| {
        kernel.counters().unavailable
    });
    gauge(metrics, xconnect, "nsm_connections_linked", "Connections with links here.", Xconnect::len);
    audit(metrics, &xconnect.findings());
    adoption(metrics, &xconnect.adoption());
    gauge(metrics, vnis, "nsm_vnis", "Tunnel numbers in use.", Vnis::len);
}

/// Encrypted tunnels, and what this node cannot offer others.
pub(super) fn tunnels(metrics: &Metrics, wireguards: &Wireguards, absent: &[(&'static str, String)]) {
    let help = "UDP ports of encrypted tunnels in use.";
    gauge(metrics, wireguards, "nsm_wireguard_ports", help, Wireguards::len);
    for (mechanism, reason) in absent {
        let labels = vec![("mechanism", (*mechanism).to_owned()), ("reason", reason.clone())];
        metrics.info("nsm_mechanism_absent", "Mechanism that this node cannot offer, and why.", labels);
    }
}

/// What is in the kernel and serves no connection.
fn audit(metrics: &Metrics, findings: &Arc<Findings>) {
    let read = findings.clone();
    let help = "Links, rules and journal entries that serve no connection.";
    metrics.gauges("nsm_orphans", help, "kind", move || read.orphans());
    let read = findings.clone();
    metrics.gauge("nsm_orphans_oldest_seconds", "Age of the oldest orphan, since it was seen.", move || {
        read.oldest().as_secs()
    });
    let help = "Orphans of this forwarder that were removed.";
    counter(metrics, findings, "nsm_orphans_removed_total", help, |findings| findings.removed.get());
    let help = "Looks at the kernel for what serves no connection.";
    counter(metrics, findings, "nsm_audits_total", help, |findings| findings.looks.get());
}

/// What became of the connections that an earlier process left.
fn adoption(metrics: &Metrics, adoption: &Arc<Adoption>) {
    let read = adoption.clone();
    let help = "Connections that an earlier process left, by what became of them.";
    metrics.gauges("nsm_adoption_connections", help, "result", move || {
        let report = read.report();
        vec![
            ("baseline", report.baseline),
            ("recovered", report.recovered),
            ("closed_by_client", report.closed_by_client),
            ("lost", report.lost),
            ("pending", report.pending()),
        ]
    });
    let read = adoption.clone();
    let help = "Longest time in which one of those may have carried nothing.";
    metrics.gauge("nsm_adoption_longest_gap_milliseconds", help, move || {
        u64::try_from(read.report().longest_gap.as_millis()).unwrap_or(u64::MAX)
    });
    let read = adoption.clone();
    let help = "Whether the earlier process said that it stopped and left all in place.";
    metrics.gauge("nsm_adoption_quiesced", help, move || u64::from(read.report().quiesced));
}

/// What is asked of the process.
pub(super) fn requests(metrics: &Metrics, outcomes: &Arc<Outcomes>, admission: &Arc<Admission>) {
    let (outcomes, requests) = (outcomes.clone(), "nsm_requests_total");
    metrics.counters(requests, "Requests of peers, by how they ended.", "result", move || outcomes.read());
    gauge(metrics, admission, "nsm_requests_in_flight", "Requests that are worked on.", |all| {
        all.load().running
    });
    gauge(metrics, admission, "nsm_requests_waiting", "Requests that wait for their turn.", |all| {
        all.load().waiting
    });
    let callers = "Clients with Requests in flight or waiting.";
    gauge(metrics, admission, "nsm_requests_callers", callers, |all| all.load().callers);
    let refused = "Requests refused for want of a place or time.";
    counter(metrics, admission, "nsm_requests_not_begun_total", refused, |all| all.load().refused);
}

/// What became of connections.
pub(super) fn connections(metrics: &Metrics, sessions: &Arc<SessionCounts>) {
    let open = sessions.clone();
    let open = move || open.begun.get().saturating_sub(open.ended.get());
    metrics.gauge("nsm_connections", "Connections with a task here.", open);
    let count = |name, help, read: fn(&SessionCounts) -> &Counter| {
        let sessions = sessions.clone();
        metrics.counter(name, help, move || read(&sessions).get());
    };
    count("nsm_connections_begun_total", "Connections that got a task.", |counts| &counts.begun);
    count("nsm_connections_expired_total", "Closed because nobody refreshed them.", |counts| &counts.expired);
    count("nsm_refreshes_total", "Requests repeated with success.", |counts| &counts.refreshed);
    count("nsm_refreshes_failed_total", "Repeated Requests that failed.", |counts| &counts.failed);
    count("nsm_heals_total", "Requests repeated because the way may be broken.", |counts| &counts.healed);
    count("nsm_reselects_total", "Connections moved to another endpoint.", |counts| &counts.reselected);
}

/// What `source` has now, as `read` counts it.
fn gauge<T: Clone + Send + 'static>(
    metrics: &Metrics,
    source: &T,
    name: &'static str,
    help: &'static str,
    read: fn(&T) -> usize,
) {
    let source = source.clone();
    metrics.gauge(name, help, move || read(&source) as u64);
}

/// What `source` has counted since the process began.
fn counter<T: Clone + Send + 'static>(
    metrics: &Metrics,
    source: &T,
    name: &'static str,
    help: &'static str,
    read: fn(&T) -> u64,
) {
    let source = source.clone();
    metrics.counter(name, help, move || read(&source));
}

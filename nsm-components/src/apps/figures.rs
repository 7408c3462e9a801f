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
    elements::{Index, Monitor, Outcomes, Vnis, Xconnect, registry::Memory},
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
    let counter = |name, help, read: fn(&Counts) -> &Counter| {
        let counts = counts.clone();
        metrics.counter(name, help, move || read(&counts).get());
    };
    counter("nsm_dials_total", "TLS connections made to peers.", |counts| &counts.dials);
    counter("nsm_accepted_total", "TLS connections accepted.", |counts| &counts.accepted);
    counter("nsm_handshakes_refused_total", "TLS handshakes of peers that failed.", |counts| &counts.refused);
    counter("nsm_tokens_signed_total", "Tokens signed.", |counts| &counts.signatures);
    counter("nsm_tokens_reused_total", "Tokens used again.", |counts| &counts.signatures_saved);
    counter("nsm_tokens_verified_total", "Signatures of tokens verified.", |counts| &counts.verifications);
    counter("nsm_tokens_remembered_total", "Tokens known to be verified.", |counts| {
        &counts.verifications_saved
    });
    let calls = counts.clone();
    metrics.counters("nsm_calls_total", "Calls made to peers.", "method", move || calls.calls().collect());
}

/// Whom the process knows the way to.
pub(super) fn channels(metrics: &Metrics, channels: &Channels) {
    let channels = channels.clone();
    metrics.gauge("nsm_channels", "Peers with a channel.", move || channels.len() as u64);
}

/// What the process tells of connections.
pub(super) fn monitor(metrics: &Metrics, monitor: &Arc<Monitor>) {
    let shown = monitor.clone();
    let shown = move || shown.size().0 as u64;
    metrics.gauge("nsm_connections_shown", "Connections that monitors are told of.", shown);
    let told = monitor.clone();
    let told = move || told.size().1 as u64;
    metrics.gauge("nsm_monitors", "Streams that are told of connections.", told);
}

/// What a registry keeps.
pub(super) fn registry(
    metrics: &Metrics,
    services: &Arc<Memory<NetworkService>>,
    endpoints: &Arc<Memory<NetworkServiceEndpoint>>,
) {
    let kept = services.clone();
    let kept = move || kept.size().0 as u64;
    metrics.gauge("nsm_services_registered", "Network services that are registered.", kept);
    let watched = services.clone();
    let watched = move || watched.size().1 as u64;
    metrics.gauge("nsm_services_watches", "Streams that are told of network services.", watched);
    let kept = endpoints.clone();
    let kept = move || kept.size().0 as u64;
    metrics.gauge("nsm_endpoints_registered", "Endpoints that are registered.", kept);
    let watched = endpoints.clone();
    let watched = move || watched.size().1 as u64;
    metrics.gauge("nsm_endpoints_watches", "Streams that are told of endpoints.", watched);
}

/// What is known of the registry.
pub(super) fn index(metrics: &Metrics, index: &Index) {
    let services = index.clone();
    let services = move || services.size().0 as u64;
    metrics.gauge("nsm_services_indexed", "Network services in use, which are followed.", services);
    let endpoints = index.clone();
    let endpoints = move || endpoints.size().1 as u64;
    metrics.gauge("nsm_endpoints_indexed", "Endpoints known of those.", endpoints);
}

/// What is asked of the kernel.
pub(super) fn kernel(metrics: &Metrics, kernel: &Netlink, xconnect: &Xconnect<Netlink>, vnis: &Vnis) {
    let (writes, reads, sysctls) = (kernel.clone(), kernel.clone(), kernel.clone());
    let writes = move || writes.counters().writes;
    metrics.counter("nsm_kernel_writes_total", "Netlink messages that change something.", writes);
    let reads = move || reads.counters().reads;
    metrics.counter("nsm_kernel_reads_total", "Netlink questions, of single objects or all.", reads);
    let sysctls = move || sysctls.counters().sysctls;
    metrics.counter("nsm_kernel_sysctls_total", "Files written under /proc/sys.", sysctls);
    let linked = xconnect.clone();
    metrics.gauge("nsm_connections_linked", "Connections with links here.", move || linked.len() as u64);
    let vnis = vnis.clone();
    metrics.gauge("nsm_vnis", "Tunnel numbers in use.", move || vnis.len() as u64);
}

/// What is asked of the process.
pub(super) fn requests(metrics: &Metrics, outcomes: &Arc<Outcomes>, admission: &Arc<Admission>) {
    let (outcomes, requests) = (outcomes.clone(), "nsm_requests_total");
    metrics.counters(requests, "Requests of peers, by how they ended.", "result", move || outcomes.read());
    let load = admission.clone();
    let running = move || load.load().running as u64;
    metrics.gauge("nsm_requests_in_flight", "Requests that are worked on.", running);
    let load = admission.clone();
    let waiting = move || load.load().waiting as u64;
    metrics.gauge("nsm_requests_waiting", "Requests that wait for their turn.", waiting);
    let load = admission.clone();
    let callers = move || load.load().callers as u64;
    metrics.gauge("nsm_requests_callers", "Clients with Requests in flight or waiting.", callers);
    let load = admission.clone();
    let refused = move || load.load().refused;
    metrics.counter("nsm_requests_not_begun_total", "Requests refused for want of a place or time.", refused);
}

/// What became of connections.
pub(super) fn connections(metrics: &Metrics, sessions: &Arc<SessionCounts>) {
    let open = sessions.clone();
    let open = move || open.begun.get().saturating_sub(open.ended.get());
    metrics.gauge("nsm_connections", "Connections with a task here.", open);
    let counter = |name, help, read: fn(&SessionCounts) -> &Counter| {
        let sessions = sessions.clone();
        metrics.counter(name, help, move || read(&sessions).get());
    };
    counter("nsm_connections_begun_total", "Connections that got a task.", |counts| &counts.begun);
    counter("nsm_connections_expired_total", "Closed because nobody refreshed them.", |counts| {
        &counts.expired
    });
    counter("nsm_refreshes_total", "Requests repeated with success.", |counts| &counts.refreshed);
    counter("nsm_refreshes_failed_total", "Repeated Requests that failed.", |counts| &counts.failed);
    counter("nsm_heals_total", "Requests repeated because the way may be broken.", |counts| &counts.healed);
    counter("nsm_reselects_total", "Connections moved to another endpoint.", |counts| &counts.reselected);
}

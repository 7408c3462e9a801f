//! The figures of a process, by name: what `/metrics` shows. Units are in the names; counts begin at zero
//! with the process.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use crate::{
    api::Counter,
    chain::SessionCounts,
    daemon::{Admission, Metrics, Readiness},
    elements::Outcomes,
    settings::Common,
    transport::{Counts, Source},
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

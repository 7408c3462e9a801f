//! What every process needs around its work: logs, and the signal to stop.

mod admission;

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::info;
use tracing_subscriber::{EnvFilter, fmt};

pub use self::admission::{Admission, Load, Place, Refusal};

/// Starts logging to standard error at this level (`NSM_LOG_LEVEL`): one JSON object a line unless
/// standard error is a terminal. A level that cannot be read counts as INFO.
pub fn init_logging(level: &str) {
    let filter = EnvFilter::try_new(directives(level)).unwrap_or_else(|_| EnvFilter::new("info"));
    let layer = fmt().with_env_filter(filter).with_writer(io::stderr);
    if io::IsTerminal::is_terminal(&io::stderr()) {
        layer.init();
    } else {
        layer.json().flatten_event(true).init();
    }
}

/// Upstream's level names in any case, or a filter as it is.
fn directives(level: &str) -> String {
    let lower = level.to_ascii_lowercase();
    match lower.as_str() {
        "" => "info".to_owned(),
        // The libraries beneath say at this level what every frame carries.
        "trace" | "debug" => format!("{lower},h2=info,hyper=info,tower=info,rustls=info,kube=info"),
        "fatal" | "panic" => "error".to_owned(),
        "warning" => "warn".to_owned(),
        "error" | "warn" | "info" | "off" => lower,
        _ => level.to_owned(),
    }
}

/// A token that is cancelled by SIGTERM, SIGINT, SIGHUP or SIGQUIT.
pub fn stop_on_signals() -> io::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let mut signals = [
        ("SIGTERM", signal(SignalKind::terminate())?),
        ("SIGINT", signal(SignalKind::interrupt())?),
        ("SIGHUP", signal(SignalKind::hangup())?),
        ("SIGQUIT", signal(SignalKind::quit())?),
    ];
    let stopping = stop.clone();
    tokio::spawn(async move {
        let received = signals.iter_mut().map(|(name, signal)| {
            Box::pin(async move {
                signal.recv().await;
                *name
            })
        });
        let (name, ..) = futures::future::select_all(received).await;
        info!(signal = name, "stopping");
        stopping.cancel();
    });
    Ok(stop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstreams_level_names_are_understood_in_any_case() {
        assert_eq!(directives("INFO"), "info");
        assert_eq!(directives("WARNING"), "warn");
        assert!(directives("TRACE").starts_with("trace,"));
        assert_eq!(directives("nsm_components=debug"), "nsm_components=debug");
    }
}

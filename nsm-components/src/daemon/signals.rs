//! The signal to stop, and the second one, which does not wait.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Exit code of a process that was told twice to stop.
const HURRIED: i32 = 1;

/// A token that is cancelled by SIGTERM, SIGINT, SIGHUP or SIGQUIT. The next of them ends the process at
/// once; connections of the mesh stand either way.
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
        let first = next(&mut signals).await;
        info!(signal = first, "stopping");
        stopping.cancel();
        let second = next(&mut signals).await;
        warn!(signal = second, "ending at once: calls in flight are cut");
        std::process::exit(HURRIED);
    });
    Ok(stop)
}

async fn next(signals: &mut [(&'static str, Signal)]) -> &'static str {
    let received = signals.iter_mut().map(|(name, signal)| {
        Box::pin(async move {
            signal.recv().await;
            *name
        })
    });
    futures::future::select_all(received).await.0
}

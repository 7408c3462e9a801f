//! While the identity source cannot issue, tokens end with the SVIDs that signed them, and nobody can
//! refresh what still carries packets: so nothing expires then, up to a limit.

use std::time::Duration;

use tokio::{sync::watch, time::Instant};
use tracing::{info, warn};

use crate::{chain::Suspended, transport::Outage};

/// After an outage, clients have this time to refresh: longer than the pauses between their tries to get
/// an SVID, and to refresh, together.
const GRACE: Duration = Duration::from_secs(30);

/// Until when connections do not expire, by what is told of the identity source. An outage counts for
/// at most `limit`. Ends with the source.
pub(super) fn suspended(mut outage: watch::Receiver<Option<Outage>>, limit: Duration) -> Suspended {
    let (told, suspended) = watch::channel(None);
    tokio::spawn(async move {
        let mut over = true;
        loop {
            let now = outage.borrow_and_update().clone();
            match now {
                Some(Outage { since, reason }) => {
                    if over {
                        warn!(%reason, ?limit, "the identity source cannot issue: no connection expires meanwhile");
                    }
                    over = false;
                    told.send_replace(since.checked_add(limit));
                }
                None if !over => {
                    over = true;
                    info!(after = ?GRACE, "the identity source issues again: connections expire again");
                    told.send_replace(Some(Instant::now() + GRACE));
                }
                None => {}
            }
            if outage.changed().await.is_err() {
                return;
            }
        }
    });
    suspended
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_outage_suspends_up_to_its_limit_and_its_end_leaves_time_to_refresh() {
        let (source, outage) = watch::channel(None);
        let limit = Duration::from_hours(24);
        let mut suspended = suspended(outage, limit);
        assert_eq!(*suspended.borrow(), None);
        let since = Instant::now();
        for reason in ["refused", "still refused"] {
            source.send_replace(Some(Outage { since, reason: reason.into() }));
            suspended.changed().await.unwrap();
            assert_eq!(*suspended.borrow_and_update(), Some(since + limit), "{reason}");
            tokio::time::sleep(Duration::from_hours(1)).await;
        }
        source.send_replace(None);
        suspended.changed().await.unwrap();
        assert_eq!(*suspended.borrow_and_update(), Some(Instant::now() + GRACE));
        source.send_replace(None);
        tokio::task::yield_now().await;
        assert!(!suspended.has_changed().unwrap(), "it is told once");
    }
}

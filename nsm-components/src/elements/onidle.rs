//! `onidle`: ends an endpoint that nobody uses (protocol §4.5).

use std::{collections::HashSet, sync::Arc, time::Duration};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::info;

use crate::chain::{Cx, Element, Error, Kind, Next, Reply, Request, Result};

/// See the module. Dropping it stops the watch.
#[derive(Debug)]
pub struct OnIdle {
    limit: Duration,
    users: Arc<Users>,
    _watch: AbortOnDropHandle<()>,
}

#[derive(Debug)]
struct Users {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug)]
struct State {
    /// Connections that are open, or about to be.
    open: HashSet<String>,
    /// Since when there is none.
    idle_since: Instant,
    expired: bool,
}

// === impl Users ===

impl Users {
    /// Ends once there was no connection for `limit`.
    async fn idle(&self, limit: Duration) {
        loop {
            let until = {
                let mut state = self.state.lock();
                let until = state.open.is_empty().then_some(state.idle_since + limit);
                // Under the lock: a Request is either seen here or finds the endpoint expired.
                state.expired = until.is_some_and(|until| until <= Instant::now());
                if state.expired {
                    return;
                }
                until
            };
            match until {
                Some(until) => {
                    // A change wakes it early; the state says what it means.
                    let _ = tokio::time::timeout_at(until, self.changed.notified()).await;
                }
                None => self.changed.notified().await,
            }
        }
    }

    fn leave(&self, connection: &str) {
        let mut state = self.state.lock();
        if state.open.remove(connection) && state.open.is_empty() {
            state.idle_since = Instant::now();
            self.changed.notify_one();
        }
    }
}

// === impl OnIdle ===

impl OnIdle {
    /// Cancels `expired` after `limit` without a connection, counted from when it is `ready`; no
    /// connection is taken from then on.
    pub fn new(
        limit: Duration,
        ready: impl Future<Output = ()> + Send + 'static,
        expired: CancellationToken,
    ) -> Self {
        let state = State { open: HashSet::new(), idle_since: Instant::now(), expired: false };
        let users = Arc::new(Users { state: Mutex::new(state), changed: Notify::new() });
        let watched = users.clone();
        let watch = tokio::spawn(async move {
            ready.await;
            watched.state.lock().idle_since = Instant::now();
            watched.idle(limit).await;
            info!(?limit, "nobody used this endpoint for its idle timeout: it ends");
            expired.cancel();
        });
        Self { limit, users, _watch: AbortOnDropHandle::new(watch) }
    }
}

#[async_trait]
impl Element for OnIdle {
    fn name(&self) -> &'static str {
        "onidle"
    }

    async fn request(&self, cx: &Cx, request: Request, next: Next<'_>) -> Result<Reply> {
        let id = request.connection.id.clone();
        let is_new = {
            let mut state = self.users.state.lock();
            if state.expired {
                let message =
                    format_args!("endpoint expired: nobody used it for {:?}, and it is ending", self.limit);
                return Err(Error::new(Kind::Unavailable, message));
            }
            state.open.insert(id.clone())
        };
        let reply = next.request(cx, request).await;
        if reply.is_err() && is_new {
            self.users.leave(&id);
        }
        reply
    }

    async fn close(&self, cx: &Cx, request: Request, next: Next<'_>) -> Result<()> {
        let id = request.connection.id.clone();
        let closed = next.close(cx, request).await;
        self.users.leave(&id);
        closed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{api::Connection, chain::Chain};

    const LIMIT: Duration = Duration::from_secs(30);

    /// It takes longer to get ready than it may be idle.
    const LATE: Duration = Duration::from_secs(40);

    fn request() -> Request {
        Request { connection: Connection { id: "a".into(), ..Default::default() }, ..Default::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn an_endpoint_ends_once_nobody_used_it_for_its_time_and_takes_nobody_any_more() {
        let expired = CancellationToken::new();
        let chain = Chain::new([
            Arc::new(OnIdle::new(LIMIT, tokio::time::sleep(LATE), expired.clone())) as Arc<dyn Element>
        ]);
        let cx = Cx::within(Duration::from_hours(1));
        tokio::time::sleep(LATE + LIMIT / 2).await;
        chain.start().request(&cx, request()).await.unwrap();
        tokio::time::sleep(LIMIT * 3).await;
        assert!(!expired.is_cancelled(), "it is in use");
        chain.start().close(&cx, request()).await.unwrap();
        tokio::time::sleep(LIMIT / 2).await;
        assert!(!expired.is_cancelled(), "its time is not over");
        tokio::time::sleep(LIMIT).await;
        assert!(expired.is_cancelled());
        let error = chain.start().request(&cx, request()).await.unwrap_err();
        assert!(error.message.contains("endpoint expired"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_endpoint_that_was_never_used_ends_as_well() {
        let expired = CancellationToken::new();
        let _element = OnIdle::new(LIMIT, tokio::time::sleep(LATE), expired.clone());
        assert!(tokio::time::timeout(LATE + LIMIT / 2, expired.cancelled()).await.is_err());
        tokio::time::timeout(LIMIT, expired.cancelled()).await.unwrap();
    }
}

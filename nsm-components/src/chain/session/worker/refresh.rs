//! Repeating a connection's Request: in time, for any endpoint, and when its life ends.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::Worker;
use crate::{
    api::{Connection, connection::State},
    chain::{Cx, Kind, Policy, Reply, Request, jitter},
};

/// Shortest time from an answer to the refresh that follows it, whatever the lives on the path say.
const REFRESH_AFTER: Duration = Duration::from_secs(1);

/// How long an endpoint may be unknown before another one is asked for: longer than endpoints need
/// to register again after a restart of the registry. Until then the old one may still carry packets.
const RESELECT_AFTER: Duration = Duration::from_secs(15);

/// The same for an endpoint whose own process does not answer: long enough for one that is just
/// started anew.
const MOVE_AFTER: Duration = Duration::from_secs(1);

/// Most of a life that a connection is closed before its end, as a part of it.
const CLOSED_BEFORE: u32 = 4;

impl Worker {
    pub(super) async fn refresh(&mut self) {
        let (Policy::Refresh(limit), Some(request)) = (self.policy, self.established.clone()) else { return };
        let gone =
            self.unknown_since.is_some_and(|since| since.elapsed() >= RESELECT_AFTER || self.is_over());
        let anew = gone || self.anew;
        let asked = if anew { self.reselect(request.clone()) } else { request.clone() };
        let error = match self.request(Cx::within(limit), asked).await {
            Ok(reply) => {
                self.counts.0.refreshed.add();
                if anew {
                    let endpoint = &reply.connection.network_service_endpoint_name;
                    info!(%endpoint, "connected anew");
                    self.counts.0.reselected.add();
                }
                (self.unknown_since, self.anew) = (None, false);
                return;
            }
            Err(error) => error,
        };
        if error.kind == Kind::NotFound {
            self.unknown_since.get_or_insert_with(Instant::now);
        }
        if error.kind == Kind::Gone && self.move_elsewhere(request, limit).await {
            return;
        }
        warn!(%error, "could not refresh; trying again");
        self.counts.0.failed.add();
        self.timer = Some(self.clock.after(self.retry.pause()));
    }

    /// Asks for any endpoint when the old one's process is dead for some time. Nothing is ended before
    /// another one has answered: there may be none, and the old one's packets may still pass.
    async fn move_elsewhere(&mut self, request: Request, limit: Duration) -> bool {
        let since = *self.dead_since.get_or_insert_with(Instant::now);
        if since.elapsed() < MOVE_AFTER {
            return false;
        }
        let moved = Connection { state: State::Up.into(), ..self.reselect(request.clone()).connection };
        let mechanism = request.connection.mechanism.clone();
        let moved = Request { connection: Connection { mechanism, ..moved }, ..request };
        match self.request(Cx::within(limit), moved).await {
            Ok(reply) => {
                info!(endpoint = %reply.connection.network_service_endpoint_name, "moved to another endpoint");
                self.counts.0.reselected.add();
                true
            }
            Err(error) => {
                debug!(%error, "no other endpoint");
                false
            }
        }
    }

    /// Whether the life of the connection is over, everywhere: then nothing can be lost any more.
    pub(super) fn is_over(&self) -> bool {
        if self.suspended_until().is_some() {
            return false;
        }
        let ends = self.established.iter().flat_map(|request| request.connection.segments());
        ends.filter_map(|segment| segment.expires).all(|end| self.clock.until(end.seconds).is_zero())
    }

    /// The same Request for any endpoint, by any mechanism. What the old one granted is not sent to
    /// the next; the path is, so that each process finds what it has to end.
    fn reselect(&self, mut request: Request) -> Request {
        let connection = &mut request.connection;
        connection.network_service_endpoint_name.clear();
        connection.mechanism = None;
        connection.context.clone_from(&self.wanted);
        connection.state = State::ReselectRequested.into();
        request
    }

    /// Time to the Close that the end of the connection's life needs, which may take as long as the
    /// Request, or to the next refresh.
    pub(super) fn next_event(&self, reply: &Reply, limit: Duration) -> Duration {
        let until = |segment: &crate::api::PathSegment| {
            segment.expires.map_or(Duration::ZERO, |expires| self.clock.until(expires.seconds))
        };
        match self.policy {
            Policy::Expire => {
                let life = reply.connection.segment(-1).map_or(Duration::ZERO, until);
                life.saturating_sub(limit.min(life / CLOSED_BEFORE))
            }
            Policy::Refresh(_) => {
                let segments = reply.connection.segments();
                let life = segments.iter().map(until).min().unwrap_or_default();
                let count = u32::try_from(segments.len()).unwrap_or(u32::MAX);
                let index = reply.connection.path.as_ref().map_or(0, |path| path.index);
                let after = jitter(if count <= 1 { life / 3 } else { life / 5 + life * index / count / 5 });
                after.max(REFRESH_AFTER)
            }
        }
    }
}

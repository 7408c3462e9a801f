//! Repeating a connection's Request: in time, for any endpoint, and when its life ends.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::{Established, Packets, Worker};
use crate::{
    api::{Connection, connection::State},
    chain::{Cx, Error, Kind, Policy, Reply, Request, Result, jitter},
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

/// Longest try to repair a connection whose packets do not pass, before another endpoint is asked.
const REPAIR_LIMIT: Duration = Duration::from_millis(500);

/// A try to refresh has this part of the life that is left: a process that hangs is not to use it all up.
const TRIES: u32 = 4;

/// Least time of a try.
const LEAST: Duration = Duration::from_secs(1);

/// Whether a Request failed for want of its endpoint.
fn is_without_endpoint(error: &Error) -> bool {
    matches!(error.kind, Kind::Gone | Kind::NotFound)
}

impl Worker {
    pub(super) async fn refresh(&mut self) {
        let (Policy::Refresh(limit), Some(established)) = (self.policy, &self.established) else { return };
        let request = established.request();
        let gone =
            self.unknown_since.is_some_and(|since| since.elapsed() >= RESELECT_AFTER || self.is_over());
        let mut outcome = self.ask(&request, gone, limit).await;
        if self.packets == Packets::Stuck && outcome.as_ref().is_err_and(is_without_endpoint) {
            // There is nothing to wait for.
            self.packets = Packets::Lost;
            outcome = self.ask(&request, gone, limit).await;
        }
        let Err(error) = outcome else { return };
        if error.kind == Kind::NotFound {
            self.unknown_since.get_or_insert_with(Instant::now);
        }
        if self.may_move(&error) && self.move_elsewhere(request, limit).await {
            return;
        }
        warn!(%error, "could not refresh; trying again");
        self.counts.0.failed.add();
        self.timer = Some(self.clock.after(self.retry.pause()));
    }

    /// One try.
    async fn ask(&mut self, request: &Request, gone: bool, limit: Duration) -> Result<()> {
        let anew = gone || self.anew || self.packets == Packets::Lost;
        let asked = if anew { self.reselect(request.clone()) } else { request.clone() };
        let stuck = self.packets == Packets::Stuck && !anew;
        let longest = if stuck { REPAIR_LIMIT } else { self.left().max(LEAST * TRIES) / TRIES };
        let reply = self.request(Cx::within(limit.min(longest)), asked).await?;
        self.counts.0.refreshed.add();
        if anew {
            info!(endpoint = %reply.connection.network_service_endpoint_name, "connected anew");
            self.counts.0.reselected.add();
        }
        (self.unknown_since, self.anew) = (None, false);
        Ok(())
    }

    /// Whether another endpoint may be asked: the old one's process is dead for some time, or the path could
    /// not be refreshed for half of its life, whoever on it is to blame.
    fn may_move(&mut self, error: &Error) -> bool {
        let dead = error.kind == Kind::Gone
            && self.dead_since.get_or_insert_with(Instant::now).elapsed() >= MOVE_AFTER;
        dead || self.is_neglected()
    }

    /// Whether it could not be refreshed for half of its life.
    pub(super) fn is_neglected(&self) -> bool {
        self.answered.is_some_and(|answered| answered.elapsed() >= self.life / 2)
    }

    /// Asks for another endpoint. Nothing is ended before another one has answered: there may be none, and the
    /// old one's packets may still pass.
    async fn move_elsewhere(&mut self, request: Request, limit: Duration) -> bool {
        // Not the same one anew: what it granted may still be of use.
        let moved = Connection { state: State::Down.into(), ..self.reselect(request.clone()).connection };
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
        let Some(established) = &self.established else { return true };
        let connection = established.connection.unpack();
        let mut ends = connection.segments().iter().filter_map(|segment| segment.expires);
        ends.all(|end| self.clock.until(end.seconds).is_zero())
    }

    /// Shortest life on the path of a connection.
    pub(super) fn shortest_life(&self, connection: &Connection) -> Duration {
        let ends = connection.segments().iter().filter_map(|segment| segment.expires);
        ends.map(|end| self.clock.until(end.seconds)).min().unwrap_or_default()
    }

    /// What is left of it.
    fn left(&self) -> Duration {
        let left = |known: &Established| self.shortest_life(&known.connection.unpack());
        self.established.as_ref().map_or(Duration::ZERO, left)
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

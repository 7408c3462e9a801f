//! `drain`: a process that is to be stopped, or whose node is, takes no new connections. Those that there are go
//! on: they are refreshed, healed and closed as ever. One that closes them too takes no Request at all, or their
//! clients would bring them back. It stands before the session.

use std::{
    any::Any,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
};

use async_trait::async_trait;

use crate::{
    api::node,
    chain::{Cx, Element, Error, Kind, Next, Reply, Request, Result, Session},
    daemon::{Metrics, Readiness},
};

/// How far the process drains. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Draining(Arc<State>);

/// What it does about connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Level {
    /// It serves.
    #[default]
    Serve,
    /// It refuses new ones.
    Refuse,
    /// It also closes those that there are.
    Close,
}

#[derive(Debug, Default)]
struct State {
    level: AtomicU8,
    making: AtomicU64,
}

/// A new connection that is being made; dropping it is the end of that.
#[derive(Debug)]
struct Making(Draining);

/// See the module.
pub struct Drain {
    draining: Draining,
    session: Arc<Session>,
}

// === impl Draining ===

impl Draining {
    /// Begins it, or ends it.
    pub fn set(&self, level: Level) {
        self.0.level.store(level as u8, Ordering::SeqCst);
    }

    /// Whether it drains.
    pub fn is_on(&self) -> bool {
        self.0.level.load(Ordering::SeqCst) != Level::Serve as u8
    }

    /// Whether it closes what there is.
    pub fn closes(&self) -> bool {
        self.0.level.load(Ordering::SeqCst) == Level::Close as u8
    }

    /// How many new connections are being made; while it drains they only get fewer.
    pub fn making(&self) -> u64 {
        self.0.making.load(Ordering::SeqCst)
    }

    /// Shows it to those who watch the process: it is not ready for what is new.
    pub fn show(&self, metrics: &Metrics, readiness: &Readiness) {
        let (shown, required) = (self.clone(), self.clone());
        metrics
            .gauge("nsm_draining", "Whether new connections are refused.", move || u64::from(shown.is_on()));
        readiness.require("drain", move || required.is_on().then(|| REFUSAL.to_owned()));
    }

    /// What is told of a process that has so many connections; `told` says whether the next process is told that
    /// this one stops.
    pub(super) fn tell(&self, connections: usize, told: bool) -> node::Drain {
        let (draining, closing, making) = (self.is_on(), self.closes(), self.making());
        let ready = draining && making == 0 && told && (!closing || connections == 0);
        let connections = u64::try_from(connections).unwrap_or(u64::MAX);
        node::Drain { draining, making, ready, closing, connections }
    }

    fn admit(&self) -> Option<Making> {
        // First this: who looks whether anything is being made has begun to drain before.
        self.0.making.fetch_add(1, Ordering::SeqCst);
        let making = Making(self.clone());
        (!self.is_on()).then_some(making)
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        self.0.0.making.fetch_sub(1, Ordering::SeqCst);
    }
}

const REFUSAL: &str =
    "no new connections are taken here until `nsm drain --undo`: the process drains by command";

const CLOSED: &str = "no connections are taken here until `nsm drain --undo`: all are closed by command";

// === impl Level ===

impl From<node::DrainRequest> for Level {
    fn from(asked: node::DrainRequest) -> Self {
        match asked {
            node::DrainRequest { undo: true, .. } => Self::Serve,
            node::DrainRequest { close: true, .. } => Self::Close,
            _ => Self::Refuse,
        }
    }
}

impl From<Level> for node::DrainRequest {
    fn from(level: Level) -> Self {
        Self { undo: level == Level::Serve, close: level == Level::Close }
    }
}

// === impl Drain ===

impl Drain {
    /// Refuses what `session` does not know while `draining` is on.
    pub fn new(draining: Draining, session: Arc<Session>) -> Self {
        Self { draining, session }
    }

    /// Whether somebody has the connection already. After a restart of this process its path alone tells, which
    /// goes on behind this process.
    fn is_known(&self, request: &Request) -> bool {
        request.connection.segment(1).is_some() || self.session.knows(&request.connection.id)
    }
}

#[async_trait]
impl Element for Drain {
    fn name(&self) -> &'static str {
        "drain"
    }

    async fn request(&self, cx: &Cx, request: Request, next: Next<'_>) -> Result<Reply> {
        if self.draining.closes() {
            return Err(Error::new(Kind::Unavailable, CLOSED));
        }
        if self.is_known(&request) {
            return next.request(cx, request).await;
        }
        let Some(making) = self.draining.admit() else { return Err(Error::new(Kind::Unavailable, REFUSAL)) };
        // It goes along: a Request whose caller went away is still worked on.
        let place: Arc<dyn Any + Send + Sync> = Arc::new((cx.place.clone(), making));
        next.request(&Cx { place: Some(place), ..cx.clone() }, request).await
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::Notify;

    use super::*;
    use crate::{
        api::{Connection, Path, PathSegment},
        chain::{Chain, Policy, SystemClock},
        elements::testing::Slow,
    };

    fn process() -> (Chain, Draining, Arc<Notify>) {
        let (draining, answer) = (Draining::default(), Arc::new(Notify::new()));
        let inner = Chain::new([Arc::new(Slow(answer.clone())) as Arc<dyn Element>]);
        let session = Arc::new(Session::new(inner, Policy::Expire, Arc::new(SystemClock)));
        let drain = Drain::new(draining.clone(), session.clone());
        (Chain::new([Arc::new(drain) as Arc<dyn Element>, session]), draining, answer)
    }

    fn request(id: &str, names: &[&str]) -> Request {
        let now = std::time::SystemTime::now();
        let expires = Some((now + Duration::from_hours(1)).into());
        let segment =
            |name: &&str| PathSegment { name: (*name).into(), id: id.into(), expires, ..Default::default() };
        let segments = ["nsc"].iter().chain(names).map(segment);
        let path = Some(Path { index: 1, path_segments: segments.collect() });
        Request { connection: Connection { id: id.into(), path, ..Default::default() }, ..Default::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn new_connections_are_refused_and_known_ones_go_on_until_the_drain_ends() {
        let (chain, draining, answer) = process();
        let cx = Cx::within(Duration::from_mins(1));
        answer.notify_one();
        chain.start().request(&cx, request("known", &["nsmgr"])).await.unwrap();
        draining.set(Level::Refuse);
        let refused = chain.start().request(&cx, request("new", &["nsmgr"])).await.unwrap_err();
        assert_eq!(refused.kind, Kind::Unavailable);
        assert!(refused.message.contains("nsm drain --undo"), "{refused}");
        // One that is known here, and one that was before a restart of this process.
        for known in [request("known", &["nsmgr"]), request("before", &["nsmgr", "forwarder", "nse"])] {
            answer.notify_one();
            chain.start().request(&cx, known).await.unwrap();
        }
        // When all are closed they are refused too.
        draining.set(Level::Close);
        let refused = chain.start().request(&cx, request("known", &["nsmgr"])).await.unwrap_err();
        assert!(refused.message.contains("all are closed"), "{refused}");
        chain.start().close(&cx, request("known", &["nsmgr"])).await.unwrap();
        draining.set(Level::Serve);
        answer.notify_one();
        chain.start().request(&cx, request("new", &["nsmgr"])).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_let_in_before_the_drain_is_finished_whether_its_caller_waits_or_not() {
        let (chain, draining, answer) = process();
        let (second, waits) = (Cx::within(Duration::from_secs(1)), request("new", &["nsmgr"]));
        chain.start().request(&second, waits).await.unwrap_err();
        draining.set(Level::Refuse);
        assert_eq!(draining.making(), 1, "its caller is gone, and it is made all the same");
        answer.notify_one();
        while draining.making() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    #[test]
    fn a_process_that_closes_is_ready_when_none_is_left() {
        let draining = Draining::default();
        let tell = |level, connections| {
            draining.set(level);
            let told = draining.tell(connections, true);
            (told.draining, told.closing, told.ready)
        };
        assert_eq!(tell(Level::Serve, 0), (false, false, false));
        assert_eq!(tell(Level::Refuse, 3), (true, false, true));
        assert_eq!(tell(Level::Close, 3), (true, true, false));
        assert_eq!(tell(Level::Close, 0), (true, true, true));
        assert!(!draining.tell(0, false).ready, "the next process is not told");
        for level in [Level::Serve, Level::Refuse, Level::Close] {
            assert_eq!(Level::from(node::DrainRequest::from(level)), level);
        }
    }

    #[test]
    fn a_process_that_drains_is_not_ready_and_says_why() {
        let (draining, readiness) = (Draining::default(), Readiness::default());
        draining.show(&Metrics::default(), &readiness);
        assert_eq!(readiness.missing(), []);
        draining.set(Level::Refuse);
        assert_eq!(readiness.missing(), [("drain", REFUSAL.to_owned())]);
    }
}

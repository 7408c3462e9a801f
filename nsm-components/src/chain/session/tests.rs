use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};

use super::{worker::SETTLED_AFTER, *};
use crate::{
    api::{Connection, Path, PathSegment, connection::State, connectioncontext::ConnectionContext},
    chain::{BootClock, SystemClock},
};

/// Counts what reaches it, fails on demand, and gives every segment one minute to live.
#[derive(Default)]
struct Probe {
    requests: AtomicUsize,
    closes: AtomicUsize,
    running: AtomicUsize,
    overlapped: AtomicUsize,
    failing: AtomicUsize,
    /// The endpoint of this name does not exist.
    missing: Mutex<Option<String>>,
    /// The process of the endpoint of this name does not answer.
    dead: Mutex<Option<String>>,
    /// The way to the endpoint of this name is cut.
    hidden: Mutex<Option<String>>,
    /// The endpoint of the last Request that succeeded.
    last: Mutex<Option<String>>,
    /// The endpoint of the last Close.
    closed: Mutex<Option<String>>,
    /// The time left to the last Close.
    left: Mutex<Duration>,
    /// Seconds that segments live less than a minute.
    less: AtomicI64,
}

const LIFE: i64 = 60;

#[async_trait]
impl Element for Arc<Probe> {
    fn name(&self) -> &'static str {
        "probe"
    }

    async fn request(&self, _: &Cx, mut request: Request, _: Next<'_>) -> Result<Reply> {
        self.requests.fetch_add(1, Ordering::SeqCst);
        self.overlapped.fetch_add(self.running.fetch_add(1, Ordering::SeqCst), Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(10)).await;
        self.running.fetch_sub(1, Ordering::SeqCst);
        if self.failing.load(Ordering::SeqCst) > 0 {
            self.failing.fetch_sub(1, Ordering::SeqCst);
            return Err(Error::new(Kind::Unavailable, "told to fail"));
        }
        let connection = &mut request.connection;
        if self.missing.lock().as_ref() == Some(&connection.network_service_endpoint_name) {
            return Err(Error::new(Kind::NotFound, "no such endpoint"));
        }
        if self.dead.lock().as_ref() == Some(&connection.network_service_endpoint_name) {
            return Err(Error::new(Kind::Gone, "nobody listens"));
        }
        if self.hidden.lock().as_ref() == Some(&connection.network_service_endpoint_name) {
            return Err(Error::new(Kind::Unavailable, "no way"));
        }
        if connection.network_service_endpoint_name.is_empty() {
            assert!(connection.context.is_none(), "an endpoint gets what another one granted");
            let number = self.requests.load(Ordering::SeqCst);
            connection.network_service_endpoint_name = format!("nse-{number}");
            connection.context = Some(ConnectionContext { mtu: 1400, ..Default::default() });
        }
        #[allow(clippy::cast_possible_truncation)]
        let expires =
            (<dyn super::super::Now>::seconds(&SystemClock) as i64) + LIFE - self.less.load(Ordering::SeqCst);
        for segment in &mut request.connection.path.as_mut().unwrap().path_segments {
            segment.expires = Some(prost_types::Timestamp { seconds: expires, nanos: 0 });
        }
        *self.last.lock() = Some(request.connection.network_service_endpoint_name.clone());
        Ok(Reply { connection: request.connection, files: request.files })
    }

    async fn close(&self, cx: &Cx, request: Request, _: Next<'_>) -> Result<()> {
        *self.left.lock() = cx.left();
        self.closes.fetch_add(1, Ordering::SeqCst);
        *self.closed.lock() = Some(request.connection.network_service_endpoint_name);
        Ok(())
    }
}

fn session(policy: Policy) -> (Arc<Probe>, Chain, Arc<Session>) {
    session_by(policy, Arc::new(SystemClock))
}

fn session_by(policy: Policy, clock: Clock) -> (Arc<Probe>, Chain, Arc<Session>) {
    let probe = Arc::new(Probe::default());
    let inner = Chain::new([Arc::new(probe.clone()) as Arc<dyn Element>]);
    let session = Arc::new(Session::new(inner, policy, clock));
    (probe, Chain::new([session.clone() as Arc<dyn Element>]), session)
}

fn request(id: &str) -> Request {
    let segments = ["nsc", "nsmgr"].map(|name| PathSegment { name: name.into(), ..Default::default() });
    let path = Path { index: 1, path_segments: segments.into() };
    Request {
        connection: Connection { id: id.into(), path: Some(path), ..Default::default() },
        ..Default::default()
    }
}

fn cx() -> Cx {
    Cx::within(Duration::from_secs(5))
}

#[tokio::test(start_paused = true)]
async fn events_of_one_connection_never_overlap() {
    let (probe, chain, _) = session(Policy::Expire);
    let calls = (0..8).map(|_| {
        let chain = chain.clone();
        tokio::spawn(async move { chain.start().request(&cx(), request("a")).await.unwrap() })
    });
    futures::future::join_all(calls).await;
    assert_eq!(probe.requests.load(Ordering::SeqCst), 8);
    assert_eq!(probe.overlapped.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_not_refreshed_is_closed_while_its_callers_token_still_counts() {
    let (probe, chain, session) = session(Policy::Expire);
    chain.start().request(&cx(), request("a")).await.unwrap();
    tokio::time::sleep(Duration::from_secs(50)).await;
    assert_eq!((probe.closes.load(Ordering::SeqCst), session.len()), (0, 1));
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!((probe.closes.load(Ordering::SeqCst), session.len()), (1, 0));
    // A call that may take longer than tokens live takes a quarter of the life at most.
    chain.start().request(&Cx::within(Duration::from_mins(10)), request("a")).await.unwrap();
    tokio::time::sleep(Duration::from_secs(43)).await;
    assert_eq!(session.len(), 1);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!((probe.closes.load(Ordering::SeqCst), session.len()), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_client_refreshes_in_time_and_tries_again_when_that_fails() {
    let (probe, chain, session) = session(Policy::Refresh(Duration::from_secs(5)));
    chain.start().request(&cx(), request("a")).await.unwrap();
    probe.failing.store(3, Ordering::SeqCst);
    // The second of two on the path: after three tenths of the life, or up to a tenth earlier.
    tokio::time::sleep(Duration::from_secs(16)).await;
    assert_eq!(probe.requests.load(Ordering::SeqCst), 1);
    tokio::time::sleep(Duration::from_secs(8)).await;
    assert_eq!(probe.requests.load(Ordering::SeqCst), 1 + 3 + 1);
    assert_eq!((probe.closes.load(Ordering::SeqCst), session.len()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_first_request_that_fails_leaves_nothing() {
    let (probe, chain, session) = session(Policy::Expire);
    probe.failing.store(1, Ordering::SeqCst);
    let error = chain.start().request(&cx(), request("a")).await.unwrap_err();
    assert_eq!(error.kind, Kind::Unavailable);
    tokio::task::yield_now().await;
    assert!(session.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_away_does_not_cancel_what_it_asked_for() {
    let (probe, chain, session) = session(Policy::Expire);
    let gone = tokio::time::timeout(Duration::from_millis(1), async {
        chain.start().request(&cx(), request("a")).await
    });
    assert!(gone.await.is_err());
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!((probe.requests.load(Ordering::SeqCst), session.len()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_process_closes_nothing() {
    let (probe, chain, session) = session(Policy::Expire);
    chain.start().request(&cx(), request("a")).await.unwrap();
    drop((chain, session));
    tokio::time::sleep(Duration::from_mins(2)).await;
    assert_eq!(probe.closes.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn another_endpoint_is_asked_for_only_when_the_old_one_stays_unknown() {
    let (probe, chain, _) = session(Policy::Refresh(Duration::from_secs(5)));
    let endpoint = |reply: Reply| reply.connection.network_service_endpoint_name;
    let first = endpoint(chain.start().request(&cx(), request("a")).await.unwrap());
    // A registry that was started anew knows the endpoint again after a moment.
    *probe.missing.lock() = Some(first.clone());
    tokio::time::sleep(Duration::from_secs(20)).await;
    *probe.missing.lock() = None;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let requests = probe.requests.load(Ordering::SeqCst);
    assert!(requests > 3, "it was tried again: {requests}");
    assert_eq!(probe.last.lock().as_deref(), Some(first.as_str()));
    *probe.missing.lock() = Some(first.clone());
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert_ne!(probe.last.lock().as_deref(), Some(first.as_str()));
}

#[tokio::test(start_paused = true)]
async fn a_caller_of_close_that_goes_away_does_not_cancel_it() {
    let (probe, chain, session) = session(Policy::Expire);
    chain.start().request(&cx(), request("a")).await.unwrap();
    {
        let cx = cx();
        let mut close = std::pin::pin!(chain.start().close(&cx, request("a")));
        assert!(futures::poll!(&mut close).is_pending());
    }
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!((probe.closes.load(Ordering::SeqCst), session.len()), (1, 0));
}

fn reselect(id: &str) -> Request {
    let mut request = request(id);
    request.connection.set_state(State::ReselectRequested);
    request
}

#[tokio::test(start_paused = true)]
async fn a_request_for_another_endpoint_ends_what_is_known_first() {
    let (probe, chain, session) = session(Policy::Expire);
    chain.start().request(&cx(), reselect("a")).await.unwrap();
    assert_eq!(probe.closes.load(Ordering::SeqCst), 0, "there was nothing to end");
    let reply = chain.start().request(&cx(), reselect("a")).await.unwrap();
    assert_eq!((probe.closes.load(Ordering::SeqCst), session.len()), (1, 1));
    assert_eq!(reply.connection.state(), State::Up);
    chain.start().request(&cx(), request("a")).await.unwrap();
    assert_eq!(probe.closes.load(Ordering::SeqCst), 1, "a refresh ends nothing");
}

#[tokio::test(start_paused = true)]
async fn a_process_between_client_and_endpoint_keeps_what_is_known_while_it_asks_for_another_endpoint() {
    let probe = Arc::new(Probe::default());
    let inner = Chain::new([Arc::new(probe.clone()) as Arc<dyn Element>]);
    let session = Arc::new(Session::new(inner, Policy::Expire, Arc::new(SystemClock)).passing_on());
    let chain = Chain::new([session.clone() as Arc<dyn Element>]);
    chain.start().request(&cx(), request("a")).await.unwrap();
    probe.failing.store(1, Ordering::SeqCst);
    chain.start().request(&cx(), reselect("a")).await.unwrap_err();
    assert_eq!((probe.closes.load(Ordering::SeqCst), session.len()), (0, 1), "the old way may still carry");
    chain.start().request(&cx(), reselect("a")).await.unwrap();
    assert_eq!(probe.closes.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_whose_packets_do_not_pass_is_left_at_once_and_kept_if_they_pass_again() {
    let (probe, chain, session) = session(Policy::Refresh(Duration::from_secs(5)));
    let last = || probe.last.lock().clone().unwrap();
    chain.start().request(&cx(), request("a")).await.unwrap();
    let first = last();
    let tell = async |cure| {
        tokio::time::sleep(Duration::from_millis(20)).await;
        session.cure(cure);
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    tell(Cure::Repair).await;
    assert_eq!((last(), probe.requests.load(Ordering::SeqCst)), (first.clone(), 2), "it is repaired");
    *probe.dead.lock() = Some(first.clone());
    tell(Cure::Repair).await;
    let second = last();
    assert_ne!(second, first, "nothing is waited for once its process is gone");
    tell(Cure::Leave).await;
    let third = last();
    assert_ne!(third, second);
    probe.failing.store(1, Ordering::SeqCst);
    tell(Cure::Leave).await;
    tell(Cure::Stay).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(last(), third, "its packets pass again before another one was found");
    let asked = probe.requests.load(Ordering::SeqCst);
    tell(Cure::Stay).await;
    assert_eq!(probe.requests.load(Ordering::SeqCst), asked, "nothing was wrong");
    assert_eq!(probe.closes.load(Ordering::SeqCst), 0, "nothing is ended first");
}

#[tokio::test(start_paused = true)]
async fn a_path_that_cannot_be_refreshed_for_half_its_life_is_left_before_it_ends() {
    let (probe, chain, _session) = session(Policy::Refresh(Duration::from_secs(5)));
    chain.start().request(&cx(), request("a")).await.unwrap();
    let first = probe.last.lock().clone().unwrap();
    *probe.hidden.lock() = Some(first.clone());
    tokio::time::sleep(Duration::from_secs(25)).await;
    assert_eq!(probe.last.lock().as_ref(), Some(&first), "it may come back");
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_ne!(probe.last.lock().as_ref(), Some(&first));
    assert_eq!(probe.closes.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn a_close_ends_what_is_known_not_what_the_caller_says() {
    let (probe, chain, _) = session(Policy::Expire);
    let reply = chain.start().request(&cx(), request("a")).await.unwrap();
    let mut other = request("a");
    other.connection.network_service_endpoint_name = "another".into();
    chain.start().close(&cx(), other).await.unwrap();
    let endpoint = reply.connection.network_service_endpoint_name;
    assert_eq!(probe.closed.lock().as_deref(), Some(endpoint.as_str()));
}

#[tokio::test(start_paused = true)]
async fn what_was_closed_on_the_way_is_asked_for_anew_and_until_that_succeeds() {
    let (probe, chain, session) = session(Policy::Refresh(Duration::from_secs(5)));
    let endpoint = |reply: &Reply| reply.connection.network_service_endpoint_name.clone();
    let first = chain.start().request(&cx(), request("a")).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    probe.failing.store(2, Ordering::SeqCst);
    session.cure(Cure::AskAnew);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let second = probe.last.lock().clone().unwrap();
    assert_ne!(second, endpoint(&first));
    // The close of the old one is told late: that of the new one it is not.
    session.cure(Cure::AskAnew);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_ne!(probe.last.lock().clone().unwrap(), endpoint(&first));
}

#[tokio::test(start_paused = true)]
async fn what_expired_on_the_way_while_nobody_could_refresh_it_is_asked_for_as_it_was() {
    let (probe, chain, session) = session(Policy::Refresh(Duration::from_secs(5)));
    let reply = chain.start().request(&cx(), request("a")).await.unwrap();
    probe.failing.store(usize::MAX, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(LIFE.unsigned_abs() * 3 / 4)).await;
    session.cure(Cure::AskAnew);
    tokio::time::sleep(Duration::from_secs(1)).await;
    probe.failing.store(0, Ordering::SeqCst);
    let before = probe.requests.load(Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(probe.requests.load(Ordering::SeqCst) > before);
    assert_eq!(*probe.last.lock(), Some(reply.connection.network_service_endpoint_name));
}

#[tokio::test(start_paused = true)]
async fn a_close_told_right_after_an_answer_is_that_of_the_connection_before() {
    let (probe, chain, session) = session(Policy::Refresh(Duration::from_secs(5)));
    let reply = chain.start().request(&cx(), request("a")).await.unwrap();
    tokio::time::sleep(SETTLED_AFTER / 2).await;
    session.cure(Cure::AskAnew);
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(probe.requests.load(Ordering::SeqCst), 2, "it is asked for, to be sure");
    assert_eq!(*probe.last.lock(), Some(reply.connection.network_service_endpoint_name));
}

#[tokio::test(start_paused = true)]
async fn many_calls_to_heal_are_one_request() {
    let (probe, chain, session) = session(Policy::Refresh(Duration::from_secs(5)));
    chain.start().request(&cx(), request("a")).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    for _ in 0..10 {
        session.cure(Cure::Ask);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(probe.requests.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_asks_again_does_not_bring_back_what_changed_meanwhile() {
    let (probe, chain, session) = session(Policy::Refresh(Duration::from_secs(5)));
    let first = chain.start().request(&cx(), request("a")).await.unwrap().connection;
    tokio::time::sleep(Duration::from_secs(1)).await;
    session.cure(Cure::AskAnew);
    tokio::time::sleep(Duration::from_millis(20)).await;
    let moved = probe.last.lock().clone().unwrap();
    let again = Request { connection: first, ..Request::default() };
    let reply = chain.start().request(&cx(), again).await.unwrap();
    assert_eq!(reply.connection.network_service_endpoint_name, moved);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_whose_process_is_dead_is_left_soon_but_not_one_that_is_back_at_once() {
    let (probe, chain, session) = session(Policy::Refresh(Duration::from_secs(5)));
    let reply = chain.start().request(&cx(), request("a")).await.unwrap();
    let first = reply.connection.network_service_endpoint_name;
    tokio::time::sleep(Duration::from_secs(1)).await;
    *probe.dead.lock() = Some(first.clone());
    session.cure(Cure::Ask);
    tokio::time::sleep(Duration::from_millis(500)).await;
    *probe.dead.lock() = None;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(probe.last.lock().as_deref(), Some(first.as_str()));
    *probe.dead.lock() = Some(first.clone());
    session.cure(Cure::Ask);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_ne!(probe.last.lock().as_deref(), Some(first.as_str()));
    assert_eq!(probe.closes.load(Ordering::SeqCst), 0, "nothing is ended first");
}

#[tokio::test(start_paused = true)]
async fn a_process_may_end_a_connection_by_itself() {
    let (probe, chain, session) = session(Policy::Expire);
    chain.start().request(&cx(), request("a")).await.unwrap();
    session.end("unknown");
    session.end("a");
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!((probe.closes.load(Ordering::SeqCst), session.len()), (1, 0));
}

/// A session whose lives do not count until the moment that is told.
fn held(policy: Policy) -> (watch::Sender<Option<Instant>>, Arc<Probe>, Chain, Arc<Session>) {
    let (probe, (told, suspended)) = (Arc::new(Probe::default()), watch::channel(None));
    let inner = Chain::new([Arc::new(probe.clone()) as Arc<dyn Element>]);
    let session = Session::new(inner, policy, Arc::new(SystemClock)).suspended_by(suspended);
    let session = Arc::new(session);
    (told, probe, Chain::new([session.clone() as Arc<dyn Element>]), session)
}

#[tokio::test(start_paused = true)]
async fn nothing_expires_while_nobody_can_refresh_and_what_is_not_refreshed_then_does() {
    let (told, probe, chain, session) = held(Policy::Expire);
    for id in ["a", "b"] {
        chain.start().request(&cx(), request(id)).await.unwrap();
    }
    told.send_replace(Some(Instant::now() + Duration::from_hours(24)));
    tokio::time::sleep(Duration::from_hours(23)).await;
    assert_eq!((probe.closes.load(Ordering::SeqCst), session.len()), (0, 2));
    // They can again, and have this time to do it.
    told.send_replace(Some(Instant::now() + Duration::from_secs(30)));
    tokio::time::sleep(Duration::from_secs(20)).await;
    chain.start().request(&cx(), request("a")).await.unwrap();
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!((probe.closes.load(Ordering::SeqCst), session.len()), (1, 1));
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert!(session.is_empty(), "lives count again");
}

#[tokio::test(start_paused = true)]
async fn expiry_is_suspended_no_longer_than_it_is_told() {
    let (told, _, chain, session) = held(Policy::Expire);
    chain.start().request(&cx(), request("a")).await.unwrap();
    told.send_replace(Some(Instant::now() + Duration::from_hours(24)));
    tokio::time::sleep(Duration::from_hours(24) + Duration::from_secs(6)).await;
    assert!(session.is_empty());
}

/// A wall clock that the test sets.
#[derive(Clone, Default)]
struct Wall(Arc<std::sync::atomic::AtomicI64>);

impl super::super::Now for Wall {
    fn seconds(&self) -> f64 {
        let jumped = i32::try_from(self.0.load(Ordering::SeqCst)).unwrap();
        SystemClock.seconds() + f64::from(jumped)
    }
}

#[tokio::test(start_paused = true)]
async fn a_wall_clock_that_jumps_ends_no_connection_and_delays_no_end() {
    for jump in [86_400, -86_400] {
        let (probe, wall) = (Arc::new(Probe::default()), Wall::default());
        let inner = Chain::new([Arc::new(probe.clone()) as Arc<dyn Element>]);
        let session = Arc::new(Session::new(inner, Policy::Expire, Arc::new(wall.clone())));
        let chain = Chain::new([session.clone() as Arc<dyn Element>]);
        chain.start().request(&cx(), request("a")).await.unwrap();
        wall.0.store(jump, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_secs(50)).await;
        assert_eq!((probe.closes.load(Ordering::SeqCst), session.len()), (0, 1), "{jump}");
        tokio::time::sleep(Duration::from_secs(15)).await;
        assert_eq!((probe.closes.load(Ordering::SeqCst), session.len()), (1, 0), "{jump}");
    }
}

#[tokio::test(start_paused = true)]
async fn lives_that_are_over_already_make_no_refreshes_at_full_speed() {
    let (probe, chain, _) = session(Policy::Refresh(Duration::from_secs(5)));
    probe.less.store(2 * LIFE, Ordering::SeqCst);
    chain.start().request(&cx(), request("a")).await.unwrap();
    tokio::time::sleep(Duration::from_secs(10)).await;
    let requests = probe.requests.load(Ordering::SeqCst);
    assert!((9..=11).contains(&requests), "{requests}");
}

#[tokio::test(start_paused = true)]
async fn a_close_that_waited_longer_than_its_caller_has_time_of_its_own() {
    let (probe, chain, session) = session(Policy::Expire);
    chain.start().request(&cx(), request("a")).await.unwrap();
    let short = Cx::within(Duration::from_millis(5));
    let later = cx();
    let (asked, closed) =
        tokio::join!(chain.start().request(&later, request("a")), chain.start().close(&short, request("a")));
    asked.unwrap();
    closed.unwrap();
    assert_eq!((probe.closes.load(Ordering::SeqCst), session.len()), (1, 0));
    assert!(*probe.left.lock() > Duration::from_secs(5), "{:?}", probe.left.lock());
}

#[tokio::test(start_paused = true)]
async fn a_request_that_waited_longer_than_its_caller_is_not_begun() {
    let (probe, chain, session) = session(Policy::Expire);
    let (first, short) = (cx(), Cx::within(Duration::from_millis(5)));
    let (asked, late) = tokio::join!(
        chain.start().request(&first, request("a")),
        chain.start().request(&short, request("a"))
    );
    asked.unwrap();
    assert_eq!(late.unwrap_err().kind, Kind::Deadline);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!((probe.requests.load(Ordering::SeqCst), session.len()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_client_refreshes_as_soon_as_its_machine_wakes_and_a_server_gives_it_the_time() {
    static ASLEEP: AtomicU64 = AtomicU64::new(0);
    let clock = BootClock::of(|| Duration::from_secs(ASLEEP.load(Ordering::SeqCst)));
    let (client, asks, _client) = session_by(Policy::Refresh(Duration::from_secs(5)), clock.clone());
    let (server, asked, session) = session_by(Policy::Expire, clock);
    asks.start().request(&cx(), request("a")).await.unwrap();
    asked.start().request(&cx(), request("a")).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    ASLEEP.fetch_add(3600, Ordering::SeqCst);
    // The clock looks every five seconds.
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(client.requests.load(Ordering::SeqCst), 2);
    tokio::time::sleep(Duration::from_secs(50)).await;
    assert_eq!(server.closes.load(Ordering::SeqCst), 0);
    asked.start().request(&cx(), request("a")).await.unwrap();
    tokio::time::sleep(Duration::from_secs(50)).await;
    assert_eq!(server.closes.load(Ordering::SeqCst), 0, "it was refreshed in time");
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!((server.closes.load(Ordering::SeqCst), session.len()), (1, 0), "nobody did again");
}

/// The wall clock, that much off.
struct Off(AtomicI64);

impl super::super::Now for Off {
    #[allow(clippy::cast_precision_loss)]
    fn seconds(&self) -> f64 {
        super::super::Now::seconds(&SystemClock) + self.0.load(Ordering::SeqCst) as f64
    }
}

#[tokio::test(start_paused = true)]
async fn a_wall_clock_that_jumps_ends_nothing_early_and_keeps_nothing_for_longer() {
    for jump in [3600, -3600] {
        let clock = Arc::new(Off(AtomicI64::default()));
        let (probe, chain, session) = session_by(Policy::Expire, clock.clone());
        chain.start().request(&cx(), request("a")).await.unwrap();
        clock.0.store(jump, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_secs(50)).await;
        assert_eq!((probe.closes.load(Ordering::SeqCst), session.len()), (0, 1), "{jump}");
        tokio::time::sleep(Duration::from_secs(6)).await;
        assert_eq!((probe.closes.load(Ordering::SeqCst), session.len()), (1, 0), "{jump}");
    }
}

#[tokio::test]
async fn a_connection_at_rest_holds_no_room_for_calls() {
    let session = Session::new(Chain::new([]), Policy::Expire, Arc::new(crate::chain::SystemClock));
    let (_events, receiver) = tokio::sync::mpsc::channel(1);
    let task = super::worker::Worker::new(&session, "a").run(receiver);
    assert!(std::mem::size_of_val(&task) < 4 << 10, "{} bytes", std::mem::size_of_val(&task));
    // A queue takes room for 32 of them at a time.
    assert!(std::mem::size_of::<Event>() <= 32, "{} bytes", std::mem::size_of::<Event>());
}

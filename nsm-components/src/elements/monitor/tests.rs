//! What subscribers are told.

use std::time::Duration;

use super::{
    subscribers::{IN_TOTAL, PER_PEER, QUEUE},
    *,
};
use crate::chain::Chain;

fn request(id: &str) -> Request {
    Request { connection: Connection { id: id.into(), ..Default::default() }, ..Default::default() }
}

fn monitored() -> (Arc<Monitor>, Chain, Cx) {
    let monitor = Arc::new(Monitor::default());
    let chain = Chain::new([Arc::new(monitor.clone()) as Arc<dyn Element>]);
    (monitor, chain, Cx::within(Duration::from_secs(1)))
}

#[tokio::test]
async fn a_new_subscriber_gets_what_there_is_and_then_every_change() {
    let (monitor, chain, cx) = monitored();
    chain.start().request(&cx, request("a")).await.unwrap();
    let mut events = Box::pin(monitor.add(MonitorScopeSelector::default(), None).unwrap());
    chain.start().request(&cx, request("b")).await.unwrap();
    chain.start().close(&cx, request("a")).await.unwrap();
    let mut seen = Vec::new();
    for _ in 0..3 {
        let (kind, connections) = events.next().await.unwrap();
        seen.push((kind, connections[0].connection.id.clone()));
    }
    let expected = [
        (ConnectionEventType::InitialStateTransfer, "a".to_owned()),
        (ConnectionEventType::Update, "b".to_owned()),
        (ConnectionEventType::Delete, "a".to_owned()),
    ];
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn the_first_event_comes_even_when_there_is_nothing_to_tell() {
    let (monitor, chain, cx) = monitored();
    chain.start().request(&cx, request("a")).await.unwrap();
    let mut events =
        Box::pin(monitor.subscribe(MonitorScopeSelector::default(), "spiffe://d/stranger").unwrap());
    let first = events.next().await.unwrap().unwrap();
    assert_eq!((first.r#type(), first.connections.len()), (ConnectionEventType::InitialStateTransfer, 0));
}

/// Fails every Request.
struct Broken;

#[async_trait]
impl Element for Broken {
    fn name(&self) -> &'static str {
        "broken"
    }

    async fn request(&self, _: &Cx, _: Request, _: Next<'_>) -> Result<Reply> {
        Err(crate::chain::Error::new(crate::chain::Kind::Unavailable, "told to fail"))
    }
}

#[tokio::test]
async fn a_connection_that_cannot_be_refreshed_is_told_to_be_down_once_and_with_its_error() {
    let (monitor, chain, cx) = monitored();
    chain.start().request(&cx, request("a")).await.unwrap();
    let mut events = Box::pin(monitor.add(MonitorScopeSelector::default(), None).unwrap());
    events.next().await.unwrap();
    let broken = Chain::new([Arc::new(monitor.clone()) as Arc<dyn Element>, Arc::new(Broken)]);
    for _ in 0..2 {
        broken.start().request(&cx, request("a")).await.unwrap_err();
    }
    broken.start().request(&cx, request("unknown")).await.unwrap_err();
    let [(connection, error)] = &monitor.connections()[..] else { panic!("one connection is known") };
    assert_eq!((connection.state(), error.as_deref()), (State::Down, Some("told to fail")));
    chain.start().request(&cx, request("a")).await.unwrap();
    let [seen] = &monitor.seen()[..] else { panic!("one connection is known") };
    let healed = seen.past.last_heal.as_ref().map(|healed| healed.cause.as_str());
    assert_eq!((seen.past.heals, healed, &seen.error), (1, Some("told to fail"), &None));
    let states = [events.next().await.unwrap(), events.next().await.unwrap()]
        .map(|(_, all)| all[0].connection.state());
    assert_eq!(states, [State::Down, State::Up]);
}

#[tokio::test]
async fn a_connection_that_is_to_be_asked_for_again_is_told_so_unless_it_was_since() {
    let (monitor, chain, cx) = monitored();
    let heard = SystemTime::now();
    chain.start().request(&cx, request("a")).await.unwrap();
    assert!(!monitor.ask_again("a", "gone", heard), "it was asked for since then");
    assert!(!monitor.ask_again("unknown", "gone", SystemTime::now()));
    assert!(monitor.ask_again("a", "gone", SystemTime::now()));
    assert!(!monitor.ask_again("a", "gone", SystemTime::now()), "once");
    // The next process finds nothing wrong with it: that mends nothing here.
    monitor.said("a", &request("a").connection);
    let [(connection, error)] = &monitor.connections()[..] else { panic!("one connection is known") };
    assert_eq!((connection.state(), error.as_deref()), (State::RefreshRequested, Some("gone")));
    chain.start().request(&cx, request("a")).await.unwrap();
    let [seen] = &monitor.seen()[..] else { panic!("one connection is known") };
    let healed = seen.past.last_heal.as_ref().map(|healed| healed.cause.as_str());
    assert_eq!((seen.connection.state(), healed), (State::Up, Some("gone")));
}

#[tokio::test]
async fn a_subscriber_that_does_not_read_is_cut_off_and_the_others_never_notice() {
    let (monitor, chain, cx) = monitored();
    let gone = monitor.watch();
    let mut quick = Box::pin(monitor.watch());
    let stuck = Box::pin(monitor.add(MonitorScopeSelector::default(), None).unwrap());
    for _ in 0..=QUEUE {
        chain.start().request(&cx, request("a")).await.unwrap();
        quick.next().await.unwrap();
    }
    assert_eq!(monitor.state.lock().subscribers.len(), (1, 0));
    assert_eq!(stuck.count().await, QUEUE);
    drop((gone, quick));
    assert_eq!(monitor.state.lock().subscribers.len(), (0, 0));
}

#[tokio::test]
async fn streams_are_limited_for_each_peer_and_in_total_and_count_until_they_end() {
    let (monitor, ..) = monitored();
    let open = |peer: &str| monitor.subscribe(MonitorScopeSelector::default(), peer);
    let mut held: Vec<_> = (0..PER_PEER).map(|_| open("spiffe://d/a").unwrap()).collect();
    let refusal = open("spiffe://d/a").err().unwrap();
    assert_eq!(refusal.code(), tonic::Code::ResourceExhausted);
    assert!(refusal.message().contains("4096 monitor streams of spiffe://d/a"), "{refusal}");
    held.pop();
    held.push(open("spiffe://d/a").unwrap());
    let rest: Vec<_> = (PER_PEER..IN_TOTAL).map(|n| open(&format!("spiffe://d/{n}")).unwrap()).collect();
    let refusal = open("spiffe://d/b").err().unwrap();
    assert!(refusal.message().contains("16384 monitor streams"), "{refusal}");
    assert_eq!(monitor.state.lock().subscribers.len(), (IN_TOTAL, IN_TOTAL));
    drop((held, rest));
    assert_eq!(monitor.state.lock().subscribers.len(), (0, 0), "an end leaves nothing, without any event");
}

#[tokio::test]
async fn a_stream_that_was_cut_off_counts_until_its_reader_is_gone() {
    let (monitor, ..) = monitored();
    let stuck = monitor.subscribe(MonitorScopeSelector::default(), "spiffe://d/a").unwrap();
    let told = request_of("a", "spiffe://d/a", "spiffe://d/b");
    for _ in 0..=QUEUE {
        monitor.answered(told.clone(), Asked::default());
    }
    assert_eq!(monitor.state.lock().subscribers.len(), (0, 1));
    drop(stuck);
    assert_eq!(monitor.state.lock().subscribers.len(), (0, 0));
}

/// A connection whose first segment was signed by one and meant for another.
fn request_of(id: &str, by: &str, to: &str) -> Connection {
    use jsonwebtoken::{EncodingKey, Header};
    let claims = crate::transport::token::Claims { sub: by.into(), aud: vec![to.into()], exp: 1 };
    let token = jsonwebtoken::encode(&Header::default(), &claims, &EncodingKey::from_secret(b"any")).unwrap();
    let segment = crate::api::PathSegment { token, ..Default::default() };
    let path = crate::api::Path { index: 0, path_segments: vec![segment] };
    Connection { id: id.into(), path: Some(path), ..Default::default() }
}

#[tokio::test]
async fn those_on_the_path_see_a_connection_without_its_tokens_and_share_one_copy() {
    let (monitor, ..) = monitored();
    monitor.answered(request_of("a", "spiffe://d/a", "spiffe://d/b"), Asked::default());
    for (peer, seen) in [("spiffe://d/a", 1), ("spiffe://d/b", 1), ("spiffe://d/c", 0)] {
        let mut events = Box::pin(monitor.subscribe(MonitorScopeSelector::default(), peer).unwrap());
        let first = events.next().await.unwrap().unwrap();
        assert_eq!(first.connections.len(), seen, "{peer}");
        assert!(first.connections.values().all(|c| c.segments()[0].token.is_empty()));
    }
    let (mut one, mut two) = (Box::pin(monitor.watch()), Box::pin(monitor.watch()));
    // A change that keeps the path keeps those who see it.
    monitor.down("a", "gone", true);
    let all = [one.next().await, one.next().await, two.next().await, two.next().await];
    let [first, down, _, same] = all.map(|event| event.unwrap().connection);
    assert_eq!((first.state(), down.state()), (State::Up, State::Down));
    assert!(Arc::ptr_eq(&down, &same));
    let seen = monitor.subscribe(MonitorScopeSelector::default(), "spiffe://d/b").unwrap();
    assert_eq!(Box::pin(seen).next().await.unwrap().unwrap().connections.len(), 1);
}

#[test]
fn what_is_closed_while_it_is_said_to_be_down_stays_closed() {
    let monitor = Monitor::default();
    let connection = request("a").connection;
    let together = std::sync::Barrier::new(2);
    for _ in 0..5000 {
        monitor.answered(connection.clone(), Asked::default());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                together.wait();
                monitor.down("a", "gone", true);
            });
            together.wait();
            monitor.closed(connection.clone());
        });
        assert!(monitor.connections().is_empty());
    }
}

//! What subscribers are told.

use std::time::Duration;

use super::*;
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
    let mut events = Box::pin(monitor.add(MonitorScopeSelector::default(), None));
    chain.start().request(&cx, request("b")).await.unwrap();
    chain.start().close(&cx, request("a")).await.unwrap();
    let mut seen = Vec::new();
    for _ in 0..3 {
        let (kind, connections) = events.next().await.unwrap();
        seen.push((kind, connections[0].id.clone()));
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
    let mut events = Box::pin(monitor.subscribe(MonitorScopeSelector::default(), "spiffe://d/stranger"));
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
    let mut events = Box::pin(monitor.add(MonitorScopeSelector::default(), None));
    events.next().await.unwrap();
    let broken = Chain::new([Arc::new(monitor.clone()) as Arc<dyn Element>, Arc::new(Broken)]);
    for _ in 0..2 {
        broken.start().request(&cx, request("a")).await.unwrap_err();
    }
    broken.start().request(&cx, request("unknown")).await.unwrap_err();
    let [(connection, error)] = &monitor.connections()[..] else { panic!("one connection is known") };
    assert_eq!((connection.state(), error.as_deref()), (State::Down, Some("told to fail")));
    chain.start().request(&cx, request("a")).await.unwrap();
    let states = [events.next().await.unwrap(), events.next().await.unwrap()].map(|(_, all)| all[0].state());
    assert_eq!(states, [State::Down, State::Up]);
}

#[tokio::test]
async fn a_subscriber_that_does_not_read_is_cut_off_and_the_others_never_notice() {
    let (monitor, chain, cx) = monitored();
    let slow = monitor.subscribe(MonitorScopeSelector::default(), "x");
    let mut quick = Box::pin(monitor.watch());
    let stuck = Box::pin(monitor.add(MonitorScopeSelector::default(), None));
    for _ in 0..=QUEUE {
        chain.start().request(&cx, request("a")).await.unwrap();
        quick.next().await.unwrap();
    }
    assert_eq!(monitor.state.lock().subscribers.len(), 2);
    assert_eq!(stuck.count().await, QUEUE);
    drop(slow);
}

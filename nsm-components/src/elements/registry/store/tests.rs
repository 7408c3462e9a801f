//! How long entries live.

use futures::StreamExt;

use super::*;
use crate::{
    api::{
        peer::Peer,
        registry::{NetworkService, NetworkServiceEndpoint},
    },
    chain::{Caller, Link, Now, RegistryChain, SystemClock},
};

type Chain = RegistryChain<NetworkServiceEndpoint>;

fn now() -> i64 {
    #[allow(clippy::cast_possible_truncation)]
    let now = SystemClock.seconds() as i64;
    now
}

/// A connection on which this process's tokens end then.
#[derive(Debug)]
struct EndsAt(i64);

impl Link for EndsAt {
    fn own_id(&self) -> &'static str {
        ""
    }

    fn own_token(&self) -> Result<(Arc<str>, i64)> {
        Ok(("".into(), self.0))
    }

    fn is_signed(&self, _: &str) -> bool {
        true
    }

    fn certificate(&self) -> &[u8] {
        &[]
    }
}

/// A call with tokens that end in so many seconds: the caller's and the own one.
fn call(caller: i64, own: i64) -> RegistryCx {
    let peer = Peer { id: "spiffe://d/a".into(), public_key: Vec::new(), not_after: 0 };
    let token = Some(("".into(), now() + caller));
    let caller = Caller { token, link: Arc::new(EndsAt(now() + own)), ..Caller::test(peer) };
    RegistryCx { caller: Some(Arc::new(caller)), ..RegistryCx::within(Duration::from_secs(5)) }
}

fn entry(name: &str, left: Option<i64>) -> NetworkServiceEndpoint {
    let expiration_time = left.map(|left| Timestamp { seconds: now() + left, nanos: 0 });
    let path_ids = vec!["spiffe://d/a".into()];
    NetworkServiceEndpoint { name: name.into(), expiration_time, path_ids, ..Default::default() }
}

async fn names(chain: &Chain) -> Vec<String> {
    let found = chain.start().find(&call(1, 1), Query::default()).await.unwrap();
    found.map(|event| event.unwrap().entry.name).collect().await
}

fn chain() -> Chain {
    Chain::new([Store::in_memory() as _])
}

#[tokio::test(start_paused = true)]
async fn an_entry_lives_as_long_as_the_shortest_of_its_tokens_and_its_own_word() {
    let chain = chain();
    for (name, caller, own, given, life) in [
        ("caller", 100, 200, None, 100),
        ("own", 200, 100, None, 100),
        ("word", 200, 300, Some(50), 50),
        ("boaster", 200, 300, Some(9_000), 200),
    ] {
        let stored = chain.start().register(&call(caller, own), entry(name, given)).await.unwrap();
        let left = stored.expiration_time.unwrap().seconds - now();
        assert!((life - 2..=life).contains(&left), "{name} lives {left} s");
        assert!(stored.initial_registration_time.is_some());
    }
    tokio::time::sleep(Duration::from_secs(52)).await;
    assert_eq!(names(&chain).await, ["boaster", "caller", "own"]);
    tokio::time::sleep(Duration::from_secs(50)).await;
    assert_eq!(names(&chain).await, ["boaster"]);
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!(names(&chain).await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_refreshed_entry_stays_and_one_that_ends_sooner_than_all_others_ends_in_time() {
    let chain = chain();
    chain.start().register(&call(600, 600), entry("long", None)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    chain.start().register(&call(20, 600), entry("short", None)).await.unwrap();
    chain.start().register(&call(20, 600), entry("kept", None)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(10)).await;
    chain.start().register(&call(600, 600), entry("kept", None)).await.unwrap();
    let watch = Query { watch: true, ..Query::default() };
    let mut events = chain.start().find(&call(1, 1), watch).await.unwrap().skip(3);
    tokio::time::sleep(Duration::from_secs(15)).await;
    assert_eq!(names(&chain).await, ["kept", "long"]);
    let event = events.next().await.unwrap().unwrap();
    assert!(event.deleted && event.entry.name == "short" && event.entry.expiration_time.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_network_service_never_ends() {
    let chain = RegistryChain::new([Store::in_memory() as _]);
    let service = NetworkService { name: "finance".into(), ..Default::default() };
    chain.start().register(&call(1, 1), service).await.unwrap();
    tokio::time::sleep(Duration::from_hours(24)).await;
    let found = chain.start().find(&call(1, 1), Query::<NetworkService>::default()).await.unwrap();
    assert_eq!(found.count().await, 1);
}

#[tokio::test]
async fn who_calls_takes_back_its_own_and_the_process_itself_everything() {
    let chain = chain();
    chain.start().register(&call(600, 600), entry("a", None)).await.unwrap();
    let other = NetworkServiceEndpoint { path_ids: vec!["spiffe://d/b".into()], ..entry("a", None) };
    let refused = chain.start().unregister(&call(600, 600), other.clone()).await.unwrap_err();
    assert_eq!(refused.kind, crate::chain::Kind::Denied);
    chain.start().unregister(&RegistryCx::within(Duration::ZERO), other).await.unwrap();
    assert_eq!(names(&chain).await, [""; 0]);
}

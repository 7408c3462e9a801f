//! What watchers see, whose names are whose, and what is left behind.

use std::collections::BTreeMap;

use futures::{FutureExt, StreamExt};

use super::*;
use crate::{
    api::registry::{NetworkService, NetworkServiceEndpoint},
    chain::{Event, Kind},
    elements::registry::table::{MAX_OF_OWNER, QUEUE},
};

type Endpoints = Memory<NetworkServiceEndpoint>;

const LIFE: Duration = Duration::from_mins(10);

fn endpoint(name: &str, services: &[&str]) -> NetworkServiceEndpoint {
    NetworkServiceEndpoint {
        name: name.into(),
        network_service_names: services.iter().map(|service| (*service).to_owned()).collect(),
        path_ids: vec!["spiffe://d/owner".into()],
        ..Default::default()
    }
}

fn ending(name: &str, seconds: i64) -> NetworkServiceEndpoint {
    let expiration_time = Some(prost_types::Timestamp { seconds, nanos: 0 });
    NetworkServiceEndpoint { expiration_time, ..endpoint(name, &["finance"]) }
}

async fn put(store: &Endpoints, entry: NetworkServiceEndpoint) {
    store.register(entry, Some(LIFE)).await.unwrap();
}

async fn watch(store: &Endpoints, like: NetworkServiceEndpoint) -> Events<NetworkServiceEndpoint> {
    store.find(Query { like, watch: true, without_refreshes: false }).await.unwrap()
}

/// The next event, if there is one now. Without tokio's budget, which would end it early.
fn now(events: &mut Events<NetworkServiceEndpoint>) -> Option<Result<Event<NetworkServiceEndpoint>>> {
    tokio::task::unconstrained(events.next()).now_or_never().flatten()
}

/// What a watcher has to read now: names, with a minus where they went.
fn told(events: &mut Events<NetworkServiceEndpoint>) -> Vec<String> {
    let mut told = Vec::new();
    while let Some(event) = now(events) {
        let Event { entry, deleted, .. } = event.unwrap();
        told.push(if deleted { format!("-{}", entry.name) } else { entry.name });
    }
    told
}

#[tokio::test]
async fn a_watch_tells_what_is_there_then_what_changes_and_what_went_as_it_last_was() {
    let store = Endpoints::default();
    put(&store, endpoint("a", &["finance"])).await;
    let mut events = watch(&store, NetworkServiceEndpoint::default()).await;
    put(&store, endpoint("b", &[])).await;
    put(&store, endpoint("a", &["news"])).await;
    store.unregister("a", None).await.unwrap();
    store.unregister("a", None).await.unwrap();
    let seen: Vec<_> = events.by_ref().take(4).map(Result::unwrap).collect().await;
    let seen: Vec<_> = seen.into_iter().map(|event| (event.entry, event.deleted)).collect();
    let (old, new) = (endpoint("a", &["finance"]), endpoint("a", &["news"]));
    assert_eq!(seen, [(old, false), (endpoint("b", &[]), false), (new.clone(), false), (new, true)]);
    assert_eq!(told(&mut events), [""; 0]);
}

#[tokio::test]
async fn watchers_hear_of_what_they_look_for_alone_and_of_what_no_longer_is_that() {
    let store = Endpoints::default();
    let mut by_service = watch(&store, endpoint("", &["finance"])).await;
    let mut by_two = watch(&store, endpoint("", &["finance", "news"])).await;
    let mut by_name = watch(&store, endpoint("b", &[])).await;
    let mut all = watch(&store, endpoint("", &[])).await;
    put(&store, endpoint("a", &["finance", "news"])).await;
    put(&store, endpoint("b", &["other"])).await;
    put(&store, endpoint("a", &["finance"])).await;
    put(&store, endpoint("a", &["other"])).await;
    store.unregister("a", None).await.unwrap();
    assert_eq!(told(&mut by_service), ["a", "a", "-a"]);
    assert_eq!(told(&mut by_two), ["a", "-a"]);
    assert_eq!(told(&mut by_name), ["b"]);
    assert_eq!(told(&mut all), ["a", "b", "a", "a", "-a"]);
}

#[tokio::test]
async fn a_refresh_is_told_to_those_alone_who_want_to_hear_of_it() {
    let store = Endpoints::default();
    put(&store, ending("a", 1)).await;
    let query =
        |without_refreshes| Query { like: endpoint("", &["finance"]), watch: true, without_refreshes };
    let mut quiet = store.find(query(true)).await.unwrap();
    let mut upstream = store.find(query(false)).await.unwrap();
    let first = quiet.next().await.unwrap().unwrap();
    assert_eq!(first.entry.expiration_time, None, "it lives until the watch says otherwise");
    let first = upstream.next().await.unwrap().unwrap();
    assert_eq!(first.entry.expiration_time.unwrap().seconds, 1);
    put(&store, ending("a", 2)).await;
    put(&store, ending("a", 3)).await;
    assert_eq!(told(&mut quiet), [""; 0]);
    assert_eq!(told(&mut upstream), ["a", "a"]);
    put(&store, NetworkServiceEndpoint { url: "tcp://1.2.3.4:5".into(), ..ending("a", 3) }).await;
    store.unregister("a", None).await.unwrap();
    assert_eq!(told(&mut quiet), ["a", "-a"]);
    assert_eq!(told(&mut upstream), ["a", "-a"]);
}

#[tokio::test]
async fn a_service_that_is_registered_again_unchanged_is_no_news_either() {
    let store = Memory::<NetworkService>::default();
    let service = NetworkService { name: "finance".into(), ..Default::default() };
    store.register(service.clone(), None).await.unwrap();
    let mut events = store.find(Query::changes(NetworkService::default())).await.unwrap();
    store.register(service.clone(), None).await.unwrap();
    store.register(NetworkService { payload: "IP".into(), ..service }, None).await.unwrap();
    let payloads: Vec<_> = events.by_ref().take(2).map(|event| event.unwrap().entry.payload).collect().await;
    assert_eq!(payloads, ["", "IP"]);
}

#[tokio::test]
async fn a_name_belongs_to_who_registered_it_as_long_as_the_entry_is_there() {
    let store = Endpoints::default();
    let other = || NetworkServiceEndpoint { path_ids: vec!["spiffe://d/other".into()], ..endpoint("a", &[]) };
    put(&store, endpoint("a", &[])).await;
    put(&store, endpoint("a", &[])).await;
    let refused = store.register(other(), None).await.unwrap_err();
    assert_eq!(refused.kind, Kind::Denied);
    assert!(refused.message.contains("belongs to spiffe://d/owner"), "{refused}");
    let refused = store.unregister("a", Some("spiffe://d/other")).await.unwrap_err();
    assert_eq!(refused.kind, Kind::Denied);
    store.unregister("a", Some("spiffe://d/owner")).await.unwrap();
    put(&store, other()).await;
}

#[tokio::test]
async fn the_time_of_the_first_registration_stays_and_a_new_one_of_the_name_has_its_own() {
    let store = Endpoints::default();
    let at = |seconds| {
        let initial_registration_time = Some(prost_types::Timestamp { seconds, nanos: 0 });
        NetworkServiceEndpoint { initial_registration_time, ..endpoint("a", &[]) }
    };
    let first = async |seconds| {
        store.register(at(seconds), None).await.unwrap().initial_registration_time.unwrap().seconds
    };
    assert_eq!((first(1).await, first(2).await), (1, 1));
    store.unregister("a", None).await.unwrap();
    assert_eq!(first(3).await, 3);
}

#[tokio::test]
async fn of_many_watchers_one_that_stopped_is_cut_off_with_an_error_and_the_others_never_notice() {
    let store = Endpoints::default();
    let mut watchers = Vec::new();
    for _ in 0..100 {
        watchers.push(watch(&store, endpoint("", &["finance"])).await);
    }
    let stopped = watch(&store, endpoint("", &["finance"])).await;
    for number in 0..=QUEUE {
        let name = number.to_string();
        put(&store, endpoint(&name, &["finance"])).await;
        for watcher in &mut watchers {
            assert_eq!(told(watcher), [name.as_str()]);
        }
    }
    assert_eq!(store.size().1, 100);
    let seen: Vec<_> = stopped.collect().await;
    assert_eq!(seen.len(), QUEUE + 1);
    assert_eq!(seen.last().unwrap().as_ref().unwrap_err().kind, Kind::Exhausted);
    // It asks anew and has everything.
    assert_eq!(told(&mut watch(&store, endpoint("", &["finance"])).await).len(), QUEUE + 1);
}

#[tokio::test]
async fn watches_that_end_and_entries_that_go_leave_nothing_behind() {
    let store = Endpoints::default();
    let watchers: Vec<_> = futures::future::join_all((0..100).map(|number| {
        let name = if number % 2 == 0 { "a" } else { "" };
        watch(&store, endpoint(name, &["finance"]))
    }))
    .await;
    put(&store, endpoint("a", &["finance", "news"])).await;
    store.unregister("a", None).await.unwrap();
    drop(watchers);
    assert!(store.0.lock().is_bare());
}

#[tokio::test]
async fn among_ten_thousand_a_find_looks_at_what_it_answers_alone() {
    let store = Endpoints::default();
    for number in 0..10_000 {
        put(&store, endpoint(&format!("nse-{number}"), &[&format!("service-{}", number % 1000)])).await;
    }
    let find = async |like| store.find(Query::once(like)).await.unwrap().count().await;
    assert_eq!(find(endpoint("", &["service-7"])).await, 10);
    assert_eq!(find(endpoint("nse-7", &[])).await, 1);
    assert_eq!(find(endpoint("nse-7", &["service-8"])).await, 0);
    assert_eq!(find(endpoint("", &["service-7", "service-8"])).await, 0);
    assert_eq!(find(endpoint("", &["nobody's"])).await, 0);
    assert_eq!(find(endpoint("", &[])).await, 10_000);
    // An entry is in memory once, whoever holds it.
    let found = store.0.lock().matching(&endpoint("nse-7", &[]));
    assert_eq!(Arc::strong_count(&found[0]), 2);
}

/// Writers and watchers at once: whenever a watch begins, taking all it tells in ends at the truth.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_begins_amid_changes_misses_none_and_never_ends_on_an_older_one() {
    let store = Arc::new(Endpoints::default());
    let writer = tokio::spawn({
        let store = store.clone();
        async move {
            for round in 0..300_i64 {
                for name in ["a", "b", "c"] {
                    put(&store, ending(name, round)).await;
                }
                store.unregister("b", None).await.unwrap();
            }
        }
    });
    let mut watches = Vec::new();
    while !writer.is_finished() && watches.len() < 200 {
        watches.push(watch(&store, endpoint("", &["finance"])).await);
        tokio::task::yield_now().await;
    }
    writer.await.unwrap();
    for mut events in watches {
        let mut rounds = BTreeMap::new();
        while let Some(event) = now(&mut events) {
            let Ok(Event { entry, deleted, .. }) = event else {
                rounds.clear(); // It was cut off, and says so.
                break;
            };
            let round = entry.expiration_time.unwrap().seconds;
            let before = rounds.insert(entry.name.clone(), (round, deleted));
            assert!(before.is_none_or(|before| before < (round, deleted)), "{entry:?} after {before:?}");
        }
        if !rounds.is_empty() {
            assert_eq!(rounds["a"], (299, false));
            assert_eq!(rounds["c"], (299, false));
            assert!(rounds.get("b").is_none_or(|last| last.1));
        }
    }
}

#[tokio::test]
async fn one_owner_cannot_take_the_place_of_all_others_and_has_it_again_when_an_entry_goes() {
    let store = Memory::<NetworkService>::default();
    let service = |owner: &str, number: usize| NetworkService {
        name: format!("{owner}-{number}"),
        path_ids: vec![owner.into()],
        ..Default::default()
    };
    for number in 0..MAX_OF_OWNER {
        store.register(service("greedy", number), None).await.unwrap();
    }
    let refused = store.register(service("greedy", MAX_OF_OWNER), None).await.unwrap_err();
    assert_eq!(refused.kind, Kind::Exhausted);
    assert!(refused.message.contains("greedy has registered 25000"), "{}", refused.message);
    // What it has it may change, and others are as free as before.
    store.register(service("greedy", 0), None).await.unwrap();
    store.register(service("modest", 0), None).await.unwrap();
    store.unregister("greedy-1", None).await.unwrap();
    store.register(service("greedy", MAX_OF_OWNER), None).await.unwrap();
    for number in 0..=MAX_OF_OWNER {
        store.unregister(&format!("greedy-{number}"), None).await.unwrap();
    }
    assert_eq!(store.0.lock().of_owner("greedy"), 0);
}

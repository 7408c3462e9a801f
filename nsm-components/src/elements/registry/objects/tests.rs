//! Whose names are whose, what is written and what is not, and which news count.

use std::collections::{BTreeMap, HashSet};

use futures::{FutureExt, StreamExt};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::{
    api::registry::{NetworkService, NetworkServiceEndpoint},
    chain::{Event, Query, SystemClock},
};

const LIFE: Duration = Duration::from_mins(10);

const NSMGR: &str = "spiffe://d/ns/nsm-system/sa/nsmgr/node/w1";
const FOREIGN: &str = "spiffe://d/ns/nsm-system/pod/nsmgr-x";

/// An API server, as far as registries ask it.
#[derive(Default)]
struct Server(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    objects: BTreeMap<Key, (Object, String)>,
    version: u64,
    applies: usize,
    deletes: usize,
    gets: usize,
    renewals: Vec<(String, Option<u64>)>,
    away: bool,
}

impl Inner {
    fn check(&self) -> std::result::Result<(), Refusal> {
        if self.away { Err(Refusal::Unavailable("connection refused".into())) } else { Ok(()) }
    }
}

#[async_trait]
impl ObjectServer for Server {
    async fn apply(&self, apply: Apply) -> std::result::Result<Object, Refusal> {
        let mut inner = self.0.lock();
        inner.check()?;
        inner.applies += 1;
        inner.version += 1;
        let Apply { key, uid, manager, spec } = apply;
        let version = inner.version;
        let known = inner.objects.get(&key).cloned();
        let uid = match (known, uid) {
            (Some((object, _)), Some(uid)) if object.uid == uid => uid,
            (Some((object, by)), None) if by == manager => object.uid,
            (Some((_, manager)), None) => {
                return Err(Refusal::Held { manager, fields: "spec.path_ids".into() });
            }
            (_, Some(uid)) => return Err(Refusal::Changed(format!("no object has the UID {uid}"))),
            (None, None) => format!("uid-{version}"),
        };
        let object = Object { key: key.clone(), uid, version, created: 0, spec };
        inner.objects.insert(key, (object.clone(), manager));
        Ok(object)
    }

    async fn get(&self, key: &Key) -> std::result::Result<Option<Object>, Refusal> {
        let mut inner = self.0.lock();
        inner.check()?;
        inner.gets += 1;
        Ok(inner.objects.get(key).map(|(object, _)| object.clone()))
    }

    async fn delete(&self, key: &Key, uid: &str, version: Option<u64>) -> std::result::Result<(), Refusal> {
        let mut inner = self.0.lock();
        inner.check()?;
        inner.deletes += 1;
        let Some((object, _)) = inner.objects.get(key) else { return Ok(()) };
        if object.uid != uid || version.is_some_and(|version| version != object.version) {
            return Err(Refusal::Changed("another version".into()));
        }
        inner.objects.remove(key);
        Ok(())
    }
}

#[async_trait]
impl LeaseServer for Server {
    async fn renew(
        &self,
        node: &str,
        _: Duration,
        version: Option<u64>,
    ) -> std::result::Result<u64, Refusal> {
        let mut inner = self.0.lock();
        inner.check()?;
        inner.version += 1;
        inner.renewals.push((node.to_owned(), version));
        Ok(inner.version)
    }

    async fn delete(&self, _: &str, _: u64) -> std::result::Result<(), Refusal> {
        let mut inner = self.0.lock();
        inner.check()?;
        inner.deletes += 1;
        Ok(())
    }
}

struct World<T> {
    server: Arc<Server>,
    shared: Shared,
    store: Arc<Objects<T>>,
}

fn world<T: Resource>() -> World<T> {
    let server = Arc::<Server>::default();
    let leases = Leases::new(server.clone(), LIFE);
    let clock = Arc::new(SystemClock);
    let shared = Shared { namespace: "mesh".into(), leases, reach: Reach::new([]), clock, life: LIFE };
    let store = Arc::new(Objects::new(shared.clone(), server.clone()));
    World { server, shared, store }
}

fn endpoint(name: &str, owner: &str, by: &str) -> NetworkServiceEndpoint {
    NetworkServiceEndpoint {
        name: name.into(),
        network_service_names: vec!["finance".into()],
        url: "tcp://10.0.0.1:5001".into(),
        path_ids: vec![owner.into(), by.into(), "spiffe://d/registry".into()],
        ..Default::default()
    }
}

fn key(namespace: &str, name: &str) -> Key {
    (namespace.into(), name.into())
}

fn object(namespace: &str, name: &str, version: u64, spec: Value) -> Object {
    Object { key: key(namespace, name), uid: format!("{namespace}/{name}"), version, created: 0, spec }
}

async fn names(store: &Objects<NetworkServiceEndpoint>) -> Vec<String> {
    let found = store.find(Query::once(NetworkServiceEndpoint::default())).await.unwrap();
    found.map(|event| event.unwrap().entry.name).collect().await
}

fn told(events: &mut Events<NetworkServiceEndpoint>) -> Vec<String> {
    let mut told = Vec::new();
    while let Some(Some(event)) = tokio::task::unconstrained(events.next()).now_or_never() {
        let Event { entry, deleted, .. } = event.unwrap();
        told.push(if deleted { format!("-{}", entry.name) } else { entry.name });
    }
    told
}

#[tokio::test]
async fn what_another_registry_has_just_made_is_unregistered_by_its_owner_before_a_watch_tells_of_it() {
    let World { server, shared, store: first } = world();
    first.register(endpoint("a", "o", NSMGR), None).await.unwrap();
    let made = server.0.lock().objects[&key("mesh", "a")].0.clone();
    let second = Objects::<NetworkServiceEndpoint>::new(shared, server.clone());
    let asked = || {
        let inner = server.0.lock();
        (inner.gets, inner.deletes, inner.objects.len())
    };

    let refused = second.unregister("a", Some("somebody")).await.unwrap_err();
    assert_eq!(refused.kind, Kind::Denied);
    assert_eq!(asked(), (1, 0, 1));
    second.unregister("a", Some("o")).await.unwrap();
    // It is known by now.
    assert_eq!(asked(), (1, 1, 0));
    // News that were under way.
    second.observe(made);
    assert!(names(&second).await.is_empty());

    second.unregister("never", Some("o")).await.unwrap();
    assert_eq!(asked(), (2, 1, 0));
    server.0.lock().away = true;
    assert_eq!(second.unregister("never", Some("o")).await.unwrap_err().kind, Kind::Unavailable);
}

#[tokio::test]
async fn a_new_registration_is_one_write_and_an_unchanged_one_none_whichever_registry_it_came_by() {
    let World { server, store, .. } = world();
    let entry = || endpoint("a", "o", NSMGR);
    let first = store.register(entry(), Some(LIFE)).await.unwrap();
    assert_eq!(names(&store).await, ["a"], "before any watch has told it");
    let mut again = entry();
    again.path_ids[2] = "spiffe://d/another-registry".into();
    again.initial_registration_time = Some(prost_types::Timestamp { seconds: 9, nanos: 0 });
    let second = store.register(again, Some(LIFE)).await.unwrap();
    assert_eq!(server.0.lock().applies, 1);
    assert_eq!(second.path_ids[2], "spiffe://d/another-registry");
    let _ = first;
    store
        .register(NetworkServiceEndpoint { url: "tcp://10.0.0.2:5001".into(), ..entry() }, Some(LIFE))
        .await
        .unwrap();
    assert_eq!(server.0.lock().applies, 2);
    // Another node's manager is something new.
    let moved = endpoint("a", "o", "spiffe://d/ns/nsm-system/sa/nsmgr/node/w2");
    store.register(moved, Some(LIFE)).await.unwrap();
    assert_eq!(server.0.lock().applies, 3);
}

#[tokio::test]
async fn the_first_registrations_time_stays_with_the_name() {
    let World { store, .. } = world();
    let at = |seconds, url: &str| NetworkServiceEndpoint {
        url: url.into(),
        initial_registration_time: Some(prost_types::Timestamp { seconds, nanos: 0 }),
        ..endpoint("a", "o", NSMGR)
    };
    for (seconds, url) in [(1, "tcp://a:1"), (2, "tcp://a:1"), (3, "tcp://b:1")] {
        let stored = store.register(at(seconds, url), Some(LIFE)).await.unwrap();
        assert_eq!(stored.initial_registration_time.unwrap().seconds, 1);
    }
}

#[tokio::test]
async fn who_came_by_a_foreign_manager_has_twice_its_life_and_is_written_when_half_is_gone() {
    let World { server, shared, store } = world();
    let lasting = |life| store.register(endpoint("a", "o", FOREIGN), Some(life));
    lasting(LIFE).await.unwrap();
    let end = || {
        let inner = server.0.lock();
        inner.objects[&key("mesh", "a")].0.spec["expiration_time"]["seconds"].as_i64().unwrap()
    };
    let left = shared.clock.until(end()).as_secs();
    assert!((1190..=1200).contains(&left), "{left}");
    // Half of it and more is left.
    lasting(LIFE.mul_f64(0.9)).await.unwrap();
    assert_eq!(server.0.lock().applies, 1);
    lasting(LIFE * 3).await.unwrap();
    assert_eq!(server.0.lock().applies, 2);
    assert!(server.0.lock().renewals.is_empty(), "no node's");
}

#[tokio::test]
async fn a_name_is_its_owners_in_all_registries_and_the_api_server_says_so_to_who_does_not_know() {
    let World { server, shared, store } = world::<NetworkServiceEndpoint>();
    store.register(endpoint("a", "o", NSMGR), Some(LIFE)).await.unwrap();
    let refused = store.register(endpoint("a", "p", NSMGR), Some(LIFE)).await.unwrap_err();
    assert_eq!((refused.kind, server.0.lock().applies), (Kind::Denied, 1));
    assert!(refused.message.contains("belongs to o"), "{refused}");
    // A registry that has not heard of it yet.
    let other = Objects::<NetworkServiceEndpoint>::new(shared, server.clone());
    let refused = other.register(endpoint("a", "p", NSMGR), Some(LIFE)).await.unwrap_err();
    assert_eq!(refused.kind, Kind::Denied, "{refused}");
    other.register(endpoint("a", "o", NSMGR), Some(LIFE)).await.unwrap();
    let refused = store.unregister("a", Some("p")).await.unwrap_err();
    assert_eq!((refused.kind, server.0.lock().deletes), (Kind::Denied, 0));
}

#[tokio::test]
async fn what_users_wrote_is_theirs_in_every_namespace_and_says_how_to_go_on() {
    let World { server, store, .. } = world();
    store.observe(object("demo", "till", 1, json!({"workload": {"networkServices": ["sales"]}})));
    store.observe(object("demo", "hand", 2, json!({"url": "tcp://1.2.3.4:5"})));
    store.observe(object("mesh", "own", 3, json!({"url": "tcp://1.2.3.4:5"})));
    store.observe(object("mesh", "odd", 4, json!({"url": 5})));
    for name in ["till", "hand", "own", "odd"] {
        let refused = store.register(endpoint(name, "o", NSMGR), Some(LIFE)).await.unwrap_err();
        assert_eq!(refused.kind, Kind::Taken, "{refused}");
        assert!(refused.message.contains(&format!("/{name},")), "{refused}");
        assert!(refused.message.contains("use another name"), "{refused}");
    }
    assert_eq!(server.0.lock().applies, 0);
    assert_eq!(names(&store).await, ["hand", "own"], "templates are none");
    for name in ["", "No", "a_b", "-a", "a.", &"a".repeat(254)] {
        let refused = store.register(endpoint(name, "o", NSMGR), Some(LIFE)).await.unwrap_err();
        assert_eq!(refused.kind, Kind::Invalid, "{refused}");
    }
}

#[tokio::test]
async fn of_two_objects_with_one_name_the_older_serves_and_the_other_after_it() {
    let World { store, .. } = world::<NetworkService>();
    let mut events = store.find(Query::changes(NetworkService::default())).await.unwrap();
    let written = |namespace: &str, created, payload: &str| Object {
        created,
        ..object(namespace, "sales", created.unsigned_abs(), json!({"payload": payload}))
    };
    let mut next = move || {
        let event = events.next().now_or_never().flatten().map(Result::unwrap);
        event.map(|event| (event.entry.payload, event.deleted))
    };
    store.observe(written("b", 20, "IP"));
    assert_eq!(next(), Some(("IP".into(), false)));
    store.observe(written("a", 30, "NONE"));
    assert_eq!(next(), None);
    store.observe(written("c", 10, "ETHERNET"));
    assert_eq!(next(), Some(("ETHERNET".into(), false)));
    store.gone(&written("c", 10, "ETHERNET"));
    assert_eq!(next(), Some(("IP".into(), false)));
    store.gone(&written("b", 20, "IP"));
    assert_eq!(next(), Some(("NONE".into(), false)));
    store.gone(&written("a", 30, "NONE"));
    assert_eq!(next(), Some(("NONE".into(), true)));
}

#[tokio::test]
async fn late_news_of_what_was_taken_back_and_old_lists_are_none() {
    let World { server, store, .. } = world();
    store.register(endpoint("a", "o", NSMGR), Some(LIFE)).await.unwrap();
    let old = server.0.lock().objects[&key("mesh", "a")].0.clone();
    store.unregister("a", Some("o")).await.unwrap();
    // The watch is late.
    store.observe(old.clone());
    store.list(vec![old.clone()], old.version);
    assert!(names(&store).await.is_empty());
    // A list that was made before a registration does not know it.
    store.register(endpoint("b", "o", NSMGR), Some(LIFE)).await.unwrap();
    store.list(Vec::new(), old.version);
    assert_eq!(names(&store).await, ["b"]);
    store.list(Vec::new(), 100);
    assert!(names(&store).await.is_empty());
}

#[tokio::test]
async fn a_registration_over_what_went_without_a_word_is_tried_once_more_as_a_new_one() {
    let World { server, store, .. } = world();
    store.register(endpoint("a", "o", NSMGR), Some(LIFE)).await.unwrap();
    server.0.lock().objects.clear();
    let changed = NetworkServiceEndpoint { url: "tcp://b:1".into(), ..endpoint("a", "o", NSMGR) };
    store.register(changed, Some(LIFE)).await.unwrap();
    assert_eq!(server.0.lock().applies, 3);
    assert_eq!(names(&store).await, ["a"]);
}

#[tokio::test]
async fn without_an_api_server_what_is_known_is_found_and_refreshed_and_nothing_new_is_taken() {
    let World { server, store, .. } = world();
    store.register(endpoint("a", "o", NSMGR), Some(LIFE)).await.unwrap();
    server.0.lock().away = true;
    store.register(endpoint("a", "o", NSMGR), Some(LIFE)).await.unwrap();
    let refused = store.register(endpoint("b", "o", NSMGR), Some(LIFE)).await.unwrap_err();
    assert_eq!(refused.kind, Kind::Unavailable);
    assert!(
        refused.message.contains("connection refused") && refused.message.contains("try again"),
        "{refused}"
    );
    assert_eq!(store.unregister("a", Some("o")).await.unwrap_err().kind, Kind::Unavailable);
    assert_eq!(names(&store).await, ["a"]);
}

#[tokio::test]
async fn before_all_is_known_nothing_is_told_to_be_absent() {
    let World { server, mut shared, .. } = world::<NetworkServiceEndpoint>();
    shared.reach = Reach::new(["endpoints"]);
    let store = Objects::<NetworkServiceEndpoint>::new(shared.clone(), server);
    let Err(refused) = store.find(Query::once(NetworkServiceEndpoint::default())).await else {
        panic!("told")
    };
    assert_eq!(refused.kind, Kind::Unavailable);
    assert!(refused.message.contains("has not told the endpoints yet"), "{refused}");
    shared.reach.listed("endpoints");
    assert!(names(&store).await.is_empty());
}

/// Lets spawned tasks do their work.
async fn settle() {
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_thousand_refreshes_of_a_node_are_one_renewal_a_minute_whichever_registry_wrote_it() {
    let World { server, shared, store } = world();
    let names: Vec<_> = (0..100).map(|number| format!("nse-{number}")).collect();
    for _ in 0..10 {
        for name in &names {
            store.register(endpoint(name, "o", NSMGR), Some(LIFE)).await.unwrap();
        }
    }
    settle().await;
    assert_eq!(server.0.lock().renewals, [("w1".to_owned(), None)]);
    assert_eq!(server.0.lock().applies, 100);
    tokio::time::advance(Duration::from_secs(59)).await;
    store.register(endpoint("nse-1", "o", NSMGR), Some(LIFE)).await.unwrap();
    settle().await;
    assert_eq!(server.0.lock().renewals.len(), 1);
    // Another registry renews it, and this one hears of it.
    shared.leases.observe("w1", 1000, LIFE * 2);
    tokio::time::advance(Duration::from_secs(59)).await;
    store.register(endpoint("nse-1", "o", NSMGR), Some(LIFE)).await.unwrap();
    settle().await;
    assert_eq!(server.0.lock().renewals.len(), 1);
    tokio::time::advance(Duration::from_secs(2)).await;
    store.register(endpoint("nse-1", "o", NSMGR), Some(LIFE)).await.unwrap();
    settle().await;
    assert_eq!(server.0.lock().renewals.last().unwrap(), &("w1".to_owned(), Some(1000)));
}

#[tokio::test(start_paused = true)]
async fn entries_of_a_node_end_with_its_lease_and_one_that_is_renewed_meanwhile_goes_on() {
    let World { server, shared, store } = world();
    let keeper = Keeper { endpoints: store.clone(), shared: shared.clone() };
    store.register(endpoint("a", "o", NSMGR), Some(LIFE)).await.unwrap();
    store.register(endpoint("b", "o", FOREIGN), Some(LIFE)).await.unwrap();
    settle().await;
    let good = LIFE + Duration::from_mins(1);
    tokio::time::advance(good).await;
    keeper.look(|| true).await;
    assert_eq!(names(&store).await, ["a", "b"]);
    shared.leases.observe("w1", 1000, good);
    tokio::time::advance(good).await;
    keeper.look(|| true).await;
    assert_eq!(names(&store).await, ["a", "b"]);
    tokio::time::advance(Duration::from_secs(1)).await;
    keeper.look(|| false).await;
    assert_eq!(server.0.lock().deletes, 0, "another registry's affair");
    let mut events = store.find(Query::changes(NetworkServiceEndpoint::default())).await.unwrap();
    keeper.look(|| true).await;
    assert_eq!(told(&mut events), ["a", "b", "-a"]);
    assert_eq!(server.0.lock().deletes, 2, "the Lease and the entry");
}

#[tokio::test(start_paused = true)]
async fn an_entry_whose_end_is_over_goes_unless_somebody_wrote_it_meanwhile_and_a_node_without_a_lease_has_time()
 {
    let World { server, shared, store } = world();
    let keeper = Keeper { endpoints: store.clone(), shared };
    let spec = |name: &str, by: &str, end: i64| json!({"name": name, "path_ids": ["o", by], "expiration_time": {"seconds": end}});
    store.observe(object("mesh", "over", 1, spec("over", FOREIGN, 5)));
    store.observe(object("mesh", "on", 2, spec("on", FOREIGN, 99_999_999_999)));
    store.observe(object("mesh", "node", 3, spec("node", NSMGR, 5)));
    store.observe(object("demo", "till", 4, json!({"workload": {"networkServices": ["sales"]}})));
    store.observe(object("demo", "hand", 5, json!({"url": "tcp://1.2.3.4:5"})));
    // A newer one is there than this registry knows.
    let newer = object("mesh", "over", 9, json!({}));
    server.0.lock().objects.insert(key("mesh", "over"), (newer, String::new()));
    keeper.look(|| true).await;
    assert_eq!(names(&store).await, ["hand", "node", "on", "over"]);
    server.0.lock().objects.clear();
    keeper.look(|| true).await;
    assert_eq!(names(&store).await, ["hand", "node", "on"]);
    tokio::time::advance(LIFE * 2).await;
    keeper.look(|| true).await;
    assert_eq!(names(&store).await, ["hand", "on"]);
    assert!(store.known.lock().get(&key("demo", "till")).is_some());
}

#[tokio::test]
async fn what_is_over_in_other_namespaces_is_told_no_more_and_left_to_its_owners() {
    let World { server, shared, store } = world();
    let keeper = Keeper { endpoints: store.clone(), shared };
    let spec = |end: i64| json!({"url": "tcp://1.2.3.4:5", "expiration_time": {"seconds": end}});
    store.observe(object("demo", "a", 1, spec(5)));
    let mut events = store.find(Query::changes(NetworkServiceEndpoint::default())).await.unwrap();
    keeper.look(|| true).await;
    store.known.lock().hide_ended(6.0);
    assert_eq!((told(&mut events), server.0.lock().deletes), (vec!["a".into(), "-a".into()], 0));
    // Its owner goes on.
    store.observe(object("demo", "a", 2, spec(99_999_999_999)));
    assert_eq!(told(&mut events), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn an_entry_of_a_short_life_shortens_neither_the_lease_of_its_node_nor_the_lives_of_others() {
    let World { server, shared, store } = world();
    let keeper = Keeper { endpoints: store.clone(), shared };
    store.register(endpoint("short", "o", NSMGR), Some(Duration::from_secs(5))).await.unwrap();
    store.register(endpoint("long", "o", NSMGR), Some(LIFE)).await.unwrap();
    settle().await;
    tokio::time::advance(Duration::from_secs(30)).await;
    store.register(endpoint("short", "o", NSMGR), Some(Duration::from_secs(5))).await.unwrap();
    settle().await;
    assert_eq!(server.0.lock().renewals.len(), 1);
    tokio::time::advance(LIFE).await;
    keeper.look(|| true).await;
    assert_eq!(names(&store).await, ["long", "short"]);
}

/// What an object goes through.
#[derive(Clone, Debug)]
enum Step {
    Write(u8, u8),
    Delete(u8),
    /// A watch tells its next event, or all of it is listed anew.
    Hear,
    List,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..4_u8, 0..3_u8).prop_map(|(name, url)| Step::Write(name, url)),
        2 => (0..4_u8).prop_map(Step::Delete),
        4 => Just(Step::Hear),
        1 => Just(Step::List),
    ];
    proptest::collection::vec(step, 1..60)
}

proptest! {
    /// However late and often its news come, what is told ends as it is there, and watchers that heard
    /// everything have the same.
    #[test]
    fn in_the_end_what_is_found_is_what_is_there(steps in steps()) {
        let World { store, .. } = world::<NetworkServiceEndpoint>();
        let mut events = store.find(Query { watch: true, ..Query::default() }).now_or_never().unwrap().unwrap();
        let (mut there, mut version) = (BTreeMap::<u8, Object>::new(), 0);
        let mut news = std::collections::VecDeque::new();
        let hear = |news: &mut std::collections::VecDeque<(Object, bool)>| if let Some((object, deleted)) = news.pop_front() {
            if deleted { store.gone(&object) } else { store.observe(object) }
        };
        for step in steps {
            version += 1;
            match step {
                Step::Write(name, url) => {
                    let uid = there.get(&name).map_or_else(|| format!("{name}-{version}"), |old| old.uid.clone());
                    let name_of = format!("n{name}");
                    let spec = json!({"url": format!("tcp://{url}:1")});
                    let object = Object { uid, ..object("mesh", &name_of, version, spec) };
                    there.insert(name, object.clone());
                    news.push_back((object, false));
                }
                Step::Delete(name) => if let Some(object) = there.remove(&name) {
                    news.push_back((Object { version, ..object }, true));
                },
                Step::Hear => hear(&mut news),
                Step::List => {
                    news.clear();
                    store.list(there.values().cloned().collect(), version);
                }
            }
        }
        while !news.is_empty() {
            hear(&mut news);
        }
        let expected: BTreeMap<_, _> = there.values().map(|object| (object.key.1.to_string(), object.spec["url"].as_str().unwrap().to_owned())).collect();
        let mut told = BTreeMap::new();
        while let Some(Some(Ok(Event { entry, deleted, .. }))) = tokio::task::unconstrained(events.next()).now_or_never() {
            if deleted { told.remove(&entry.name) } else { told.insert(entry.name, entry.url) };
        }
        prop_assert_eq!(&told, &expected);
        let found: HashSet<_> = names(&store).now_or_never().unwrap().into_iter().collect();
        prop_assert_eq!(found, expected.into_keys().collect::<HashSet<_>>());
    }
}

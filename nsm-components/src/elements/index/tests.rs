//! What leaves the index, and what it must not miss.

use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;

use super::*;
use crate::{
    api::registry::AccessRules,
    chain::{Events, Query, RegistryCx, RegistryElement, RegistryNext, SystemClock},
    elements::registry::Store,
};

type Endpoints = RegistryChain<NetworkServiceEndpoint>;

fn cx() -> RegistryCx {
    RegistryCx::within(Duration::from_secs(5))
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(5)
}

fn endpoint() -> NetworkServiceEndpoint {
    NetworkServiceEndpoint {
        name: "a".into(),
        network_service_names: vec!["finance".into()],
        url: "tcp://127.0.0.1:1".into(),
        ..Default::default()
    }
}

fn index(endpoints: Endpoints) -> Index {
    Index::new(RegistryChain::new([Store::in_memory() as _]), endpoints, Arc::new(SystemClock), "d")
}

/// Deletes the endpoint just before the second Find.
struct Deleting {
    store: Endpoints,
    finds: AtomicUsize,
}

#[async_trait]
impl RegistryElement<NetworkServiceEndpoint> for Deleting {
    fn name(&self) -> &'static str {
        "deleting"
    }

    async fn find(
        &self,
        cx: &RegistryCx,
        query: Query<NetworkServiceEndpoint>,
        _: RegistryNext<'_, NetworkServiceEndpoint>,
    ) -> Result<Events<NetworkServiceEndpoint>> {
        if self.finds.fetch_add(1, Ordering::Relaxed) == 1 {
            self.store.start().unregister(cx, endpoint()).await?;
        }
        self.store.start().find(cx, query).await
    }
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_deleted_between_watch_and_snapshot_is_not_found() {
    let store = Endpoints::new([Store::in_memory() as _]);
    store.start().register(&cx(), endpoint()).await.unwrap();
    let index = index(Endpoints::new([Arc::new(Deleting { store, finds: AtomicUsize::default() }) as _]));
    index.find("finance", soon()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(index.find("finance", soon()).await.unwrap().endpoints().next().is_none());
}

#[tokio::test(start_paused = true)]
async fn names_that_nobody_registered_leave_soon_and_services_stay() {
    let store = Endpoints::new([Store::in_memory() as _]);
    store.start().register(&cx(), endpoint()).await.unwrap();
    let index = index(store);
    for name in (0..100).map(|number| format!("invented-{number}")).chain(["finance".into()]) {
        index.find(&name, soon()).await.unwrap();
    }
    assert_eq!(index.used.lock().len(), 101);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(index.used.lock().keys().collect::<Vec<_>>(), ["finance"]);
    tokio::time::sleep(KEPT.0 + KEPT.1).await;
    assert!(index.used.lock().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_registered_later_is_found_and_stays() {
    let store = Endpoints::new([Store::in_memory() as _]);
    let index = index(store.clone());
    assert!(index.find("finance", soon()).await.unwrap().endpoints().next().is_none());
    store.start().register(&cx(), endpoint()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(index.find("finance", soon()).await.unwrap().endpoints().count(), 1);
}

/// A registry that counts what it is asked and tells, and that can go away and come back.
#[derive(Default)]
struct Watched {
    finds: AtomicUsize,
    events: Arc<AtomicUsize>,
    store: Mutex<Option<Endpoints>>,
    away: tokio::sync::watch::Sender<u64>,
}

#[async_trait]
impl RegistryElement<NetworkServiceEndpoint> for Watched {
    fn name(&self) -> &'static str {
        "watched"
    }

    async fn find(
        &self,
        cx: &RegistryCx,
        query: Query<NetworkServiceEndpoint>,
        _: RegistryNext<'_, NetworkServiceEndpoint>,
    ) -> Result<Events<NetworkServiceEndpoint>> {
        use futures::StreamExt;
        self.finds.fetch_add(1, Ordering::Relaxed);
        let store = self.store.lock().clone();
        let store = store.ok_or_else(|| Error::new(Kind::Unavailable, "the registry is away"))?;
        let (mut away, told) = (self.away.subscribe(), self.events.clone());
        let events =
            store.start().find(cx, query).await?.take_until(async move { away.changed().await.is_ok() });
        Ok(Box::pin(events.inspect(move |_| _ = told.fetch_add(1, Ordering::Relaxed))))
    }
}

impl Watched {
    fn comes(&self, store: &Endpoints) {
        *self.store.lock() = Some(store.clone());
    }

    fn goes(&self) {
        *self.store.lock() = None;
        self.away.send_modify(|count| *count += 1);
    }

    /// Finds and events so far.
    fn counts(&self) -> (usize, usize) {
        (self.finds.load(Ordering::Relaxed), self.events.load(Ordering::Relaxed))
    }
}

fn store() -> Endpoints {
    Endpoints::new([Store::in_memory() as _])
}

async fn names(index: &Index) -> Vec<String> {
    let usable = index.find("finance", soon()).await.unwrap();
    usable.endpoints().map(|endpoint| endpoint.name.clone()).collect()
}

#[tokio::test(start_paused = true)]
async fn after_the_first_use_the_registry_is_not_asked_and_ten_thousand_endpoints_elsewhere_are_not_heard_of()
{
    let (store, watched) = (store(), Arc::new(Watched::default()));
    watched.comes(&store);
    store.start().register(&cx(), endpoint()).await.unwrap();
    let index = index(Endpoints::new([watched.clone() as _]));
    assert_eq!(names(&index).await, ["a"]);
    tokio::time::sleep(Duration::from_secs(1)).await;
    // A watch and a snapshot, each with one endpoint.
    assert_eq!(watched.counts(), (2, 2));
    for number in 0..10_000 {
        let network_service_names = vec![format!("service-{}", number % 500)];
        let entry =
            NetworkServiceEndpoint { name: format!("nse-{number}"), network_service_names, ..endpoint() };
        store.start().register(&cx(), entry).await.unwrap();
    }
    for _ in 0..1_000 {
        assert_eq!(names(&index).await, ["a"]);
    }
    // Nor of a refresh of the one in use.
    let end = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
    for seconds in 0..100 {
        let entry = NetworkServiceEndpoint { expiration_time: end(4_000_000_000 + seconds), ..endpoint() };
        store.start().register(&cx(), entry).await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(watched.counts(), (2, 2));
    assert_eq!(index.used.lock().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn while_the_registry_is_away_its_last_answer_counts_and_what_went_meanwhile_is_gone_afterwards() {
    let (before, watched) = (store(), Arc::new(Watched::default()));
    watched.comes(&before);
    let other = NetworkServiceEndpoint { name: "b".into(), ..endpoint() };
    for entry in [endpoint(), other.clone()] {
        before.start().register(&cx(), entry).await.unwrap();
    }
    let index = index(Endpoints::new([watched.clone() as _]));
    assert_eq!(names(&index).await, ["a", "b"]);
    watched.goes();
    for _ in 0..600 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(names(&index).await, ["a", "b"]);
    }
    // Ten minutes: back-off up to five seconds, not one try after the other.
    assert!(watched.counts().0 < 150, "{:?}", watched.counts());
    let after = store();
    after.start().register(&cx(), other).await.unwrap();
    watched.comes(&after);
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(names(&index).await, ["b"]);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_serves_something_else_from_now_on_is_not_found() {
    let (store, watched) = (store(), Arc::new(Watched::default()));
    watched.comes(&store);
    store.start().register(&cx(), endpoint()).await.unwrap();
    let index = index(Endpoints::new([watched.clone() as _]));
    assert_eq!(names(&index).await, ["a"]);
    let moved = NetworkServiceEndpoint { network_service_names: vec!["news".into()], ..endpoint() };
    store.start().register(&cx(), moved).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(names(&index).await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_its_service_does_not_allow_is_not_found_whatever_the_registry_took() {
    let services = RegistryChain::new([Store::in_memory() as _]);
    let rules = AccessRules { clients: Vec::new(), endpoints: vec!["ns/friends".into()] };
    let service = NetworkService { name: "finance".into(), access: Some(rules), ..Default::default() };
    services.start().register(&cx(), service.clone()).await.unwrap();
    let store = store();
    for (name, owner) in [("a", "spiffe://d/ns/friends/pod/a"), ("b", "spiffe://d/ns/other/pod/b")] {
        let path_ids = vec![owner.to_owned()];
        let entry = NetworkServiceEndpoint { name: name.into(), path_ids, ..endpoint() };
        store.start().register(&cx(), entry).await.unwrap();
    }
    let index = Index::new(services.clone(), store, Arc::new(SystemClock), "d");
    assert_eq!(names(&index).await, ["a"]);
    // The list is edited while it is in use.
    let open = NetworkService { access: None, ..service };
    services.start().register(&cx(), open).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(names(&index).await, ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn a_thousand_endpoints_that_come_together_are_published_a_few_times_and_requests_share_them() {
    let entries = |from: usize| {
        (from..from + 1000)
            .map(|number| NetworkServiceEndpoint { name: format!("nse-{number}"), ..endpoint() })
    };
    let store = store();
    for entry in entries(0) {
        store.start().register(&cx(), entry).await.unwrap();
    }
    let index = index(store.clone());
    let first = index.find("finance", soon()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let again = index.find("finance", soon()).await.unwrap();
    assert!(Arc::ptr_eq(&first.found, &again.found), "the watch repeats what the snapshot said");
    assert_eq!((again.endpoints().count(), again.found.published), (1000, 1));
    for entry in entries(1000) {
        store.start().register(&cx(), entry).await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let usable = index.find("finance", soon()).await.unwrap();
    assert_eq!(usable.endpoints().count(), 2000);
    assert!(usable.found.published <= 40, "{}", usable.found.published);
    let kept = |name| Arc::ptr_eq(&first.found.endpoints[name], &usable.found.endpoints[name]);
    assert!(kept("nse-0"), "what did not change is the same in both");
}

//! What leaves the index, and what it must not miss.

use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;

use super::*;
use crate::{
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
    Index::new(RegistryChain::new([Store::in_memory() as _]), endpoints, Arc::new(SystemClock))
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
    assert!(index.find("finance", soon()).await.unwrap().endpoints.is_empty());
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
    assert!(index.find("finance", soon()).await.unwrap().endpoints.is_empty());
    store.start().register(&cx(), endpoint()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(index.find("finance", soon()).await.unwrap().endpoints.len(), 1);
}

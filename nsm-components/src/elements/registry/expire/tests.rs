//! Expiry against registrations that come at the same time.

use tokio::sync::Notify;

use super::*;
use crate::{
    chain::{Events, Query, SystemClock},
    elements::registry::Store,
};

/// Holds every Unregister up until it is let go, and the answer of every Register for a time.
#[derive(Default)]
struct Slow {
    answer: Duration,
    came: Notify,
    go: Notify,
}

#[async_trait]
impl RegistryElement<NetworkServiceEndpoint> for Slow {
    fn name(&self) -> &'static str {
        "slow"
    }

    async fn register(
        &self,
        cx: &RegistryCx,
        entry: NetworkServiceEndpoint,
        next: RegistryNext<'_, NetworkServiceEndpoint>,
    ) -> Result<NetworkServiceEndpoint> {
        let stored = next.register(cx, entry).await;
        tokio::time::sleep(self.answer).await;
        stored
    }

    async fn unregister(
        &self,
        cx: &RegistryCx,
        entry: NetworkServiceEndpoint,
        next: RegistryNext<'_, NetworkServiceEndpoint>,
    ) -> Result<()> {
        self.came.notify_one();
        self.go.notified().await;
        next.unregister(cx, entry).await
    }
}

fn cx() -> RegistryCx {
    RegistryCx::within(Duration::from_mins(1))
}

/// An endpoint that lives this long; the names of both lives are the same.
fn entry(seconds: f64) -> NetworkServiceEndpoint {
    #[allow(clippy::cast_possible_truncation)]
    let seconds = (crate::chain::Now::seconds(&SystemClock) + seconds) as i64;
    let expiration_time = Some(Timestamp { seconds, nanos: 0 });
    NetworkServiceEndpoint { name: "a".into(), expiration_time, ..Default::default() }
}

fn expire(slow: &Arc<Slow>) -> (Arc<Expire>, RegistryChain<NetworkServiceEndpoint>) {
    let rest = RegistryChain::new([slow.clone() as _, Store::in_memory() as _]);
    let expire = Arc::new(Expire::new(rest, Arc::new(SystemClock)));
    (expire.clone(), RegistryChain::new([expire as _]))
}

async fn count(chain: &RegistryChain<NetworkServiceEndpoint>) -> usize {
    use futures::StreamExt;
    let found: Events<_> = chain.start().find(&cx(), Query::default()).await.unwrap();
    found.count().await
}

#[tokio::test(start_paused = true)]
async fn an_expiry_that_has_begun_does_not_undo_the_registration_that_follows() {
    let slow = Arc::new(Slow::default());
    let (expire, chain) = expire(&slow);
    chain.start().register(&cx(), entry(2.0)).await.unwrap();
    slow.came.notified().await;
    let again = tokio::spawn({
        let chain = chain.clone();
        async move { chain.start().register(&cx(), entry(600.0)).await }
    });
    tokio::task::yield_now().await;
    slow.go.notify_one();
    again.await.unwrap().unwrap();
    tokio::time::sleep(UNREGISTER * 2).await;
    assert_eq!(count(&chain).await, 1);
    // The new life has a timer of its own.
    slow.go.notify_one();
    tokio::time::sleep(Duration::from_mins(11)).await;
    assert_eq!(count(&chain).await, 0);
    assert!(expire.slots.lock().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_entry_whose_time_ends_while_it_is_registered_anew_stays() {
    let slow = Arc::new(Slow { answer: Duration::from_secs(5), ..Slow::default() });
    let (_expire, chain) = expire(&slow);
    slow.go.notify_one();
    chain.start().register(&cx(), entry(2.0)).await.unwrap();
    chain.start().register(&cx(), entry(600.0)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(count(&chain).await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_refreshed_endpoint_stays_and_one_taken_back_leaves_nothing_behind() {
    let slow = Arc::new(Slow::default());
    let (expire, chain) = expire(&slow);
    chain.start().register(&cx(), entry(5.0)).await.unwrap();
    chain.start().register(&cx(), entry(600.0)).await.unwrap();
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert_eq!(count(&chain).await, 1);
    slow.go.notify_one();
    chain.start().unregister(&cx(), entry(600.0)).await.unwrap();
    assert!(expire.slots.lock().is_empty());
}

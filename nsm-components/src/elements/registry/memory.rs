//! `memory`: keeps entries in memory (protocol §4.7). A name belongs to who registered it first,
//! by the first SPIFFE ID in its path.

use std::collections::BTreeMap;

use async_trait::async_trait;
use futures::{StreamExt, stream};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::{
    api::peer::Files,
    chain::{Entry, Error, Event, Events, Kind, Query, RegistryCx, RegistryElement, RegistryNext, Result},
};

/// Events a watcher may be behind; a slower one is cut off and asks anew.
const QUEUE: usize = 1024;

/// Most entries kept; beyond it a registration is refused rather than memory filled.
const MAX_ENTRIES: usize = 100_000;

/// See the module.
#[derive(Debug)]
pub struct Memory<T> {
    state: Mutex<State<T>>,
}

#[derive(Debug)]
struct State<T> {
    entries: BTreeMap<String, T>,
    watchers: Vec<Watcher<T>>,
}

#[derive(Debug)]
struct Watcher<T> {
    like: T,
    events: mpsc::Sender<Event<T>>,
}

impl<T> Default for Memory<T> {
    fn default() -> Self {
        Self { state: Mutex::new(State { entries: BTreeMap::new(), watchers: Vec::new() }) }
    }
}

fn owner<T: Entry>(entry: &T) -> &str {
    entry.path_ids().first().map_or("", String::as_str)
}

impl<T: Entry> State<T> {
    fn tell(&mut self, entry: &T, deleted: bool) {
        let event = Event { entry: entry.clone(), deleted, files: Files::default() };
        self.watchers.retain(|watcher| {
            if watcher.like.finds(entry) {
                watcher.events.try_send(event.clone()).is_ok()
            } else {
                !watcher.events.is_closed()
            }
        });
    }
}

#[async_trait]
impl<T: Entry> RegistryElement<T> for Memory<T> {
    fn name(&self) -> &'static str {
        "memory"
    }

    async fn register(&self, cx: &RegistryCx, entry: T, next: RegistryNext<'_, T>) -> Result<T> {
        {
            let mut state = self.state.lock();
            let name = entry.name().to_owned();
            let full = state.entries.len() >= MAX_ENTRIES;
            match state.entries.get(&name) {
                Some(known) if owner(known) != owner(&entry) => {
                    let message = format_args!("{} {name} belongs to {}", T::WHAT, owner(known));
                    return Err(Error::new(Kind::Denied, message));
                }
                None if full => {
                    let message = format_args!("{MAX_ENTRIES} entries are registered already");
                    return Err(Error::new(Kind::Exhausted, message));
                }
                _ => {}
            }
            state.entries.insert(name, entry.clone());
            state.tell(&entry, false);
        }
        next.register(cx, entry).await
    }

    async fn unregister(&self, cx: &RegistryCx, entry: T, next: RegistryNext<'_, T>) -> Result<()> {
        {
            let mut state = self.state.lock();
            let name = entry.name().to_owned();
            if let Some(known) = state.entries.get(&name) {
                if cx.caller.is_some() && owner(known) != owner(&entry) {
                    let message = format_args!("{} {name} belongs to {}", T::WHAT, owner(known));
                    return Err(Error::new(Kind::Denied, message));
                }
                if let Some(known) = state.entries.remove(&name) {
                    state.tell(&known, true);
                }
            }
        }
        next.unregister(cx, entry).await
    }

    async fn find(&self, _: &RegistryCx, query: Query<T>, _: RegistryNext<'_, T>) -> Result<Events<T>> {
        // Snapshot and subscription under one lock: no entry is missed and none comes twice.
        let mut state = self.state.lock();
        let found = state.entries.values().filter(|entry| query.like.finds(entry)).cloned();
        let found: Vec<_> =
            found.map(|entry| Ok(Event { entry, deleted: false, files: Files::default() })).collect();
        let found = stream::iter(found);
        if !query.watch {
            return Ok(Box::pin(found));
        }
        let (events, receiver) = mpsc::channel(QUEUE);
        state.watchers.push(Watcher { like: query.like, events });
        let cut = Error::new(Kind::Exhausted, "the watcher is too slow: ask again");
        let changes = ReceiverStream::new(receiver).map(Ok).chain(stream::once(async { Err(cut) }));
        Ok(Box::pin(found.chain(changes)))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{api::registry::NetworkServiceEndpoint, chain::RegistryChain};

    type Chain = RegistryChain<NetworkServiceEndpoint>;

    fn chain() -> Chain {
        RegistryChain::new([std::sync::Arc::new(Memory::default()) as _])
    }

    fn cx() -> RegistryCx {
        RegistryCx::within(Duration::from_secs(1))
    }

    fn entry(name: &str, owner: &str) -> NetworkServiceEndpoint {
        NetworkServiceEndpoint { name: name.into(), path_ids: vec![owner.into()], ..Default::default() }
    }

    async fn watch(chain: &Chain) -> Events<NetworkServiceEndpoint> {
        chain.start().find(&cx(), Query { watch: true, ..Query::default() }).await.unwrap()
    }

    #[tokio::test]
    async fn a_watch_tells_what_is_there_then_what_changes_and_deletes_with_the_last_state() {
        let chain = chain();
        chain.start().register(&cx(), entry("a", "x")).await.unwrap();
        let mut events = watch(&chain).await;
        chain.start().register(&cx(), entry("b", "x")).await.unwrap();
        chain.start().unregister(&cx(), entry("a", "")).await.unwrap();
        let mut seen = Vec::new();
        for _ in 0..3 {
            let event = events.next().await.unwrap().unwrap();
            seen.push((event.entry, event.deleted));
        }
        assert_eq!(seen, [(entry("a", "x"), false), (entry("b", "x"), false), (entry("a", "x"), true)]);
    }

    #[tokio::test]
    async fn a_name_belongs_to_who_registered_it_first() {
        let chain = chain();
        chain.start().register(&cx(), entry("a", "x")).await.unwrap();
        chain.start().register(&cx(), entry("a", "x")).await.unwrap();
        let error = chain.start().register(&cx(), entry("a", "y")).await.unwrap_err();
        assert_eq!(error.kind, Kind::Denied);
    }

    #[tokio::test]
    async fn a_find_without_watch_ends() {
        let chain = chain();
        chain.start().register(&cx(), entry("a", "x")).await.unwrap();
        let found = chain.start().find(&cx(), Query::default()).await.unwrap();
        assert_eq!(found.count().await, 1);
    }

    #[tokio::test]
    async fn a_slow_watcher_is_cut_off_with_an_error_and_the_others_never_notice() {
        let chain = chain();
        let (slow, mut quick) = (watch(&chain).await, watch(&chain).await);
        for _ in 0..=QUEUE {
            chain.start().register(&cx(), entry("a", "x")).await.unwrap();
            quick.next().await.unwrap().unwrap();
        }
        let seen: Vec<_> = slow.collect().await;
        assert_eq!(seen.len(), QUEUE + 1);
        assert_eq!(seen.last().unwrap().as_ref().unwrap_err().kind, Kind::Exhausted);
    }
}

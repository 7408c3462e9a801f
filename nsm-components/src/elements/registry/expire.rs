//! `expire`: a registration through the nsmgr lives as long as the token that made it (protocol §4.7).

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use prost_types::Timestamp;
use tokio::{sync::OwnedMutexGuard, time::Instant};
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use crate::{
    api::{registry::NetworkServiceEndpoint, registry_path::RegistryPath},
    chain::{Clock, Error, Kind, RegistryChain, RegistryCx, RegistryElement, RegistryNext, Result},
};

/// Limit of taking an expired entry back.
const UNREGISTER: Duration = Duration::from_secs(10);

/// What happens to one name happens in turn: an expiry that has begun ends before a registration,
/// and one that a registration overtook does nothing.
#[derive(Debug, Default)]
struct Slot {
    /// Grows with each registration.
    generation: u64,
    timer: Option<AbortOnDropHandle<()>>,
}

type Shared = Arc<tokio::sync::Mutex<Slot>>;

type Slots = Mutex<HashMap<String, Shared>>;

/// A name's turn. Its end forgets a name without a timer.
struct Turn {
    slots: Arc<Slots>,
    name: String,
    slot: Option<OwnedMutexGuard<Slot>>,
}

/// See the module. It stands before a chain of its own, which it also calls when time is over.
pub struct Expire {
    rest: RegistryChain<NetworkServiceEndpoint>,
    clock: Clock,
    slots: Arc<Slots>,
}

/// Until when, in seconds since the epoch, the tokens vouch that came with a call and go back with its
/// answer; nothing for a call that begins in this process.
pub(super) fn life_of_tokens(cx: &RegistryCx) -> Result<Option<i64>> {
    let Some(caller) = cx.caller.as_ref() else { return Ok(None) };
    let (_, own) = caller.link.own_token()?;
    Ok(Some(caller.token.as_ref().map_or(own, |(_, end)| own.min(*end))))
}

// === impl Turn ===

impl Turn {
    /// Waits for this name's turn.
    ///
    /// # Cancel safety
    ///
    /// A name whose turn never came is forgotten like one whose turn is over.
    async fn wait(slots: Arc<Slots>, name: &str) -> Self {
        let slot = slots.lock().entry(name.to_owned()).or_default().clone();
        let mut turn = Self { slots, name: name.to_owned(), slot: None };
        turn.slot = Some(slot.lock_owned().await);
        turn
    }

    fn slot(&mut self) -> Option<&mut Slot> {
        self.slot.as_deref_mut()
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut slots = self.slots.lock();
        self.slot = None;
        // Clones are made under this lock: with one left, nobody waits.
        let idle = |slot: &Shared| {
            Arc::strong_count(slot) == 1 && slot.try_lock().is_ok_and(|slot| slot.timer.is_none())
        };
        if slots.get(&self.name).is_some_and(idle) {
            slots.remove(&self.name);
        }
    }
}

// === impl Expire ===

impl Expire {
    /// Expires what is registered with `rest`.
    pub fn new(rest: RegistryChain<NetworkServiceEndpoint>, clock: Clock) -> Self {
        Self { rest, clock, slots: Arc::default() }
    }

    async fn turn(&self, cx: &RegistryCx, name: &str) -> Result<Turn> {
        let late = |_| Error::new(Kind::Deadline, format_args!("{name} is being changed by another call"));
        tokio::time::timeout_at(cx.deadline, Turn::wait(self.slots.clone(), name)).await.map_err(late)
    }

    fn start_timer(&self, turn: &mut Turn, entry: NetworkServiceEndpoint, path: RegistryPath, seconds: i64) {
        let (clock, rest) = (self.clock.clone(), self.rest.clone());
        let end = clock.after(clock.until(seconds));
        let (name, slots) = (turn.name.clone(), Arc::downgrade(&self.slots));
        if let Some(slot) = turn.slot() {
            slot.generation += 1;
            let task = expire(slots, name, slot.generation, (clock, end), rest, (entry, path));
            slot.timer = Some(AbortOnDropHandle::new(tokio::spawn(task)));
        }
    }
}

/// Takes the entry back when its time is over, unless it was registered anew.
async fn expire(
    slots: Weak<Slots>,
    name: String,
    generation: u64,
    (clock, end): (Clock, Instant),
    rest: RegistryChain<NetworkServiceEndpoint>,
    (entry, path): (NetworkServiceEndpoint, RegistryPath),
) {
    clock.wait_for_end(end).await;
    let Some(slots) = slots.upgrade() else { return };
    let mut turn = Turn::wait(slots, &name).await;
    if turn.slot().is_none_or(|slot| slot.generation != generation) {
        return;
    }
    info!(endpoint = %name, "not refreshed in time: unregistering");
    let done = tokio::time::timeout(UNREGISTER, async {
        let cx = RegistryCx { path: Arc::new(Mutex::new(path)), ..RegistryCx::within(UNREGISTER) };
        rest.start().unregister(&cx, entry).await
    });
    if let Ok(Err(error)) = done.await {
        warn!(endpoint = %name, %error, "could not unregister an expired endpoint");
    }
    // Last: it ends this task.
    turn.slot().map(|slot| slot.timer.take());
}

#[async_trait]
impl RegistryElement<NetworkServiceEndpoint> for Expire {
    fn name(&self) -> &'static str {
        "expire"
    }

    async fn register(
        &self,
        cx: &RegistryCx,
        mut entry: NetworkServiceEndpoint,
        _: RegistryNext<'_, NetworkServiceEndpoint>,
    ) -> Result<NetworkServiceEndpoint> {
        let given = entry.expiration_time.map(|time| time.seconds);
        let end = given.into_iter().chain(life_of_tokens(cx)?).min();
        entry.expiration_time = end.map(|seconds| Timestamp { seconds, nanos: 0 });
        // When this fails, the old timer goes on.
        let mut turn = self.turn(cx, &entry.name).await?;
        // The path as it came here: who takes the entry back later goes the same way.
        let path = cx.path.lock().clone();
        let stored = self.rest.start().register(cx, entry).await?;
        if let Some(time) = stored.expiration_time {
            self.start_timer(&mut turn, stored.clone(), path, time.seconds);
        }
        Ok(stored)
    }

    async fn unregister(
        &self,
        cx: &RegistryCx,
        entry: NetworkServiceEndpoint,
        _: RegistryNext<'_, NetworkServiceEndpoint>,
    ) -> Result<()> {
        let mut turn = self.turn(cx, &entry.name).await?;
        self.rest.start().unregister(cx, entry).await?;
        turn.slot().map(|slot| slot.timer.take());
        Ok(())
    }

    async fn find(
        &self,
        cx: &RegistryCx,
        query: crate::chain::Query<NetworkServiceEndpoint>,
        _: RegistryNext<'_, NetworkServiceEndpoint>,
    ) -> Result<crate::chain::Events<NetworkServiceEndpoint>> {
        self.rest.start().find(cx, query).await
    }
}

#[cfg(test)]
mod tests;

//! Whether the API server is there, as the watches see it. While it is not, what is known is told on and
//! nothing ends.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant};

/// See the module. Clones share it.
#[derive(Clone, Debug)]
pub struct Reach(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    complete: watch::Sender<bool>,
}

#[derive(Debug)]
struct State {
    /// What was never listed yet.
    awaited: BTreeSet<&'static str>,
    /// What cannot be followed now: since when, and why.
    away: BTreeMap<&'static str, (Instant, String)>,
    /// Since when all can be.
    well: Instant,
}

impl Reach {
    /// These watches are to come.
    pub fn new(watches: impl IntoIterator<Item = &'static str>) -> Self {
        let awaited: BTreeSet<_> = watches.into_iter().collect();
        let complete = watch::Sender::new(awaited.is_empty());
        let state = State { awaited, away: BTreeMap::new(), well: Instant::now() };
        Self(Arc::new(Inner { state: Mutex::new(state), complete }))
    }

    /// This watch has its first list.
    pub fn listed(&self, watch: &'static str) {
        let mut state = self.0.state.lock();
        state.awaited.remove(watch);
        let complete = state.awaited.is_empty();
        drop(state);
        if complete {
            self.0.complete.send_replace(true);
        }
    }

    /// This watch is open.
    pub fn opened(&self, watch: &'static str) {
        let mut state = self.0.state.lock();
        if state.away.remove(watch).is_some() && state.away.is_empty() {
            state.well = Instant::now();
            drop(state);
            tracing::info!("the API server is there again: what is told is as new as it can be");
        }
    }

    /// This watch cannot be opened.
    pub fn failed(&self, watch: &'static str, why: &str) {
        let mut state = self.0.state.lock();
        let first = state.away.is_empty();
        let (_, reason) = state.away.entry(watch).or_insert_with(|| (Instant::now(), String::new()));
        reason.clear();
        reason.push_str(why);
        drop(state);
        if first {
            tracing::warn!(
                watch,
                why,
                "cannot follow the API server: what is known is told on and may be old, nothing expires, \
                 and nothing new can be registered"
            );
        }
    }

    /// Waits until everything was listed once.
    pub async fn complete(&self) {
        // An error means that this is gone, with the process.
        let _ = self.0.complete.subscribe().wait_for(|complete| *complete).await;
    }

    /// What was never listed yet, and why not.
    pub fn lacks(&self) -> Option<String> {
        let state = self.0.state.lock();
        let watch = state.awaited.first()?;
        let why = state.away.values().next().map_or("no answer yet", |(_, why)| why.as_str());
        Some(format!("the API server has not told the {watch} yet: {why}"))
    }

    /// For how long what is told may be old, and why.
    pub fn stale(&self) -> Option<(Duration, String)> {
        let state = self.0.state.lock();
        let (since, why) = state.away.values().min_by_key(|(since, _)| *since)?;
        Some((since.elapsed(), why.clone()))
    }

    /// Whether everything could be followed for this long. Before that nobody may have been able to
    /// refresh anything, or to tell of it.
    pub fn well_for(&self, time: Duration) -> bool {
        let state = self.0.state.lock();
        state.awaited.is_empty() && state.away.is_empty() && state.well.elapsed() >= time
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_told_is_stale_from_the_first_failure_until_the_last_watch_is_open_again() {
        let reach = Reach::new(["endpoints", "services"]);
        assert!(reach.lacks().unwrap().contains("endpoints"));
        reach.listed("endpoints");
        assert!(reach.lacks().unwrap().contains("services"));
        reach.listed("services");
        reach.complete().await;
        assert_eq!((reach.lacks(), reach.stale()), (None, None));
        tokio::time::advance(Duration::from_secs(9)).await;
        assert!(reach.well_for(Duration::from_secs(9)) && !reach.well_for(Duration::from_secs(10)));
        reach.failed("endpoints", "refused");
        tokio::time::advance(Duration::from_secs(5)).await;
        reach.failed("services", "refused");
        assert_eq!(reach.stale(), Some((Duration::from_secs(5), "refused".to_owned())));
        reach.opened("endpoints");
        assert!(reach.stale().is_some() && !reach.well_for(Duration::ZERO));
        reach.opened("services");
        assert_eq!(reach.stale(), None);
        assert!(reach.well_for(Duration::ZERO) && !reach.well_for(Duration::from_secs(1)));
        // What is opened again in time is no news.
        tokio::time::advance(Duration::from_secs(1)).await;
        reach.opened("services");
        assert!(reach.well_for(Duration::from_secs(1)));
    }
}

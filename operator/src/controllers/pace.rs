//! How often one object is looked at: what happens to an object that was left alone is answered at once, and
//! what follows shortly after together. So an edit is put back without delay, and a storm costs one look each
//! [`PAUSE`], however long it lasts. While watches catch up with what they missed, one event alone shows a state
//! that is long over, so nothing is looked at before they pause.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    hash::Hash,
    pin::Pin,
    time::Duration,
};

use futures::{Stream, StreamExt, stream};
use tokio::time::{Instant, sleep_until};

/// Shortest time between two looks at one object: own writes come back as events in between, and what is made
/// or deleted together comes together.
pub(super) const PAUSE: Duration = Duration::from_millis(50);

/// Passes on what is asked for: the first time at once, and again no sooner than [`PAUSE`] after. What is asked
/// for several times meanwhile is passed on once. While it is
/// not `calm` all waits for a pause in what is asked. Ends with the queue.
pub(super) fn paced<T>(
    queue: impl Stream<Item = T> + Send + 'static,
    calm: impl Fn() -> bool + Send + Sync + 'static,
) -> impl Stream<Item = T> + Send
where
    T: Hash + Eq + Clone + Send + 'static,
{
    let state = (Box::pin(queue), Pace::default(), calm);
    stream::unfold(state, |(mut queue, mut pace, calm)| async move {
        let passed = next(queue.as_mut(), &mut pace, &calm).await?;
        Some((passed, (queue, pace, calm)))
    })
}

async fn next<T: Hash + Eq + Clone>(
    mut queue: Pin<&mut impl Stream<Item = T>>,
    pace: &mut Pace<T>,
    calm: &impl Fn() -> bool,
) -> Option<T> {
    loop {
        let due = pace.first_due();
        tokio::select! {
            asked = queue.next() => {
                if let Some(passed) = pace.ask(asked?, Instant::now(), calm()) {
                    return Some(passed);
                }
            }
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                if let Some(passed) = pace.pop(Instant::now()) {
                    return Some(passed);
                }
            }
        }
    }
}

/// What was passed on lately, and what waits.
struct Pace<T> {
    /// When each may be passed on again, and whether it is to be.
    known: HashMap<T, Known>,
    /// The same in order of time; the number tells those of one time apart.
    order: BTreeMap<(Instant, u64), T>,
    /// Those that nobody asked for again, to be forgotten.
    passed: VecDeque<(Instant, T)>,
    count: u64,
}

#[derive(Clone, Copy)]
struct Known {
    again: Instant,
    /// Its place in the order, if it waits.
    waits: Option<(Instant, u64)>,
}

impl<T> Default for Pace<T> {
    fn default() -> Self {
        Self { known: HashMap::new(), order: BTreeMap::new(), passed: VecDeque::new(), count: 0 }
    }
}

impl<T: Hash + Eq + Clone> Pace<T> {
    /// When something that waits is due.
    fn first_due(&self) -> Option<Instant> {
        self.order.first_key_value().map(|((due, _), _)| *due)
    }

    /// Something is asked for; passes it on unless it has to wait.
    fn ask(&mut self, what: T, now: Instant, calm: bool) -> Option<T> {
        self.forget(now);
        let known = self.known.get(&what).copied();
        let due = match known {
            Some(Known { waits: Some(_), .. }) if calm => return None,
            _ if !calm => now + PAUSE,
            Some(known) if known.again > now => known.again,
            _ => return Some(self.pass(what, now)),
        };
        if let Some(before) = known.and_then(|known| known.waits) {
            self.order.remove(&before);
        }
        self.count += 1;
        let place = (due, self.count);
        self.order.insert(place, what.clone());
        let again = known.map_or(now, |known| known.again);
        self.known.insert(what, Known { again, waits: Some(place) });
        None
    }

    /// Passes on what is due.
    fn pop(&mut self, now: Instant) -> Option<T> {
        let first = self.order.first_entry().filter(|first| first.key().0 <= now)?;
        let what = first.remove();
        Some(self.pass(what, now))
    }

    fn pass(&mut self, what: T, now: Instant) -> T {
        self.known.insert(what.clone(), Known { again: now + PAUSE, waits: None });
        self.passed.push_back((now + PAUSE, what.clone()));
        what
    }

    /// Nothing is kept of what was left alone.
    fn forget(&mut self, now: Instant) {
        while let Some((again, what)) = self.passed.pop_front_if(|(again, _)| *again <= now) {
            if self.known.get(&what).is_some_and(|known| known.waits.is_none() && known.again == again) {
                self.known.remove(&what);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::channel::mpsc;

    use super::*;

    /// What comes out, each with its time in milliseconds.
    async fn run(asked: &[(u64, &'static str)]) -> Vec<(u128, &'static str)> {
        run_while(asked, |_| true).await
    }

    /// The same where it is calm at these times.
    async fn run_while(
        asked: &[(u64, &'static str)],
        calm: impl Fn(u128) -> bool + Send + Sync + 'static,
    ) -> Vec<(u128, &'static str)> {
        let begun = Instant::now();
        let (queue, receiver) = mpsc::unbounded();
        let asked = asked.to_vec();
        tokio::spawn(async move {
            for (at, what) in asked {
                sleep_until(begun + Duration::from_millis(at)).await;
                let _ = queue.unbounded_send(what);
            }
            sleep_until(begun + Duration::from_secs(10)).await;
        });
        let calm = move || calm(begun.elapsed().as_millis());
        paced(receiver, calm).map(|what| (begun.elapsed().as_millis(), what)).collect().await
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_left_alone_is_passed_on_at_once_and_what_follows_together() {
        let told = run(&[(0, "a"), (10, "a"), (20, "a"), (30, "b"), (200, "a"), (260, "a")]).await;
        let at = |ms: u128| (ms..ms + 3).collect::<Vec<_>>();
        let expected = [(0, "a"), (30, "b"), (50, "a"), (200, "a"), (260, "a")];
        assert_eq!(told.len(), expected.len(), "{told:?}");
        for (told, (ms, what)) in told.iter().zip(expected) {
            assert!(told.1 == what && at(ms).contains(&told.0), "{told:?} instead of {what} at {ms}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_storm_without_end_neither_starves_an_object_nor_floods_its_controller() {
        let storm: Vec<_> = (0..500).map(|at| (at, "a")).collect();
        let told = run(&storm).await;
        assert!((9..=11).contains(&told.len()), "{told:?}");
        assert!(told.windows(2).all(|two| two[1].0 - two[0].0 <= 55), "{told:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn while_watches_catch_up_nothing_is_passed_on_before_they_pause() {
        let asked = [(0, "a"), (30, "a"), (60, "a"), (90, "b"), (300, "a")];
        let told = run_while(&asked, |at| at >= 200).await;
        let words: Vec<_> = told.iter().map(|(_, what)| *what).collect();
        assert_eq!(words, ["a", "b", "a"], "{told:?}");
        assert!((110..113).contains(&told[0].0) && (300..303).contains(&told[2].0), "{told:?}");
    }

    #[test]
    fn nothing_is_kept_of_what_was_left_alone() {
        let mut pace = Pace::default();
        let mut now = Instant::now();
        for number in 0..10_000_u32 {
            assert_eq!(pace.ask(number, now, true), Some(number));
            now += Duration::from_millis(1);
        }
        assert!(pace.known.len() <= 51 && pace.passed.len() <= 51, "{} kept", pace.known.len());
    }
}

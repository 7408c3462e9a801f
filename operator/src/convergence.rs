//! Notices when what is written does not last: someone else writes the same object, again and again.
//! No effects, and no clock of its own.
//!
//! [`MOST`] repairs of one object within [`WINDOW`] are taken for such a fight. It is then repaired ever
//! less often, and said to be so until it has lasted for a window.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use crate::object::Key;

/// Repairs of one object within [`WINDOW`] before it is left alone for a while.
pub const MOST: usize = 3;

/// How long a repair must last.
pub const WINDOW: Duration = Duration::from_mins(1);

/// How long an object is left alone first.
const FIRST: Duration = Duration::from_secs(30);

/// How long it is left alone at most.
const LONGEST: Duration = Duration::from_mins(10);

/// What is known of the repairs of all objects.
#[derive(Debug, Default)]
pub struct Breaker {
    objects: BTreeMap<Key, Repairs>,
    retry: Option<String>,
}

#[derive(Debug, Default)]
struct Repairs {
    last: VecDeque<Instant>,
    fight: Option<Fight>,
}

#[derive(Clone, Debug)]
struct Fight {
    until: Instant,
    next: Duration,
    words: String,
}

// === impl Breaker ===

impl Breaker {
    /// Whether the object may be repaired now; if not, when again. `words` tell what is wrong with it.
    pub fn may_repair(
        &mut self,
        key: &Key,
        now: Instant,
        words: impl FnOnce() -> String,
    ) -> Result<(), Instant> {
        let repairs = self.objects.entry(key.clone()).or_default();
        repairs.forget(now);
        if let Some(fight) = &mut repairs.fight {
            fight.words = words();
            if now < fight.until {
                return Err(fight.until);
            }
            // Once more; if that does not last either, the next time is later.
            fight.until = now + fight.next;
            fight.next = (fight.next * 2).min(LONGEST);
            return Ok(());
        }
        if repairs.last.len() < MOST {
            return Ok(());
        }
        repairs.fight = Some(Fight { until: now + FIRST, next: FIRST * 2, words: words() });
        Err(now + FIRST)
    }

    /// Notes a repair that was made.
    pub fn repaired(&mut self, key: &Key, now: Instant) {
        let repairs = self.objects.entry(key.clone()).or_default();
        repairs.last.push_back(now);
        while repairs.last.len() > MOST {
            repairs.last.pop_front();
        }
    }

    /// Takes note of the annotation that asks for another try; true if it asks for one now.
    pub fn retry(&mut self, nonce: Option<&str>) -> bool {
        let new = nonce.map(str::to_owned);
        let asked = new.is_some() && new != self.retry;
        self.retry = new;
        if asked {
            self.objects.clear();
        }
        asked
    }

    /// What does not last, in words, and when to look again.
    pub fn fights(&mut self, now: Instant) -> Option<(Vec<String>, Instant)> {
        self.objects.retain(|_, repairs| {
            repairs.forget(now);
            !repairs.last.is_empty() || repairs.fight.is_some()
        });
        let fights = self.objects.values().filter_map(|repairs| Some((repairs.fight.as_ref()?, repairs)));
        let (words, looks): (Vec<_>, Vec<_>) =
            fights.map(|(fight, repairs)| (fight.words.clone(), repairs.look(fight))).unzip();
        looks.into_iter().min().map(|look| (words, look))
    }
}

// === impl Repairs ===

impl Repairs {
    /// Forgets what is long ago, and the fight with it.
    fn forget(&mut self, now: Instant) {
        let over = |at: Instant| now.saturating_duration_since(at) >= WINDOW;
        let lasted = self.last.back().is_none_or(|at| over(*at));
        self.last.retain(|at| !over(*at));
        // Left alone it was not repaired, which proves nothing.
        if lasted && self.fight.as_ref().is_some_and(|fight| over(fight.until)) {
            self.fight = None;
        }
    }

    /// When there may be something new to say about a fight.
    fn look(&self, fight: &Fight) -> Instant {
        self.last.back().map_or(fight.until, |last| (*last + WINDOW).min(fight.until))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::Kind;

    fn key(name: &str) -> Key {
        Key { kind: Kind::Service, namespace: "n".into(), name: name.into() }
    }

    fn fight(breaker: &mut Breaker, now: Instant) -> Result<(), Instant> {
        let result = breaker.may_repair(&key("a"), now, || "it is edited".into());
        if result.is_ok() {
            breaker.repaired(&key("a"), now);
        }
        result
    }

    #[test]
    fn what_does_not_last_is_repaired_ever_less_often_and_named() {
        let mut breaker = Breaker::default();
        let start = Instant::now();
        let mut now = start;
        let mut repairs = Vec::new();
        while now < start + Duration::from_hours(1) {
            if fight(&mut breaker, now).is_ok() {
                repairs.push(now.duration_since(start).as_secs());
            }
            now += Duration::from_secs(1);
        }
        assert_eq!(repairs[..6], [0, 1, 2, 33, 93, 213]);
        assert_eq!(repairs[repairs.len() - 1] - repairs[repairs.len() - 2], 600);
        assert_eq!(breaker.fights(now).unwrap().0, ["it is edited"]);
        assert!(breaker.may_repair(&key("b"), now, String::new).is_ok(), "others are not concerned");
    }

    #[test]
    fn repairs_that_last_are_made_at_once() {
        let mut breaker = Breaker::default();
        let mut now = Instant::now();
        for _ in 0..100 {
            now += WINDOW / 3 + Duration::from_secs(1);
            assert_eq!(fight(&mut breaker, now), Ok(()));
            assert!(breaker.fights(now).is_none());
        }
        assert!(breaker.fights(now + WINDOW).is_none());
        assert!(breaker.objects.is_empty());
    }

    #[test]
    fn a_fight_is_over_when_a_repair_has_lasted_or_someone_says_so() {
        let mut breaker = Breaker::default();
        let start = Instant::now();
        for _ in 0..4 {
            let _ = fight(&mut breaker, start);
        }
        assert!(breaker.fights(start).is_some());
        assert!(breaker.fights(start + FIRST + WINDOW).is_none());
        for _ in 0..4 {
            let _ = fight(&mut breaker, start);
        }
        assert!(!breaker.retry(None) && breaker.fights(start).is_some());
        assert!(breaker.retry(Some("1")) && breaker.fights(start).is_none());
        assert!(!breaker.retry(Some("1")), "the same value asks once");
        assert!(breaker.retry(Some("2")));
    }
}

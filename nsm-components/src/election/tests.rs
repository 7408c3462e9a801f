use std::collections::BTreeMap;

use k8s_openapi::{api::coordination::v1::LeaseSpec, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use proptest::prelude::*;

use super::*;

fn lease(holder: &str, version: u64) -> Lease {
    Lease {
        metadata: ObjectMeta {
            resource_version: Some(version.to_string()),
            uid: Some("u".into()),
            ..Default::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(holder.into()),
            lease_duration_seconds: Some(15),
            ..Default::default()
        }),
    }
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[test]
fn a_lease_that_does_not_move_is_taken_when_its_time_is_over_by_the_own_clock() {
    let now = Instant::now();
    let mut standby = Election::new("b");
    assert_eq!(standby.decide(now), Decision::Learn);
    standby.observe(Some(lease("a", 1)), now);
    assert_eq!(standby.decide(now + seconds(1)), Decision::Wait(now + DURATION));
    standby.observe(Some(lease("a", 2)), now + seconds(5));
    assert_eq!(standby.decide(now + seconds(16)), Decision::Wait(now + seconds(20)));
    assert!(matches!(standby.decide(now + seconds(20)), Decision::Write(_)));
    assert_eq!(standby.leads_until(), None);
}

#[test]
fn what_is_given_away_or_ours_is_taken_at_once() {
    let now = Instant::now();
    for holder in ["", "b"] {
        let mut standby = Election::new("b");
        standby.observe(Some(lease("a", 1)), now);
        standby.observe(Some(lease(holder, 2)), now + seconds(1));
        assert!(matches!(standby.decide(now + seconds(1)), Decision::Write(_)), "{holder:?}");
    }
}

#[test]
fn a_holder_counts_from_when_its_renewal_began_and_ends_when_another_is_seen() {
    let now = Instant::now();
    let mut leader = Election::new("a");
    leader.observe(None, now);
    assert_eq!(leader.decide(now), Decision::Create);
    leader.wrote(lease("a", 1), now, now + seconds(2));
    assert_eq!(leader.leads_until(), Some(now + RENEW_DEADLINE));
    assert_eq!(leader.decide(now + seconds(3)), Decision::Wait(now + RENEW_EVERY));
    leader.failed(now + seconds(5));
    assert_eq!(leader.decide(now + seconds(5)), Decision::Wait(now + seconds(7)));
    assert_eq!(leader.leads_until(), Some(now + RENEW_DEADLINE), "a failure does not lengthen it");
    leader.observe(Some(lease("b", 2)), now + seconds(6));
    assert_eq!(leader.leads_until(), None);
    // News from before.
    leader.observe(Some(lease("a", 1)), now + seconds(6));
    assert_eq!(leader.leads_until(), None);
}

#[test]
fn a_deleted_lease_is_made_again_by_its_holder_first() {
    let now = Instant::now();
    let (mut leader, mut standby) = (Election::new("a"), Election::new("b"));
    leader.wrote(lease("a", 1), now, now);
    standby.observe(Some(lease("a", 1)), now);
    for election in [&mut leader, &mut standby] {
        election.observe(None, now + seconds(1));
    }
    assert_eq!(leader.decide(now + seconds(1)), Decision::Create);
    assert_eq!(standby.decide(now + seconds(1)), Decision::Wait(now + DURATION));
    assert_eq!(standby.decide(now + DURATION), Decision::Create);
}

/// Some candidates before one Lease, with a clock that is turned by hand.
struct World {
    now: Instant,
    stored: Option<Lease>,
    version: u64,
    candidates: Vec<Election>,
    /// Writes that the API server has done, and whose answers are under way: who, what, when begun.
    answers: Vec<(usize, Option<Lease>, Instant)>,
    asleep: BTreeMap<usize, Instant>,
}

impl World {
    fn new(candidates: usize) -> Self {
        Self {
            now: Instant::now(),
            stored: None,
            version: 0,
            candidates: (0..candidates).map(|n| Election::new(format!("c{n}"))).collect(),
            answers: Vec::new(),
            asleep: BTreeMap::new(),
        }
    }

    /// What the API server does with a write: takes it if it is about the newest version.
    fn write(&mut self, who: usize, of: Option<&Lease>) {
        let fits = of.map(version) == self.stored.as_ref().map(version);
        let answer = fits.then(|| {
            self.version += 1;
            let lease = lease(self.candidates[who].me(), self.version);
            self.stored = Some(lease.clone());
            lease
        });
        self.answers.push((who, answer, self.now));
    }

    fn act(&mut self, who: usize, step: Act) {
        match step {
            Act::Decide => match self.candidates[who].decide(self.now) {
                Decision::Create => self.write(who, None),
                Decision::Write(lease) => self.write(who, Some(&lease)),
                Decision::Wait(_) | Decision::Learn => {}
            },
            Act::Hear => self.candidates[who].observe(self.stored.clone(), self.now),
            Act::Answer => {
                for (who, lease, began) in std::mem::take(&mut self.answers) {
                    match lease {
                        Some(lease) => self.candidates[who].wrote(lease, began, self.now),
                        None => self.candidates[who].failed(self.now),
                    }
                }
            }
            Act::Delete => self.stored = None,
            Act::Sleep(time) => {
                self.asleep.insert(who, self.now + time);
            }
        }
    }

    fn leaders(&self) -> usize {
        let leads = |election: &&Election| election.leads_until().is_some_and(|until| self.now < until);
        self.candidates.iter().filter(leads).count()
    }
}

#[derive(Clone, Copy, Debug)]
enum Act {
    Decide,
    Hear,
    Answer,
    Delete,
    Sleep(Duration),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => Just(Act::Decide),
        4 => Just(Act::Hear),
        4 => Just(Act::Answer),
        1 => (1..40u64).prop_map(|n| Act::Sleep(seconds(n))),
    ]
}

proptest! {
    /// Answers late or lost in time, candidates that sleep, news that do not come: never two at once.
    #[test]
    fn at_no_time_may_two_write(
        steps in proptest::collection::vec((0..3usize, act(), 0..4000u64), 1..400),
    ) {
        let mut world = World::new(3);
        for (who, step, wait) in steps {
            world.now += Duration::from_millis(wait);
            let now = world.now;
            world.asleep.retain(|_, until| now < *until);
            if !world.asleep.contains_key(&who) {
                world.act(who, step);
            }
            prop_assert!(world.leaders() <= 1);
        }
    }

    /// Also when someone deletes the Lease, once all have seen it.
    #[test]
    fn not_even_when_the_lease_is_deleted_before_their_eyes(
        steps in proptest::collection::vec((0..2usize, act(), 0..1000u64), 1..200),
    ) {
        let mut world = World::new(2);
        for round in 0..3 {
            for step in [Act::Hear, Act::Decide, Act::Answer, Act::Hear] {
                for who in 0..2 {
                    world.act(who, step);
                }
            }
            if round > 0 {
                world.act(0, Act::Delete);
            }
            for (who, step, wait) in &steps {
                world.now += Duration::from_millis(*wait);
                world.act(*who, *step);
                prop_assert!(world.leaders() <= 1);
            }
        }
    }

    /// Left in peace, one leads after the time of a Lease, and when it dies another after that.
    #[test]
    fn someone_leads_soon(first in 0..3usize, tick in 100..900u64) {
        let mut world = World::new(3);
        let mut alive = vec![0, 1, 2];
        for _ in 0..2 {
            let until = world.now + DURATION + Duration::from_secs(1);
            while world.now < until {
                world.now += Duration::from_millis(tick);
                for at in 0..alive.len() {
                    let who = alive[(first + at) % alive.len()];
                    world.act(who, Act::Hear);
                    world.act(who, Act::Decide);
                    world.act(who, Act::Answer);
                }
            }
            prop_assert_eq!(world.leaders(), 1);
            let now = world.now;
            let candidates = &world.candidates;
            alive.retain(|who| candidates[*who].leads_until().is_none_or(|until| now >= until));
        }
    }
}

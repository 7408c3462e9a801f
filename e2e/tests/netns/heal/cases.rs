//! Which faults are tried together. Pure.

use std::fmt;

use nsm_e2e::mesh::Who;

/// What a fault may hit, seen from a client on node 1 with one endpoint there and one on node 2.
pub(super) const TARGETS: [(Who, &str); 8] = [
    (Who::Nsmgr(1), "local nsmgr"),
    (Who::Nsmgr(2), "remote nsmgr"),
    (Who::Forwarder(1), "local forwarder"),
    (Who::Forwarder(2), "remote forwarder"),
    (Who::Registry, "registry"),
    (Who::Identity, "identity"),
    (Who::Endpoint(1), "local endpoint"),
    (Who::Endpoint(2), "remote endpoint"),
];

/// What happens to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Action {
    /// It is asked to end, and started again.
    Restart,
    /// It is killed, and started again.
    Kill,
    /// It hangs for a while and says nothing.
    Stop,
}

pub(super) const ACTIONS: [Action; 3] = [Action::Restart, Action::Kill, Action::Stop];

/// A target by its place in [`TARGETS`], and what happens to it.
pub(super) type Fault = (usize, Action);

/// Faults at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Case(pub(super) Vec<Fault>);

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |(target, action): &Fault| format!("{action:?} {}", TARGETS[*target].1);
        f.write_str(&self.0.iter().map(name).collect::<Vec<_>>().join(" + "))
    }
}

/// Every fault alone.
pub(super) fn singles() -> Vec<Case> {
    let all = (0..TARGETS.len()).flat_map(|target| ACTIONS.map(|action| Case(vec![(target, action)])));
    all.collect()
}

/// Every two faults of different targets.
pub(super) fn pairs() -> Vec<Case> {
    let faults: Vec<Fault> = singles().into_iter().flat_map(|case| case.0).collect();
    let two = |(number, first): (usize, &Fault)| {
        let later = faults[number + 1..].iter().filter(|second| second.0 != first.0);
        later.map(|second| Case(vec![*first, *second])).collect::<Vec<_>>()
    };
    faults.iter().enumerate().flat_map(two).collect()
}

/// So many different threes of different targets, the same for the same seed.
pub(super) fn triples(seed: u64, count: usize) -> Vec<Case> {
    let mut random = seed;
    let mut draw = |below: usize| {
        // Steele, Lea, Flood: Fast splittable pseudorandom number generators (OOPSLA 2014).
        random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) >> 33).unwrap_or(0) % below
    };
    let mut cases: Vec<Case> = Vec::new();
    while cases.len() < count {
        let mut faults: Vec<Fault> = Vec::new();
        while faults.len() < 3 {
            let fault = (draw(TARGETS.len()), ACTIONS[draw(ACTIONS.len())]);
            if faults.iter().all(|other| other.0 != fault.0) {
                faults.push(fault);
            }
        }
        faults.sort_unstable();
        let case = Case(faults);
        if !cases.contains(&case) {
            cases.push(case);
        }
    }
    cases
}

/// A 2-way covering array: few cases, in which every two faults of different targets meet. Each is filled
/// with whatever brings the most pairs that have not met.
pub(super) fn array() -> Vec<Case> {
    let mut left = pairs();
    let mut cases = Vec::new();
    while let Some(first) = left.first().cloned() {
        let mut case = first;
        while let Some(best) = best(&case, &left) {
            case.0.push(best);
        }
        left.retain(|pair| !meet(&case, pair));
        case.0.sort_unstable();
        cases.push(case);
    }
    cases
}

/// The fault of a target not hit yet that makes the most new pairs with the case.
fn best(case: &Case, left: &[Case]) -> Option<Fault> {
    let free = singles().into_iter().flat_map(|single| single.0);
    let free = free.filter(|fault| case.0.iter().all(|other| other.0 != fault.0));
    let new = |fault: &Fault| {
        let with = Case([case.0.as_slice(), &[*fault]].concat());
        left.iter().filter(|pair| meet(&with, pair) && !meet(case, pair)).count()
    };
    free.map(|fault| (new(&fault), fault))
        .filter(|(new, _)| *new > 0)
        .max_by_key(|(new, _)| *new)
        .map(|(_, fault)| fault)
}

fn meet(case: &Case, pair: &Case) -> bool {
    pair.0.iter().all(|fault| case.0.contains(fault))
}

#[test]
fn every_two_faults_meet_in_at_most_forty_cases() {
    let (array, pairs) = (array(), pairs());
    assert_eq!(pairs.len(), 28 * 9);
    assert!(array.len() <= 40, "{} cases", array.len());
    for pair in pairs {
        assert!(array.iter().any(|case| meet(case, &pair)), "{pair} in no case");
    }
    for case in &array {
        let targets: std::collections::HashSet<_> = case.0.iter().map(|fault| fault.0).collect();
        assert_eq!(targets.len(), case.0.len(), "{case}: one target twice");
    }
    println!("{} cases", array.len());
}

#[test]
fn triples_are_the_seeds_and_no_two_are_alike() {
    assert_eq!(triples(7, 200), triples(7, 200));
    assert_ne!(triples(7, 200), triples(8, 200));
    assert!(triples(7, 200).iter().all(|case| case.0.len() == 3));
}

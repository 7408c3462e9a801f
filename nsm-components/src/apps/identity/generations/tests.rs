//! A rotation by a clock that the test turns.

use proptest::prelude::*;

use super::*;

const HOUR: u64 = 3600;

/// How long each phase of a rotation lasts.
const PHASE: u64 = HOUR + MARGIN.as_secs();

fn lives() -> Lives {
    Lives { ca: Duration::from_hours(100), leaf: Duration::from_hours(1) }
}

fn domain() -> TrustDomain {
    TrustDomain::parse("host.nsm").unwrap()
}

/// What is stored, and the time.
struct World {
    stored: Stored,
    now: SystemTime,
}

impl World {
    fn new() -> Self {
        let mut world = Self { stored: Stored::default(), now: SystemTime::now() };
        world.step(0, false);
        world
    }

    fn at(&self) -> u64 {
        seconds(self.now)
    }

    /// Some time later, in a process that was just started.
    fn step(&mut self, later: u64, rotate: bool) {
        self.now += Duration::from_secs(later);
        let text = serde_json::to_string(&self.stored).unwrap();
        self.stored = serde_json::from_str(&text).unwrap();
        self.stored.advance(&domain(), self.now, lives(), rotate).unwrap();
    }

    /// Certificates in the bundle, and the one that signs.
    fn seen(&self) -> (Vec<String>, String) {
        let all = self.stored.generations.iter().map(|generation| generation.certificate.clone());
        let signing = self.stored.signing(self.at());
        (all.collect(), self.stored.generations[signing].certificate.clone())
    }
}

#[test]
fn a_rotation_goes_through_its_phases_in_order() {
    let mut world = World::new();
    let (bundle, old) = world.seen();
    assert_eq!(bundle, std::slice::from_ref(&old));

    world.step(HOUR, true);
    let (bundle, signing) = world.seen();
    assert_eq!((bundle.len(), &signing), (2, &old), "the new one is in the bundle and does not sign");
    let new = bundle[1].clone();
    world.step(PHASE - 1, true);
    assert_eq!(world.seen(), (bundle.clone(), old.clone()), "asking again changes nothing");
    world.step(1, false);
    assert_eq!(world.seen(), (bundle.clone(), new.clone()), "after the life of a leaf the new one signs");
    world.step(PHASE - 1, false);
    assert_eq!(world.seen(), (bundle, new.clone()), "the old one's last leaf is still valid");
    world.step(1, false);
    assert_eq!(world.seen(), (vec![new.clone()], new), "and then it is not");
}

#[test]
fn the_next_ca_is_made_ready_at_half_life_by_itself() {
    let mut world = World::new();
    world.step(49 * HOUR, false);
    assert_eq!(world.seen().0.len(), 1);
    world.step(HOUR, false);
    assert_eq!(world.seen().0.len(), 2);
    world.step(3 * HOUR, false);
    assert_eq!(world.seen().0.len(), 1);
}

#[test]
fn a_long_stop_skips_the_phases_that_passed() {
    let mut world = World::new();
    let old = world.seen().1;
    world.step(0, true);
    world.step(10 * HOUR, false);
    let (bundle, signing) = world.seen();
    assert_eq!(bundle, std::slice::from_ref(&signing));
    assert_ne!(signing, old);
    // Longer than a CA lives: nothing that was signed can be valid, so it begins anew.
    world.step(500 * HOUR, false);
    let (bundle, anew) = world.seen();
    assert_eq!(bundle, std::slice::from_ref(&anew));
    assert_ne!(anew, signing);
}

#[test]
fn longer_leaves_of_former_settings_keep_their_ca_longer() {
    let mut world = World::new();
    let long = Lives { leaf: Duration::from_hours(5), ..lives() };
    world.stored.advance(&domain(), world.now, long, false).unwrap();
    world.step(0, true);
    world.step(PHASE, false);
    world.step(4 * HOUR, false);
    assert_eq!(world.seen().0.len(), 2);
    world.step(PHASE, false);
    assert_eq!(world.seen().0.len(), 1);
}

#[test]
fn the_time_of_the_next_change_is_known() {
    let mut world = World::new();
    let next = |world: &World| world.stored.next_change(world.at()).unwrap() - world.at();
    assert!((49 * HOUR..=50 * HOUR).contains(&next(&world)));
    world.step(0, true);
    assert_eq!(next(&world), PHASE);
    let (signs_from, ends) = world.stored.rotation().unwrap();
    assert_eq!((signs_from - world.at(), ends - signs_from), (PHASE, PHASE));
    world.step(PHASE, false);
    assert_eq!(next(&world), PHASE);
}

#[test]
fn both_keys_are_published_and_the_new_ones_sign_from_their_time() {
    let mut world = World::new();
    world.step(0, true);
    let opened = Generations::open(&world.stored, &domain()).unwrap();
    assert_eq!(opened.bundle().unwrap().certificates().len(), 2);
    let signing = |later| &opened.signing(world.now + Duration::from_secs(later)).unwrap().jwt;
    let id = domain().workload("test", "test", "nsm").unwrap();
    for jwt in [signing(0), signing(PHASE)] {
        let token = jwt.sign(&id, &["a".into()], SystemTime::now(), Duration::from_mins(5)).unwrap();
        opened.jwt_keys(&domain()).validate(&token, "a").unwrap();
    }
    assert_ne!(format!("{:?}", signing(0)), format!("{:?}", signing(PHASE)));
}

#[test]
fn what_is_stored_does_not_show_in_debug_output() {
    let stored = World::new().stored;
    assert!(!format!("{stored:?}").contains("PRIVATE"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    /// Whoever holds a valid leaf is known to everybody who got the bundle with a valid leaf.
    #[test]
    fn no_valid_leaf_is_ever_without_its_ca(steps in prop::collection::vec((0..2 * HOUR, any::<bool>()), 1..25)) {
        let mut world = World::new();
        // Leaves and the bundle each came with, until they end.
        let mut holders: Vec<(String, Vec<String>, u64)> = Vec::new();
        for (later, rotate) in steps {
            world.step(later, rotate);
            let now = world.at();
            holders.retain(|(_, _, ends)| *ends > now);
            let (bundle, signing) = world.seen();
            holders.push((signing, bundle.clone(), now + HOUR));
            for (ca, _, _) in &holders {
                prop_assert!(bundle.contains(ca), "the bundle of now knows every valid leaf");
                for (_, old_bundle, _) in &holders {
                    prop_assert!(old_bundle.contains(ca), "so does the bundle of every valid leaf");
                }
            }
        }
    }
}

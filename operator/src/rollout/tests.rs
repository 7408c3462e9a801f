//! A cluster in small: controllers that lag, pods that take their time, operators that forget, nodes that
//! come and go, revisions that do not work.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
struct SimulatedPod {
    daemon: usize,
    revision: &'static str,
    node: usize,
    age: u32,
    /// When it began to end.
    leaving: Option<u32>,
}

#[derive(Clone, Debug)]
struct SimulatedNode {
    label: Mark,
    since: u32,
    proven: bool,
    expects: Option<BTreeSet<String>>,
}

/// Its revision, its placement, and since when.
type SimulatedSet = (&'static str, Placement, u32);

#[derive(Clone, Debug)]
struct Cluster {
    now: u32,
    lag: u32,
    start: u32,
    stop: u32,
    daemons: Vec<(&'static str, Vec<SimulatedSet>)>,
    nodes: BTreeMap<usize, SimulatedNode>,
    pods: Vec<SimulatedPod>,
    target: &'static str,
    failed: Option<usize>,
    broken: &'static str,
}

fn runs(placement: Placement, label: Mark) -> bool {
    match placement {
        Placement::Everywhere => true,
        Placement::Old => matches!(label, Mark::None | Mark::Handover),
        Placement::New => matches!(label, Mark::New | Mark::Handover),
    }
}

impl Cluster {
    fn new(nodes: usize, lag: u32, start: u32, stop: u32) -> Self {
        let node = SimulatedNode { label: Mark::None, since: 0, proven: false, expects: None };
        let daemons =
            ["agent", "nsmgr", "forwarder"].map(|name| (name, vec![("one", Placement::Everywhere, 0)]));
        let mut cluster = Self {
            now: 1000,
            lag,
            start,
            stop,
            daemons: daemons.into(),
            nodes: (0..nodes).map(|index| (index, node.clone())).collect(),
            pods: Vec::new(),
            target: "one",
            failed: None,
            broken: "",
        };
        for _ in 0..=lag + start {
            cluster.tick();
        }
        cluster
    }

    fn ready(&self, pod: &SimulatedPod) -> bool {
        pod.leaving.is_none() && pod.age >= self.start && pod.revision != self.broken
    }

    /// What Kubernetes does within a second.
    fn tick(&mut self) {
        self.now += 1;
        let (now, stop) = (self.now, self.stop);
        self.pods.retain(|pod| pod.leaving.is_none_or(|at| now < at + stop));
        self.pods.iter_mut().for_each(|pod| pod.age += 1);
        let settled = |at: u32| now >= at + self.lag;
        for (daemon, (_, sets)) in self.daemons.iter().enumerate() {
            for pod in self.pods.iter_mut().filter(|pod| pod.daemon == daemon && pod.leaving.is_none()) {
                let set = sets.iter().find(|(revision, ..)| *revision == pod.revision);
                let label = self.nodes.get(&pod.node).map(|node| (node.label, node.since));
                let stays = match (set, label) {
                    (Some((_, placement, at)), Some((label, since))) => {
                        runs(*placement, label) || !settled(*at) || !settled(since)
                    }
                    _ => false,
                };
                if !stays {
                    pod.leaving = Some(now);
                }
            }
            for (revision, placement, at) in sets {
                for (index, node) in &self.nodes {
                    let there = |pod: &SimulatedPod| {
                        pod.daemon == daemon && pod.revision == *revision && pod.node == *index
                    };
                    let wanted = runs(*placement, node.label) && settled(*at) && settled(node.since);
                    if wanted && !self.pods.iter().any(there) {
                        let pod = SimulatedPod { daemon, revision, node: *index, age: 0, leaving: None };
                        self.pods.push(pod);
                    }
                }
            }
        }
    }

    fn view(&self) -> View {
        let set = |(revision, placement, at): &SimulatedSet| Set {
            revision: (*revision).into(),
            placement: Some(*placement),
            observed: self.now >= at + self.lag,
        };
        View {
            daemons: self
                .daemons
                .iter()
                .map(|(name, sets)| Daemon {
                    name: (*name).into(),
                    target: self.target.into(),
                    sets: sets.iter().map(set).collect(),
                })
                .collect(),
            nodes: self
                .nodes
                .iter()
                .map(|(index, node)| Node {
                    name: format!("w{index:02}"),
                    mark: node.label,
                    since: Duration::from_secs((self.now - node.since).into()),
                    expects: node.expects.clone(),
                    proven: node.proven,
                })
                .collect(),
            pods: self
                .pods
                .iter()
                .map(|pod| Pod {
                    daemon: self.daemons[pod.daemon].0.into(),
                    revision: pod.revision.into(),
                    node: Some(format!("w{:02}", pod.node)),
                    ready: self.ready(pod),
                })
                .collect(),
            may_begin: true,
            failed: self.failed.map(|index| format!("w{index:02}")),
            limit: LIMIT,
        }
    }

    /// What the operator does about it; whether there was anything to do.
    fn operate(&mut self) -> Plan {
        let plan = plan(&self.view());
        for ((daemon, revision), placement) in &plan.placements {
            let sets = &mut self.daemons.iter_mut().find(|(name, _)| name == daemon).unwrap().1;
            match sets.iter_mut().find(|(known, ..)| known == revision) {
                Some(set) if set.1 != *placement => (set.1, set.2) = (*placement, self.now),
                Some(_) => {}
                None => sets.push((Box::leak(revision.clone().into_boxed_str()), *placement, self.now)),
            }
        }
        let index = |name: &str| name[1..].parse::<usize>().unwrap();
        for action in &plan.actions {
            match action {
                Action::Mark(name, label) => {
                    let node = self.nodes.get_mut(&index(name)).unwrap();
                    let ran = |pod: &&SimulatedPod| pod.node == index(name);
                    let ran = self.pods.iter().filter(ran).map(|pod| self.daemons[pod.daemon].0.to_owned());
                    if *label == Mark::Draining {
                        node.expects = Some(ran.collect());
                    }
                    (node.label, node.since, node.proven) = (*label, self.now, false);
                }
                Action::Delete(daemon, revision) => {
                    let sets = &mut self.daemons.iter_mut().find(|(name, _)| name == daemon).unwrap().1;
                    sets.retain(|(known, ..)| known != revision);
                }
            }
        }
        plan.proven.iter().for_each(|name| self.nodes.get_mut(&index(name)).unwrap().proven = true);
        if let Some(name) = &plan.failed {
            self.failed = Some(index(name));
        }
        plan
    }

    fn want(&mut self, target: &'static str) {
        self.target = target;
        self.failed = None;
    }

    /// Another operator takes over, which has seen nothing.
    fn forget(&mut self) {
        for node in self.nodes.values_mut() {
            node.proven = false;
            node.expects = None;
            if node.label != Mark::None {
                node.since = self.now;
            }
        }
    }

    /// Never two of a kind on a node.
    fn check(&self) {
        for (daemon, (name, _)) in self.daemons.iter().enumerate() {
            for node in self.nodes.keys() {
                let here = self.pods.iter().filter(|pod| pod.daemon == daemon && pod.node == *node);
                assert!(here.clone().count() <= 1, "two of {name} on {node}: {:?}", here.collect::<Vec<_>>());
            }
        }
    }

    /// Nodes that had their daemons for long enough and have not all of them now.
    fn without(&self, old: &BTreeSet<usize>) -> Vec<usize> {
        let whole = |node: &usize| {
            (0..self.daemons.len()).all(|daemon| {
                self.pods.iter().any(|pod| pod.daemon == daemon && pod.node == *node && self.ready(pod))
            })
        };
        self.nodes.keys().filter(|node| old.contains(node) && !whole(node)).copied().collect()
    }

    fn is_at_rest_with(&self, revision: &str) -> bool {
        self.daemons
            .iter()
            .all(|(_, sets)| sets.len() == 1 && sets[0].0 == revision && sets[0].1 == Placement::Everywhere)
            && self.nodes.values().all(|node| node.label == Mark::None)
            && self.pods.iter().all(|pod| pod.revision == revision && self.ready(pod))
            && self.pods.len() == self.nodes.len() * self.daemons.len()
    }

    /// Runs until this is so.
    fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        for _ in 0..20_000 {
            if holds(self) {
                return;
            }
            self.operate();
            self.tick();
            self.check();
        }
        panic!("not {what}: {self:#?}");
    }
}

#[test]
fn a_new_revision_reaches_node_after_node_and_leaves_no_label() {
    let mut cluster = Cluster::new(5, 1, 3, 2);
    assert!(cluster.is_at_rest_with("one"));
    assert_eq!(plan(&cluster.view()).actions, []);
    cluster.want("two");
    let all: BTreeSet<usize> = cluster.nodes.keys().copied().collect();
    let mut most = 0;
    for _ in 0..200 {
        cluster.operate();
        cluster.tick();
        cluster.check();
        most = most.max(cluster.without(&all).len());
    }
    assert!(cluster.is_at_rest_with("two"), "{cluster:#?}");
    assert_eq!(most, 1, "nodes without daemons at one time");
    assert_eq!(plan(&cluster.view()).progress, None);
}

#[test]
fn a_revision_that_does_not_get_ready_is_taken_back_from_its_one_node_and_goes_no_further() {
    let mut cluster = Cluster::new(4, 1, 3, 2);
    cluster.broken = "two";
    cluster.want("two");
    cluster.until("failed", |cluster| cluster.failed.is_some());
    for _ in 0..30 {
        cluster.operate();
        cluster.tick();
    }
    assert!(cluster.pods.iter().all(|pod| pod.revision == "one" && cluster.ready(pod)), "{cluster:#?}");
    assert_eq!(cluster.pods.len(), 12);
    // A node that joins gets what works.
    let fresh = SimulatedNode { label: Mark::None, since: cluster.now, proven: false, expects: None };
    cluster.nodes.insert(9, fresh);
    cluster.until("joined", |cluster| {
        cluster.pods.iter().filter(|pod| pod.node == 9 && cluster.ready(pod)).count() == 3
    });
    assert_eq!(plan(&cluster.view()).actions, []);
    // What is wanted next goes on from there.
    cluster.want("three");
    cluster.until("at rest", |cluster| cluster.is_at_rest_with("three"));
}

#[test]
fn who_changes_their_mind_gets_the_old_revision_back_the_same_way() {
    let mut cluster = Cluster::new(3, 1, 2, 2);
    cluster.want("two");
    cluster.until("half way", |cluster| {
        cluster.nodes.values().filter(|node| node.label == Mark::New && node.proven).count() == 1
    });
    cluster.want("one");
    cluster.until("at rest", |cluster| cluster.is_at_rest_with("one"));
}

#[test]
fn nodes_wait_until_what_goes_before_them_is_as_wanted() {
    let mut cluster = Cluster::new(2, 1, 1, 1);
    cluster.want("two");
    let view = View { may_begin: false, ..cluster.view() };
    let waiting = plan(&view);
    assert!(waiting.actions.is_empty() && waiting.placements.keys().all(|(_, revision)| revision == "one"));
    assert!(waiting.progress.unwrap().doing.contains("wait"));
}

#[test]
fn without_nodes_there_is_nothing_to_wait_for() {
    let mut cluster = Cluster::new(0, 1, 1, 1);
    cluster.want("two");
    cluster.until("at rest", |cluster| cluster.is_at_rest_with("two"));
}

#[test]
fn a_node_whose_old_pods_do_not_end_holds_up_the_others_only_for_a_while() {
    let mut cluster = Cluster::new(3, 1, 2, 1);
    cluster.want("two");
    cluster.until("draining", |cluster| cluster.nodes[&0].label == Mark::Draining);
    let dead = |cluster: &mut Cluster| {
        // Its kubelet is gone: nothing there ends.
        let now = cluster.now;
        cluster.pods.iter_mut().filter(|pod| pod.node == 0).for_each(|pod| pod.leaving = Some(now + 1000));
    };
    for _ in 0..200 {
        dead(&mut cluster);
        cluster.operate();
        cluster.tick();
    }
    assert_eq!(cluster.nodes[&1].label, Mark::New);
    assert_eq!(cluster.nodes[&2].label, Mark::New);
    assert_eq!(cluster.nodes[&0].label, Mark::Draining);
    let doing = plan(&cluster.view()).progress.unwrap().doing;
    assert!(doing.contains("w00"), "{doing}");
    cluster.pods.retain(|pod| pod.node != 0);
    cluster.until("at rest", |cluster| cluster.is_at_rest_with("two"));
}

#[derive(Clone, Debug)]
enum Event {
    Pass(u8),
    Want(&'static str),
    Forget,
    Join,
    Leave,
    Reboot(usize),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (1..40u8).prop_map(Event::Pass),
        2 => prop_oneof![Just("one"), Just("two"), Just("three")].prop_map(Event::Want),
        1 => Just(Event::Forget),
        1 => Just(Event::Join),
        1 => Just(Event::Leave),
        1 => (0..8usize).prop_map(Event::Reboot),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn whatever_happens_no_node_has_two_of_a_kind_and_all_get_what_is_wanted_in_the_end(
        nodes in 0..6usize, lag in 1..3u32, start in 1..8u32, stop in 1..6u32,
        events in prop::collection::vec(event(), 0..25),
    ) {
        let mut cluster = Cluster::new(nodes, lag, start, stop);
        let mut next = nodes;
        for event in events {
            match event {
                Event::Pass(seconds) => for _ in 0..seconds {
                    cluster.operate();
                    cluster.tick();
                    cluster.check();
                },
                Event::Want(target) => cluster.want(target),
                Event::Forget => cluster.forget(),
                Event::Join => {
                    let fresh = SimulatedNode { label: Mark::None, since: cluster.now, proven: false, expects: None };
                    cluster.nodes.insert(next, fresh);
                    next += 1;
                }
                Event::Leave => {
                    cluster.nodes.pop_first();
                    let nodes = cluster.nodes.clone();
                    cluster.pods.retain(|pod| nodes.contains_key(&pod.node));
                }
                Event::Reboot(node) => cluster.pods.iter_mut().filter(|pod| pod.node == node).for_each(|pod| pod.age = 0),
            }
        }
        cluster.until("at rest", |cluster| cluster.is_at_rest_with(cluster.target));
    }

    #[test]
    fn one_node_at_a_time_is_without_its_daemons(
        nodes in 1..6usize, lag in 1..3u32, start in 1..8u32, stop in 1..6u32, forgets in prop::collection::vec(0..400u32, 0..3),
    ) {
        let mut cluster = Cluster::new(nodes, lag, start, stop);
        let all: BTreeSet<usize> = cluster.nodes.keys().copied().collect();
        cluster.want("two");
        for second in 0..400 {
            if forgets.contains(&second) {
                cluster.forget();
            }
            cluster.operate();
            cluster.tick();
            let without = cluster.without(&all);
            prop_assert!(without.len() <= 1, "{:?} at {}", without, second);
        }
        prop_assert!(cluster.is_at_rest_with("two"), "{:#?}", cluster);
    }
}

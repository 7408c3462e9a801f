//! Upstream's scenarios of several processes that restart, each with what it has to end in. Those of one
//! process alone are among the [combinations](super::combinations), those of packets in [`super::dataplane`].

use nsm_e2e::wait::may_run;

use super::{
    cases::{Action, Fault},
    combinations::nothing_is_lost,
};

/// Places of [`super::cases::TARGETS`].
const LOCAL_NSMGR: usize = 0;
const REMOTE_NSMGR: usize = 1;
const LOCAL_FORWARDER: usize = 2;
const REMOTE_FORWARDER: usize = 3;
const REGISTRY: usize = 4;
const IDENTITY: usize = 5;

/// Processes that are killed at once; nothing may be lost.
const SCENARIOS: [(&str, &[usize]); 8] = [
    ("9 local-nsmgr-remote-nsmgr", &[LOCAL_NSMGR, REMOTE_NSMGR]),
    ("13 local-forwarder-remote-forwarder", &[LOCAL_FORWARDER, REMOTE_FORWARDER]),
    ("17 registry-remote-forwarder", &[REGISTRY, REMOTE_FORWARDER]),
    ("18 registry-remote-nsmgr", &[REGISTRY, REMOTE_NSMGR]),
    ("21 local-nsmgr-local-forwarder", &[LOCAL_NSMGR, LOCAL_FORWARDER]),
    ("22 local-nsm-system-restart", &[LOCAL_NSMGR, LOCAL_FORWARDER, REGISTRY, IDENTITY]),
    ("23 remote-nsm-system-restart", &[REMOTE_NSMGR, REMOTE_FORWARDER]),
    ("22 + 23 both", &[LOCAL_NSMGR, LOCAL_FORWARDER, REMOTE_NSMGR, REMOTE_FORWARDER, REGISTRY, IDENTITY]),
];

fn scenarios(whom: std::ops::Range<usize>) {
    if !may_run() {
        return;
    }
    for (name, targets) in &SCENARIOS[whom] {
        println!("{name}");
        let faults: Vec<Fault> = targets.iter().map(|target| (*target, Action::Kill)).collect();
        nothing_is_lost(&faults);
    }
}

#[test]
fn nothing_is_lost_when_two_of_one_kind_or_with_the_registry_are_replaced() {
    scenarios(0..4);
}

#[test]
fn nothing_is_lost_when_all_of_a_node_are_replaced() {
    scenarios(4..SCENARIOS.len());
}

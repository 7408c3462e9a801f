//! No packet is lost when processes of the mesh end and come back, and connections live on.

use nsm_e2e::{
    mesh::{Signal, Who},
    wait::may_run,
};

use crate::story::Story;

const FORWARDERS: [Who; 2] = [Who::Forwarder(1), Who::Forwarder(2)];
const NSMGRS: [Who; 2] = [Who::Nsmgr(1), Who::Nsmgr(2)];
const NODES: [Who; 4] = [Who::Nsmgr(1), Who::Nsmgr(2), Who::Forwarder(1), Who::Forwarder(2)];
const ALL: [Who; 6] =
    [Who::Identity, Who::Registry, Who::Nsmgr(1), Who::Nsmgr(2), Who::Forwarder(1), Who::Forwarder(2)];

fn nothing_is_lost_without(whom: &[Who], signal: Signal) {
    if may_run() {
        Story::begin().loses_nothing_without(whom, signal);
    }
}

#[test]
fn nothing_is_lost_when_the_forwarders_are_killed() {
    nothing_is_lost_without(&FORWARDERS, Signal::SIGKILL);
}

#[test]
fn nothing_is_lost_when_the_nsmgrs_are_killed() {
    nothing_is_lost_without(&NSMGRS, Signal::SIGKILL);
}

#[test]
fn nothing_is_lost_when_nsmgrs_and_forwarders_are_killed_at_once() {
    nothing_is_lost_without(&NODES, Signal::SIGKILL);
}

#[test]
fn nothing_is_lost_when_nsmgrs_and_forwarders_are_stopped_as_in_an_upgrade() {
    nothing_is_lost_without(&NODES, Signal::SIGTERM);
}

#[test]
fn nothing_is_lost_when_everything_but_the_pods_is_killed_at_once() {
    nothing_is_lost_without(&ALL, Signal::SIGKILL);
}

/// They lose their paths, but every process on the way knows them by where they come from.
#[test]
fn nothing_is_lost_when_the_clients_are_killed_and_started_again() {
    if may_run() {
        let story = Story::begin();
        let clients = story.clients();
        story.loses_nothing_without(&clients, Signal::SIGKILL);
    }
}

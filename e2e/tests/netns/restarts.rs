//! No packet is lost when processes of the mesh end and come back, and connections live on.

use std::time::Duration;

use nsm_e2e::{
    mesh::{Signal, Who},
    wait::may_run,
};

use crate::story::{Story, assert_silent, assert_whole};

const FORWARDERS: [Who; 2] = [Who::Forwarder(1), Who::Forwarder(2)];
const NSMGRS: [Who; 2] = [Who::Nsmgr(1), Who::Nsmgr(2)];
const NODES: [Who; 4] = [Who::Nsmgr(1), Who::Nsmgr(2), Who::Forwarder(1), Who::Forwarder(2)];
const ALL: [Who; 6] =
    [Who::Identity, Who::Registry, Who::Nsmgr(1), Who::Nsmgr(2), Who::Forwarder(1), Who::Forwarder(2)];

/// Ends processes and starts them again beneath a thousand packets a second on each connection.
fn nothing_is_lost_without(whom: &[Who], signal: Signal) {
    if may_run() {
        nothing_is_lost(Story::begin(), whom, signal);
    }
}

fn nothing_is_lost(mut story: Story, whom: &[Who], signal: Signal) {
    let before = story.interfaces();
    let watched = story.watch();
    let streams = story.clients().map(|client| story.stream(client));
    streams[0].run_for(Duration::from_millis(200)).unwrap();
    story.mesh.end(whom, signal).unwrap();
    streams[0].run_for(Duration::from_millis(500)).unwrap();
    story.mesh.start_again(whom).unwrap();
    // What is not refreshed expires one life after the start at the latest.
    streams[0].run_for(story.mesh.life() + Duration::from_secs(2)).unwrap();
    for stream in streams {
        assert_whole(stream);
    }
    assert_silent(watched);
    assert_eq!(story.interfaces(), before);
    for node in [1, 2] {
        assert_eq!(story.mesh.journal(node).len(), node, "connections known on node {node}");
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
        nothing_is_lost(story, &clients, Signal::SIGKILL);
    }
}

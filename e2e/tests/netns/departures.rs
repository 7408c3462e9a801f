//! What goes away without a word is cleared away once its token has ended, and nothing else is.

use std::time::Duration;

use nsm_e2e::{
    interface::{Interface, interfaces},
    mesh::{Mesh, START, Signal, Who},
    wait::{may_run, until_true},
};

use crate::story::{Story, assert_silent, assert_whole};

/// How much later than a token's end its connection may go.
const LATE: Duration = Duration::from_secs(8);

/// Warnings and errors that all processes have logged.
fn complaints(mesh: &Mesh, whom: &[Who]) -> usize {
    let count = |who: &Who| {
        let log = mesh.process(*who).unwrap().log();
        log.lines().filter(|line| line.contains(r#""WARN""#) || line.contains(r#""ERROR""#)).count()
    };
    whom.iter().map(count).sum()
}

/// Waits until only the connection of the client on node 2 is left, whole.
fn only_the_local_one_is_left(story: &Story) {
    let limit = story.mesh.life() + LATE;
    let mut last = None;
    let cleared =
        until_true("the connection of the client that is gone is removed everywhere", limit, || {
            let links = |who| interfaces(story.mesh.pod_of(who).unwrap()).unwrap().len();
            let known = (story.mesh.journal(1).len(), story.mesh.journal(2).len());
            last = Some((links(story.endpoint), links(story.remote), known));
            last == Some((1, 0, (0, 1)))
        });
    cleared.unwrap_or_else(|error| panic!("{error}; left are {last:?}"));
}

#[test]
fn a_client_that_is_killed_leaves_nothing_once_its_token_has_ended() {
    if !may_run() {
        return;
    }
    let mut story = Story::begin();
    let before = story.interfaces();
    story.mesh.end(&[story.remote], Signal::SIGKILL).unwrap();
    assert_eq!(story.interfaces(), before, "a client's death alone changes nothing");
    let stream = story.stream(story.local);
    only_the_local_one_is_left(&story);
    assert_whole(stream);
    assert_eq!(story.interface(story.local), before[1]);
}

#[test]
fn a_client_that_died_while_the_forwarders_were_away_is_cleared_away_and_no_other() {
    if !may_run() {
        return;
    }
    let mut story = Story::begin();
    let before = story.interface(story.local);
    let mut watched = story.watch();
    watched.retain(|(who, _)| *who == story.local);
    let stream = story.stream(story.local);
    let forwarders = [Who::Forwarder(1), Who::Forwarder(2)];
    story.mesh.end(&forwarders, Signal::SIGKILL).unwrap();
    story.mesh.end(&[story.remote], Signal::SIGKILL).unwrap();
    story.mesh.start_again(&forwarders).unwrap();
    only_the_local_one_is_left(&story);
    assert_whole(stream);
    assert_silent(watched);
    assert_eq!(story.interface(story.local), before);
}

#[test]
fn deleted_pods_are_not_held_and_leave_nothing() {
    if !may_run() {
        return;
    }
    let mut story = Story::begin();
    let limit = story.mesh.life() + LATE;
    let all =
        [Who::Nsmgr(1), Who::Nsmgr(2), Who::Forwarder(1), Who::Forwarder(2), Who::Registry, story.local];
    story.mesh.delete_pod(story.remote, limit).unwrap();
    story.mesh.delete_pod(story.endpoint, limit).unwrap();
    // The client on node 2 goes on to ask for what is no more. Forwarders look twice for what they
    // find no way to.
    story.mesh.is_clean(limit + story.mesh.life()).unwrap();
    let complaints = complaints(&story.mesh, &all);
    assert!(complaints < 100, "{complaints} warnings and errors in {limit:?} are a loop");
    story.mesh.end(&[story.local], Signal::SIGTERM).unwrap();
}

#[test]
fn a_client_whose_endpoint_is_gone_for_good_gets_another() {
    if !may_run() {
        return;
    }
    let mut story = Story::begin();
    let before = story.interface(story.local);
    story.mesh.delete_pod(story.endpoint, START).unwrap();
    story.mesh.endpoint(1, "finance", &[]).unwrap();
    let limit = story.mesh.life() + LATE;
    for client in story.clients() {
        let reached =
            |found: &Interface| found.address.is_some_and(|(ip, _)| ip.octets()[..3] == [172, 16, 2]);
        let connected = || interfaces(story.mesh.pod_of(client).unwrap()).unwrap().iter().any(reached);
        until_true(&format!("{client} is connected to the other endpoint"), limit, connected).unwrap();
        let interface = story.interface(client);
        assert_ne!(interface.index, before.index);
        assert_eq!(interfaces(story.mesh.pod_of(client).unwrap()).unwrap(), [interface]);
    }
}

//! Identities are renewed beneath connections.

use std::time::{Duration, Instant};

use nsm_e2e::{
    figures::{figures, get},
    mesh::{Mesh, Signal, Who},
    wait::{may_run, until_true},
};

use crate::story::{LIFE, Story, assert_silent, assert_whole};

/// Renewed at half of it, and most of the time two of a process are in use: its connections to
/// others are replaced one after the other.
const SVID_LIFE: Duration = Duration::from_secs(16);

#[test]
fn no_refresh_fails_while_all_identities_are_renewed_again_and_again() {
    if !may_run() {
        return;
    }
    let life = format!("{}s", SVID_LIFE.as_secs());
    let story = Story::begin_in(Mesh::start_with(LIFE, &[("NSM_SVID_LIFETIME", &life)]).unwrap());
    let before = story.interfaces();
    let watched = story.watch();
    let streams = story.clients().map(|client| story.stream(client));
    streams[0].run_for(SVID_LIFE * 5 / 2).unwrap();
    for stream in streams {
        assert_whole(stream);
    }
    assert_silent(watched);
    assert_eq!(story.interfaces(), before);
    for client in story.clients() {
        let log = story.mesh.process(client).unwrap().log();
        assert!(log.matches("new SVID").count() > 3, "nothing was renewed");
        let failed: Vec<_> = log.lines().filter(|line| line.contains("could not refresh")).collect();
        assert!(failed.is_empty(), "{failed:#?}");
    }
}

/// What clients have lives as long as their SVIDs: here both end while nobody can get new ones.
#[test]
fn connections_outlive_an_identity_source_that_is_away_for_longer_than_tokens_live() {
    if !may_run() {
        return;
    }
    let life = format!("{}s", SVID_LIFE.as_secs());
    let mut story = Story::begin_in(Mesh::start_with(LIFE, &[("NSM_SVID_LIFETIME", &life)]).unwrap());
    let before = story.interfaces();
    let watched = story.watch();
    let streams = story.clients().map(|client| story.stream(client));
    story.mesh.end(&[Who::Identity], Signal::SIGKILL).unwrap();
    streams[0].run_for(SVID_LIFE + LIFE * 2).unwrap();
    for who in [Who::Nsmgr(1), Who::Nsmgr(2), Who::Forwarder(1), Who::Forwarder(2), story.endpoint] {
        let log = story.mesh.process(who).unwrap().log();
        assert!(log.contains("no connection expires meanwhile"), "{who} does not say why");
        assert!(log.contains("it stays"), "{who}: no life was over, so the time was too short");
    }
    for who in [Who::Registry, Who::Nsmgr(1), Who::Nsmgr(2), Who::Forwarder(1), Who::Forwarder(2)] {
        let (status, why) = get(&story.mesh.metrics_socket(who), "/readyz").unwrap();
        assert!(status == 503 && why.contains("ended and no new one came"), "{who}: {status} {why}");
    }
    story.mesh.start_again(&[Who::Identity]).unwrap();
    let refreshed = |client| figures(&story.mesh.metrics_socket(client)).unwrap()["nsm_refreshes_total"];
    let counts = story.clients().map(refreshed);
    for (client, count) in story.clients().into_iter().zip(counts) {
        let again = || refreshed(client) >= count + 2;
        until_true(&format!("{client} refreshes again"), SVID_LIFE * 4, again).unwrap();
    }
    // After the grace that clients have, lives count again: those who refresh lose nothing by it.
    streams[0].run_for(Duration::from_secs(30) + LIFE).unwrap();
    for stream in streams {
        assert_whole(stream);
    }
    assert_silent(watched);
    assert_eq!(story.interfaces(), before);
}

/// What a replaced identity source may keep a connection from being refreshed.
const RENEWED: Duration = Duration::from_secs(20);

/// 27 `identity replaced`: an authority that nobody knows comes in the old one's place, without an overlap.
#[test]
fn connections_outlive_an_identity_source_that_is_replaced_by_one_with_another_authority() {
    if !may_run() {
        return;
    }
    // Long enough to be refreshed once everybody has the new one.
    let mut story = Story::begin_with(RENEWED * 2);
    let before = story.interfaces();
    let watched = story.watch_clients();
    let streams = story.clients().map(|client| story.stream(client));
    let authority = || std::fs::read_dir(story.mesh.folder().join("identity")).unwrap().count();
    assert!(authority() > 0, "it keeps its authority there");
    story.mesh.end(&[Who::Identity], Signal::SIGKILL).unwrap();
    std::fs::remove_dir_all(story.mesh.folder().join("identity")).unwrap();
    story.mesh.start_again(&[Who::Identity]).unwrap();
    let replaced = Instant::now();
    let refreshed = |client| figures(&story.mesh.metrics_socket(client)).unwrap()["nsm_refreshes_total"];
    let renewed = |who: Who| story.mesh.process(who).unwrap().log().matches("new SVID").count() > 1;
    let all = [Who::Registry, Who::Nsmgr(1), Who::Nsmgr(2), Who::Forwarder(1), Who::Forwarder(2)];
    let all = all.into_iter().chain([story.endpoint]).chain(story.clients());
    for who in all {
        until_true(&format!("{who} has an identity of the new one"), RENEWED, || renewed(who)).unwrap();
    }
    let counts = story.clients().map(refreshed);
    for (client, count) in story.clients().into_iter().zip(counts) {
        // A refresh is due after a third of a life.
        let again = || refreshed(client) > count;
        until_true(&format!("{client} refreshes again"), RENEWED, again).unwrap();
    }
    println!("all are refreshed {:?} after it was replaced", replaced.elapsed());
    assert!(replaced.elapsed() < RENEWED * 2, "{:?}", replaced.elapsed());
    // And somebody new comes in.
    let late = story.mesh.client(1, "kernel://finance/nsm-1").unwrap();
    story.mesh.connected(late, "nsm-1").unwrap();
    // What was not refreshed would end.
    streams[0].run_for(story.mesh.life()).unwrap();
    for stream in streams {
        assert_whole(stream);
    }
    assert_silent(watched);
    assert_eq!(story.interfaces(), before);
}

//! Connections come up, live on and end while SPIRE is the one who renews the SVIDs.

use nsm_e2e::mesh::{Mesh, START, Signal, Who};

use crate::{
    server::{Spire, may_run},
    stage::{begin, heard, renewed, usual_id},
    story::{IFNAME, LIFE, Story, assert_silent, assert_whole},
};

/// A mesh whose processes have the IDs of upstream's template, with nothing set for it.
fn begin_story() -> (Story, Spire) {
    let (mesh, spire) = begin(&[], usual_id);
    (Story::begin_in(mesh), spire)
}

/// Nothing is lost while this happens beneath a thousand packets a second on each connection, and a
/// life of all tokens after it.
fn nothing_is_lost(story: &mut Story, what: impl FnOnce(&mut Mesh)) {
    let before = story.interfaces();
    let watched = story.watch();
    let streams = story.clients().map(|client| story.stream(client));
    what(&mut story.mesh);
    streams[0].run_for(LIFE).unwrap();
    for stream in streams {
        assert_whole(stream);
    }
    assert_silent(watched);
    assert_eq!(story.interfaces(), before);
}

fn assert_no_refresh_failed(story: &Story) {
    for client in story.clients() {
        let log = story.mesh.process(client).unwrap().log();
        let failed: Vec<_> = log.lines().filter(|line| line.contains("could not refresh")).collect();
        assert!(failed.is_empty(), "{failed:#?}");
    }
}

#[test]
fn connections_live_through_renewed_svids_and_a_restart_of_the_nsmgrs_and_close_without_a_trace() {
    if !may_run() {
        return;
    }
    let (mut story, _spire) = begin_story();
    nothing_is_lost(&mut story, |mesh| renewed(mesh, 2));
    assert_no_refresh_failed(&story);
    nothing_is_lost(&mut story, |mesh| {
        let nsmgrs = [Who::Nsmgr(1), Who::Nsmgr(2)];
        mesh.end(&nsmgrs, Signal::SIGKILL).unwrap();
        mesh.start_again(&nsmgrs).unwrap();
        renewed(mesh, 1);
    });
    let clients = story.clients();
    story.mesh.end(&clients, Signal::SIGTERM).unwrap();
    story.mesh.is_clean(START).unwrap();
}

#[test]
fn no_refresh_fails_while_the_ca_is_replaced_and_the_agent_is_killed() {
    if !may_run() {
        return;
    }
    let (mut story, mut spire) = begin_story();
    nothing_is_lost(&mut story, |mesh| spire.replace_authority(|change| heard(mesh, change)));
    nothing_is_lost(&mut story, |mesh| {
        spire.restart_agent();
        renewed(mesh, 1);
    });
    assert_no_refresh_failed(&story);
}

#[test]
fn a_client_that_spire_does_not_know_yet_waits_and_connects_once_it_does() {
    if !may_run() {
        return;
    }
    let (Story { mut mesh, .. }, spire) = begin_story();
    let unknown = mesh.client(1, &format!("kernel://finance/{IFNAME}")).unwrap();
    mesh.says(unknown, "no SVID from the Workload API yet", START).unwrap();
    spire.knows(&mesh, &[(unknown, usual_id(unknown))]);
    mesh.connected(unknown, IFNAME).unwrap();
}

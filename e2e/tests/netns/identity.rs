//! New SVIDs and a new CA beneath a running mesh.

use std::{process::Command, time::Duration};

use nsm_e2e::{
    mesh::{Mesh, Who, program},
    wait::{may_run, until_true},
};

use crate::story::{LIFE, Story, assert_silent, assert_whole};

/// Both phases of a rotation last a little longer than that.
const SVID_LIFE: Duration = Duration::from_secs(16);

#[test]
fn connections_live_through_new_svids_and_a_new_ca_and_no_request_is_refused() {
    if !may_run() {
        return;
    }
    let svid_life = format!("{}s", SVID_LIFE.as_secs());
    let mesh = Mesh::start_with(LIFE, &[("NSM_SVID_LIFETIME", &svid_life)]).unwrap();
    let mut story = Story::begin_in(mesh);
    let all =
        [Who::Registry, Who::Nsmgr(1), Who::Nsmgr(2), Who::Forwarder(1), Who::Forwarder(2), story.endpoint];
    let denials = |mesh: &Mesh| {
        let logs = all.map(|who| mesh.process(who).unwrap().log());
        logs.iter().map(|log| log.matches("no sufficient privileges").count()).sum::<usize>()
    };
    let (before, refused) = (story.interfaces(), denials(&story.mesh));
    let watched = story.watch();
    let streams = story.clients().map(|client| story.stream(client));

    let mut command = Command::new(program().unwrap());
    command.args(["identity", "rotate"]);
    command.env("NSM_LISTEN_ON", format!("unix://{}", story.mesh.workload_api().display()));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let cas = |count: usize| {
        let log = story.mesh.process(Who::Identity).unwrap().log();
        log.lines()
            .any(|line| line.contains("bundle has changed") && line.contains(&format!("\"cas\":{count}")))
    };
    until_true("the new CA is in the bundle", LIFE, || cas(2)).unwrap();
    until_true("the old CA has left it", SVID_LIFE * 3, || cas(1)).unwrap();
    // Under the new CA alone everybody is refreshed once more.
    streams[0].run_for(LIFE).unwrap();
    for stream in streams {
        assert_whole(stream);
    }
    assert_silent(watched);
    assert_eq!(story.interfaces(), before);
    assert_eq!(denials(&story.mesh), refused, "no Request was refused");
    // And somebody new comes in.
    let late = story.mesh.client(1, "kernel://finance/nsm-1").unwrap();
    story.mesh.connected(late, "nsm-1").unwrap();
}

//! Identities are renewed beneath connections.

use std::time::Duration;

use nsm_e2e::{mesh::Mesh, wait::may_run};

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

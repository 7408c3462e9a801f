//! A forwarder that was away for long.

use nsm_e2e::{
    mesh::{Signal, Who},
    wait::may_run,
};

use crate::story::{LIFE, Story, assert_whole};

const FORWARDERS: [Who; 2] = [Who::Forwarder(1), Who::Forwarder(2)];

#[test]
fn a_forwarder_that_was_away_for_longer_than_a_tokens_life_removes_nothing_that_is_refreshed() {
    if !may_run() {
        return;
    }
    let mut story = Story::begin();
    let before = story.interfaces();
    let streams = story.clients().map(|client| story.stream(client));
    story.mesh.end(&FORWARDERS, Signal::SIGKILL).unwrap();
    // All tokens end meanwhile; nobody else touches links.
    streams[0].run_for(LIFE * 2).unwrap();
    assert_eq!(story.interfaces(), before);
    story.mesh.start_again(&FORWARDERS).unwrap();
    // What is not refreshed goes a life after the start.
    streams[0].run_for(LIFE * 2).unwrap();
    for stream in streams {
        assert_whole(stream);
    }
    let after = story.interfaces();
    assert_eq!(after, before);
    for node in [1, 2] {
        assert_eq!(story.mesh.journal(node).len(), node, "connections known on node {node}");
    }
}

//! A forwarder that was away for long.

use nsm_e2e::{
    figures::figures,
    mesh::{START, Signal, Who},
    wait::{may_run, until_true},
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

#[test]
fn a_forwarder_tells_what_became_of_the_connections_that_it_found() {
    if !may_run() {
        return;
    }
    for (signal, quiesced) in [(Signal::SIGTERM, 1), (Signal::SIGKILL, 0)] {
        let mut story = Story::begin();
        let forwarder = Who::Forwarder(2);
        story.mesh.end(&[forwarder], signal).unwrap();
        // One client goes on, one is dead.
        story.mesh.end(&[story.local], Signal::SIGKILL).unwrap();
        story.mesh.start_again(&[forwarder]).unwrap();
        let mut seen = Vec::new();
        let mut tells = |limit, expected: [u64; 5]| {
            let told = until_true("the report is complete", limit, || {
                let Ok(all) = figures(&story.mesh.metrics_socket(forwarder)) else { return false };
                // The process answers before it has all its figures.
                let figure = |name: &str| all.get(name).copied().unwrap_or(u64::MAX);
                let of = |name: &str| figure(&format!("nsm_adoption_connections{{result=\"{name}\"}}"));
                seen = ["baseline", "recovered", "closed_by_client", "lost", "pending"].map(of).to_vec();
                let rest = ["nsm_adoption_quiesced", "nsm_adoption_longest_gap_milliseconds"];
                seen == expected && rest.map(figure) == [quiesced, 0]
            });
            told.unwrap_or_else(|error| panic!("{error}: {seen:?} is not {expected:?}"));
        };
        tells(START, [2, 1, 0, 0, 1]);
        // Its connection ends with its token, by the nsmgr's Close or by this forwarder.
        story.mesh.says(forwarder, "adoption is complete", LIFE * 3).unwrap();
        until_true("its entry goes with it", START, || story.mesh.journal(2).len() == 1).unwrap();
    }
}

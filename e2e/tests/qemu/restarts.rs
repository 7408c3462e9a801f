//! Encrypted tunnels live on when processes of the mesh end and come back: the kernel keeps the keys.

use nsm_e2e::mesh::{Signal, Who};

fn nothing_is_lost_without(whom: &[Who], signal: Signal) {
    if let Some(story) = crate::story() {
        assert_eq!(story.interface(story.remote).kind, "wireguard");
        story.loses_nothing_without(whom, signal);
    }
}

#[test]
fn nothing_is_lost_when_the_other_nodes_nsmgr_is_killed() {
    nothing_is_lost_without(&[Who::Nsmgr(2)], Signal::SIGKILL);
}

#[test]
fn nothing_is_lost_when_the_other_nodes_forwarder_is_killed() {
    nothing_is_lost_without(&[Who::Forwarder(2)], Signal::SIGKILL);
}

#[test]
fn nothing_is_lost_when_both_forwarders_are_killed() {
    nothing_is_lost_without(&[Who::Forwarder(1), Who::Forwarder(2)], Signal::SIGKILL);
}

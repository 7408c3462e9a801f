//! A tunnel leads to another endpoint when the old one is gone: with its peer, its key and its addresses.

use std::time::Duration;

use nsm_e2e::{interface::interfaces, wait};

use crate::story::{IFNAME, assert_whole};

/// Longest time until packets flow again: the loss is found, and the guest is slow.
const HEALED: Duration = Duration::from_secs(90);

#[test]
fn a_tunnel_leads_to_another_endpoint_when_the_other_nodes_one_dies() {
    let Some(mut story) = crate::story() else { return };
    let before = story.interface(story.remote);
    let other = story.mesh.endpoint(2, "finance", &[]).unwrap();
    story.mesh.says(other, "\"registered\"", HEALED).unwrap();
    story.mesh.delete_pod(story.endpoint, HEALED).unwrap();
    story.endpoint = other;
    let look = || {
        let found = interfaces(story.mesh.pod_of(story.remote).ok()?).ok()?;
        found
            .into_iter()
            .find(|now| now.name == IFNAME && now.up && now.peer.is_some() && now.peer != before.peer)
    };
    let after = wait::until("the tunnel leads to the other endpoint", HEALED, look).unwrap();
    assert_eq!((after.kind.as_str(), &after.alias), ("wireguard", &before.alias));
    let stream = story.stream(story.remote);
    stream.run_for(Duration::from_secs(1)).unwrap();
    assert_whole(stream);
}

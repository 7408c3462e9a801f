//! What the kernel of a machine may lack, WireGuard above all: these run on a Debian kernel in QEMU (`e2e/qemu.sh`),
//! and anywhere else where the kernel has it. Needs root; sends packets only inside of its own namespaces.

// Helpers of tests are tests: what they cannot do fails the test.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "qemu/encryption.rs"]
mod encryption;
#[path = "qemu/heal.rs"]
mod heal;
#[path = "qemu/restarts.rs"]
mod restarts;
#[path = "netns/story.rs"]
#[allow(dead_code)] // Tests of namespaces use more of it.
mod story;

use std::time::Duration;

use nsm_e2e::{
    mesh::Mesh,
    wait::{has_wireguard, may_run},
};
use story::Story;

/// What is run here may be emulated, some ten times as slow as a machine: ten times the life of other tests. A
/// connection is closed before its end by the time that its first Request took, which was ten seconds here.
const LIFE: Duration = Duration::from_secs(100);

/// A mesh whose endpoints carry IP packets.
fn mesh() -> Option<Mesh> {
    let able = may_run() && has_wireguard();
    let settings = [("NSM_PAYLOAD", "IP"), ("NSM_DIAL_TIMEOUT", "10s")];
    able.then(|| Mesh::start_with(LIFE, &settings).unwrap())
}

fn story() -> Option<Story> {
    mesh().map(Story::begin_in)
}

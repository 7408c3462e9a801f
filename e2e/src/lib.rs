//! What stories about a running mesh need: namespaces as nodes and pods, real processes, packets
//! that are counted, and the kernel's own word for what changed.
//!
//! Everything is checked with `ip`, never with the code under test, and nothing outlives the test
//! that made it, not even when the test is killed: namespaces have no name and end with the last
//! file open on them, processes end with the one that started them.

pub mod figures;
pub mod healing;
pub mod interface;
pub mod knock;
pub mod kubernetes;
pub mod leftovers;
pub mod mesh;
pub mod monitor;
pub mod netns;
pub mod process;
pub mod stream;
pub mod wait;

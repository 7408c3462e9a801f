//! Messages as upstream encodes them, taken in and given out again, byte for byte.
//!
//! `wire/generated.txt` has every message and field: `go run ./record` in `e2e/peers` writes it anew.
//! `wire/live.txt` is what the processes of a mesh of upstream said to each other, from the first
//! registration to the last Close: `e2e/peers/record.sh` runs that mesh and writes it anew.
//! A line is a name, a case, and bytes in hexadecimal digits, or for `path` metadata its text.

#![cfg(feature = "mesh")]
// Helpers of tests are tests: what they cannot do fails the test.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "wire/generated.rs"]
mod generated;
#[path = "wire/live.rs"]
mod live;
#[path = "wire/recording.rs"]
mod recording;

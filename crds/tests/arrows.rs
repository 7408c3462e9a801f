//! The resources are the ground: this crate uses nothing else of the project.
#![allow(clippy::unwrap_used)]

use std::fs;

#[test]
fn the_resources_use_nothing_else_of_the_project() {
    let manifest = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")).unwrap();
    let used: Vec<_> =
        manifest.lines().filter(|line| line.starts_with("nsm-") && line.contains('=')).collect();
    assert!(used.is_empty(), "{used:?}");
    assert!(!manifest.contains("path ="), "a path leads to another crate of the project");
}

//! Arrows between the crates of the workspace, by their manifests.
#![allow(clippy::unwrap_used)]

use std::{collections::BTreeSet, fs, path::Path};

/// Crates of the project that a crate names in its manifest, under dependencies of any kind.
fn used_by(folder: &str) -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let manifest = fs::read_to_string(root.join(folder).join("Cargo.toml")).unwrap();
    let body = manifest.split_once("[lints]").map_or(manifest.as_str(), |(_, body)| body).to_owned();
    let names = body.lines().filter(|line| line.starts_with("nsm-") && line.contains('='));
    names.map(|line| line.split(['.', ' ', '=']).next().unwrap().to_owned()).collect()
}

#[test]
fn arrows_between_crates_point_from_stories_and_operator_to_components_and_resources() {
    let names = |all: &[&str]| all.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(used_by("crds"), names(&[]));
    assert_eq!(used_by("nsm-components"), names(&["nsm-crds"]));
    assert_eq!(used_by("operator"), names(&["nsm-components", "nsm-crds"]));
    assert!(used_by("e2e").is_subset(&names(&["nsm-components", "nsm-crds"])));
}

#[test]
fn the_operator_takes_names_settings_and_the_election_of_the_components_and_nothing_else() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let workspace = fs::read_to_string(root.join("Cargo.toml")).unwrap();
    let line = workspace.lines().find(|line| line.starts_with("nsm-components")).unwrap();
    assert!(line.contains("default-features = false"), "{line}");
    let operator = fs::read_to_string(root.join("operator/Cargo.toml")).unwrap();
    let line = operator.lines().find(|line| line.starts_with("nsm-components")).unwrap();
    let features: Vec<_> = line.split_once("features = ").map(|(_, rest)| rest).into_iter().collect();
    assert_eq!(features, [r#"["election"] }"#], "{line}");
}

#[test]
fn every_test_program_belongs_to_a_tier() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let tiers = fs::read_to_string(root.join("e2e/test.sh")).unwrap();
    for folder in ["crds", "nsm-components", "operator", "e2e"] {
        for path in fs::read_dir(root.join(folder).join("tests")).unwrap().map(|entry| entry.unwrap().path())
        {
            if path.extension().is_some_and(|ending| ending == "rs") {
                let name = path.file_stem().unwrap().to_str().unwrap();
                assert!(tiers.contains(&format!("--test {name}")), "{folder}/tests/{name}.rs is in no tier");
            }
        }
    }
}

//! Modules without effects know none that have effects, and of the mesh the operator knows names
//! and settings alone.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::format_push_string,
    reason = "helpers of tests fail by panicking, too"
)]

use std::{fs, path::Path};

/// Rows of modules; each may use its own row's row-mates only as said, and all rows above.
const ROWS: [&[&str]; 5] = [
    &["names", "object", "election", "server", "metrics"],
    &["compare", "render", "status", "install", "validate", "plan", "convergence", "rollout", "kept"],
    &["apply", "collect", "dereference", "lease", "preflight", "remove", "forecast", "ledger"],
    &["controllers", "health"],
    &["daemon"],
];

/// Arrows within a row.
const WITHIN: [(&str, &str); 12] = [
    ("object", "names"),
    ("validate", "render"),
    ("plan", "compare"),
    ("plan", "status"),
    ("rollout", "render"),
    ("kept", "render"),
    ("kept", "compare"),
    ("status", "kept"),
    ("dereference", "collect"),
    ("install", "names"),
    ("apply", "lease"),
    ("forecast", "apply"),
];

fn row(module: &str) -> usize {
    ROWS.iter().position(|row| row.contains(&module)).unwrap_or_else(|| panic!("{module} stands in no row"))
}

/// Every file below `src`, with the top-level module it belongs to.
fn sources(folder: &Path, found: &mut Vec<(String, String)>, module: Option<&str>) {
    for entry in fs::read_dir(folder).expect("a readable folder") {
        let path = entry.expect("a readable entry").path();
        let stem = path.file_stem().and_then(|stem| stem.to_str()).expect("a name in UTF-8").to_owned();
        let module = module.unwrap_or(&stem);
        if path.is_dir() {
            sources(&path, found, Some(module));
        } else if !["lib", "main"].contains(&module) {
            found.push((module.to_owned(), fs::read_to_string(&path).expect("a readable file")));
        }
    }
}

/// Top-level modules in `use crate::…;` lines, nested lists included.
fn used(text: &str) -> Vec<String> {
    let mut modules = Vec::new();
    for import in text.split("use crate::").skip(1) {
        let import = import.split(';').next().unwrap_or_default();
        let Some(list) = import.strip_prefix('{') else {
            modules.push(first_word(import));
            continue;
        };
        let mut depth = 0;
        let mut item = String::new();
        for letter in list.chars() {
            match letter {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 0 => modules.push(first_word(&std::mem::take(&mut item))),
                _ => {}
            }
            item.push(letter);
        }
        modules.push(first_word(&item));
    }
    modules.retain(|module| !module.is_empty());
    modules
}

fn first_word(text: &str) -> String {
    text.trim_start_matches([',', ' ', '\n'])
        .chars()
        .take_while(|letter| letter.is_alphanumeric() || *letter == '_')
        .collect()
}

#[test]
fn arrows_between_modules_go_up_only() {
    let mut files = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files, None);
    assert!(files.len() > 25);
    for (module, text) in files {
        for target in used(&text) {
            let within = WITHIN.contains(&(module.as_str(), target.as_str()));
            let allowed = target == module || row(&target) < row(&module) || within;
            assert!(allowed, "{module} must not use {target}");
        }
        for import in text.split("nsm_components::").skip(1) {
            assert!(
                import.starts_with("{api::names")
                    || import.starts_with("election;")
                    || import.starts_with("settings")
                    || import.starts_with("api::names"),
                "{module} uses more of the mesh than names and settings: nsm_components::{}",
                import.lines().next().unwrap_or_default()
            );
        }
        assert!(!text.contains("netlink"), "{module} knows netlink");
    }
}

#[test]
fn only_apply_writes_and_only_the_rim_knows_the_client() {
    let mut files = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files, None);
    for (module, text) in files {
        let pure = row(&module) <= 1;
        assert!(
            !pure || !text.contains("kube::Client") && !text.contains("async fn"),
            "{module} has effects"
        );
        for write in ["Patch::", ".delete(&", "PostParams"] {
            let through_apply = text.replace("context.delete(&", "").matches(".delete(&").count()
                == text.matches("writer.delete(&").count()
                && write == ".delete(&";
            // The fence before all other writes, so it cannot pass itself.
            let fence = module == "lease" && write == "PostParams";
            // Not the operator itself, but a user of it.
            let user = module == "remove";
            let allowed = user || module == "apply" || through_apply || fence;
            assert!(allowed || !text.contains(write), "{module} writes: {write}");
        }
    }
}

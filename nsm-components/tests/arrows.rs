//! Arrows between modules point one way: the layers of `lib.rs`, kept by reading the sources.
#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// The layers, lowest first. A module may use those of lower layers; of its own layer only itself,
/// but for the lowest, which is one vocabulary.
const LAYERS: [&[&str]; 4] = [
    &["api", "settings", "election"],
    &["chain", "transport", "dataplane", "daemon"],
    &["elements"],
    &["apps"],
];

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

fn may_use(from: &str, to: &str) -> bool {
    match (layer(from), layer(to)) {
        (Some(upper), Some(lower)) => lower < upper || from == to || (upper == 0 && lower == 0),
        _ => false,
    }
}

/// Modules that a source names after `crate::`, inside braces too.
fn used(source: &str) -> BTreeSet<String> {
    let mut modules = BTreeSet::new();
    for (at, _) in source.match_indices("crate::") {
        let rest = &source[at + "crate::".len()..];
        if source[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        match rest.strip_prefix('{') {
            Some(group) => modules.extend(heads(group)),
            None => modules.extend(word(rest)),
        }
    }
    modules
}

/// First words of the items of a `{…}` group.
fn heads(group: &str) -> Vec<String> {
    let (mut depth, mut start, mut heads) = (0, true, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => start = true,
            c if start && c.is_alphabetic() => {
                heads.extend(word(&group[at..]));
                start = false;
            }
            _ => {}
        }
    }
    heads
}

fn word(text: &str) -> Option<String> {
    let word: String = text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    (!word.is_empty()).then_some(word)
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            all.extend(sources(&path));
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            all.push(path);
        }
    }
    all
}

/// Sentences about arrows that point up or sideways.
fn violations(module: &str, source: &str) -> Vec<String> {
    let used = used(source).into_iter().filter(|used| layer(used).is_some());
    used.filter(|used| !may_use(module, used)).map(|used| format!("{module} uses {used}")).collect()
}

#[test]
fn no_module_uses_one_above_or_beside_it() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut wrong = Vec::new();
    let mut seen = BTreeSet::new();
    for path in sources(&src) {
        let inside = path.strip_prefix(&src).unwrap();
        let module = inside.components().next().unwrap().as_os_str().to_str().unwrap();
        if layer(module).is_some() {
            seen.insert(module.to_owned());
            let text = fs::read_to_string(&path).unwrap();
            wrong.extend(
                violations(module, &text).into_iter().map(|what| format!("{}: {what}", inside.display())),
            );
        }
    }
    assert_eq!(seen.len(), LAYERS.iter().map(|layer| layer.len()).sum::<usize>(), "a layer has no sources");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_folder_has_a_layer() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for path in fs::read_dir(src).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()) {
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(layer(name).is_some(), "{name} stands in no layer: add it to LAYERS and to lib.rs");
    }
}

#[test]
fn the_reader_sees_arrows_in_all_their_forms() {
    let source =
        "use crate::apps::x;\nuse crate::{api::{a, b}, chain::C,\n elements};\nlet x: crate::daemon::D;";
    let found: Vec<_> = used(source).into_iter().collect();
    assert_eq!(found, ["api", "apps", "chain", "daemon", "elements"]);
    assert_eq!(violations("chain", "use crate::transport::X;"), ["chain uses transport"]);
    assert_eq!(violations("api", "use crate::chain::X;"), ["api uses chain"]);
    assert_eq!(violations("apps", source), [""; 0]);
}

#[test]
fn only_the_reporter_and_the_registry_know_kubernetes_outside_identity() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for path in sources(&src) {
        let inside = path.strip_prefix(&src).unwrap().display().to_string();
        let text = fs::read_to_string(&path).unwrap();
        let allowed = inside.starts_with("apps/nsmgr/")
            || inside.starts_with("apps/identity/")
            || inside.starts_with("apps/registry/")
            || inside == "apps/mesh.rs";
        assert!(
            allowed || !(text.contains("use kube") || text.contains("kube::Client")),
            "{inside} uses kube"
        );
    }
}

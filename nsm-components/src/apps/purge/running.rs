//! Forwarders that run on this machine, by what the kernel tells of its processes.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use crate::{
    dataplane::{ForwarderId, NetnsKey},
    settings::{Forwarder, Standalone},
};

/// A forwarder that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Running {
    pub(super) process: u32,
    /// What it writes on its links.
    pub(super) id: ForwarderId,
}

/// The program in the image, and as it is installed.
const PROGRAM: &str = "nsm";

/// All that can be seen from here: of other users' processes root alone sees enough.
pub(super) fn all() -> io::Result<Vec<Running>> {
    let own = fs::metadata("/proc/self/exe")?;
    let processes = fs::read_dir("/proc")?.flatten();
    let ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    Ok(ids.filter_map(|process| running(process, (own.dev(), own.ino()))).collect())
}

fn running(process: u32, own: (u64, u64)) -> Option<Running> {
    let folder = PathBuf::from(format!("/proc/{process}"));
    if !is_program(&folder.join("exe"), own) {
        return None;
    }
    let words = text(&folder.join("cmdline"))?;
    let settings = settings(words.get(1)?, &environment(&text(&folder.join("environ"))?))?;
    let netns = fs::metadata(folder.join("ns/net")).ok()?;
    let host = NetnsKey { dev: netns.dev(), ino: netns.ino() };
    let id = ForwarderId::new(&settings.common.name, host, &settings.base_dir);
    Some(Running { process, id })
}

/// Whether it is this program, or another version of it.
fn is_program(exe: &Path, own: (u64, u64)) -> bool {
    let named = fs::read_link(exe).ok().and_then(|path| path.file_name().map(ToOwned::to_owned));
    let same = fs::metadata(exe).is_ok_and(|found| (found.dev(), found.ino()) == own);
    same || named.is_some_and(|name| name == PROGRAM)
}

/// Words that end with a zero byte each.
fn text(path: &Path) -> Option<Vec<String>> {
    let bytes = fs::read(path).ok()?;
    let words = bytes.split(|byte| *byte == 0).filter(|word| !word.is_empty());
    Some(words.map(|word| String::from_utf8_lossy(word).into_owned()).collect())
}

fn environment(words: &[String]) -> BTreeMap<String, String> {
    let pairs = words.iter().filter_map(|word| word.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// Those of the forwarder in a process that was started with this word.
fn settings(word: &str, environment: &BTreeMap<String, String>) -> Option<Forwarder> {
    match word {
        "forwarder" => Forwarder::read(environment).ok(),
        "standalone" => Some(Standalone::read(environment).ok()?.forwarder),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forwarder_is_known_by_how_it_was_started_alone_or_with_a_whole_mesh() {
        let words = ["NSM_NAME=a", "NSM_BASE_DIR=/x", "SPIFFE_ENDPOINT_SOCKET=unix:///s", "BROKEN"];
        let environment = environment(&words.map(str::to_owned));
        let found = |word| settings(word, &environment).map(|found| (found.common.name, found.base_dir));
        assert_eq!(found("forwarder"), Some(("a".to_owned(), "/x".into())));
        let (name, folder) = found("standalone").unwrap();
        assert!(name == "forwarder-a" && folder.starts_with("/x/private"), "{name} {}", folder.display());
        assert_eq!(found("nsmgr"), None);
    }

    #[test]
    fn this_test_is_no_forwarder() {
        assert_eq!(running(std::process::id(), (0, 0)), None);
        assert!(is_program(Path::new("/proc/self/exe"), {
            let own = fs::metadata("/proc/self/exe").unwrap();
            (own.dev(), own.ino())
        }));
    }
}

//! `nsm purge`: removes what a mesh has left on this machine, when nobody is there any more who would.

mod running;

use std::{
    collections::HashSet,
    ffi::OsStr,
    io::{self, Write as _},
    path::PathBuf,
};

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use self::running::Running;
use crate::{
    api::with_causes,
    dataplane::{self, ConnectionId, Dataplane, ForwarderId, Found, Journal, JournalError, Netlink, Netns},
    settings::Purge,
};

/// What the command line says.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Removes nothing, and tells what would be removed.
    #[arg(long)]
    dry_run: bool,
    /// Only what this forwarder made: its name, or name#number as it stands on its links. What does not say who
    /// made it stays.
    #[arg(long, value_name = "NAME")]
    forwarder: Option<String>,
    /// Also while a forwarder runs, whose connections are cut.
    #[arg(long)]
    force: bool,
    /// text or json.
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

/// Why not all is removed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A forwarder serves it.
    #[error("{0} runs on this machine, and nothing is removed beneath it: stop it first, or add --force")]
    Running(String),
    /// The kernel cannot be asked.
    #[error("cannot look at this machine's links; CAP_NET_ADMIN and CAP_SYS_ADMIN are needed")]
    Kernel(#[source] io::Error),
    /// Nor its namespaces be looked through.
    #[error("CAP_NET_ADMIN and CAP_SYS_ADMIN are needed")]
    Survey(#[source] dataplane::Error),
    /// The journal cannot be listed.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// Some could not be removed.
    #[error("{0} could not be removed, see above")]
    Left(usize),
    /// The output cannot be written.
    #[error("cannot print")]
    Print(#[source] io::Error),
}

/// Something to remove.
enum Item {
    Found(Found),
    Entry(PathBuf),
}

/// Removes what is to be removed, and says what it was.
pub async fn run(options: Options, settings: Purge) -> Result<(), Error> {
    if !options.force && !options.dry_run {
        let running = running::all().map_err(Error::Kernel)?;
        let in_the_way = in_the_way(&running, options.forwarder.as_deref());
        if !in_the_way.is_empty() {
            return Err(Error::Running(in_the_way.join(", ")));
        }
    }
    let dataplane = Dataplane::<Netlink>::new(Netlink::new().map_err(Error::Kernel)?);
    let host = Netns::current().map_err(Error::Kernel)?.key();
    let mut found = dataplane.survey().await.map_err(Error::Survey)?;
    let mut entries = Journal::files(&settings.base_dir)?;
    if let Some(name) = &options.forwarder {
        // Also one of which rules alone are left, which do not tell its name.
        let own = ForwarderId::new(name, host, &settings.base_dir);
        let named: Vec<_> = meant(name, found.iter().filter_map(Found::forwarder).chain([&own]));
        found.retain(|found| found.is_of(&named));
        // The folder may be another one's.
        let ids: HashSet<_> = found.iter().filter_map(Found::connection).map(ConnectionId::as_str).collect();
        entries.retain(|file| file.file_stem().and_then(OsStr::to_str).is_some_and(|id| ids.contains(id)));
    }
    let items: Vec<_> =
        found.into_iter().map(Item::Found).chain(entries.into_iter().map(Item::Entry)).collect();
    let mut results = Vec::with_capacity(items.len());
    for item in &items {
        results.push(if options.dry_run { Ok(()) } else { item.remove(&dataplane).await });
    }
    let text = match options.output {
        Output::Text => text(&items, &results, options.dry_run),
        Output::Json => format!("{:#}\n", listing(&items, &results, options.dry_run)),
    };
    io::stdout().write_all(text.as_bytes()).map_err(Error::Print)?;
    match results.iter().filter(|result| result.is_err()).count() {
        0 => Ok(()),
        left => Err(Error::Left(left)),
    }
}

/// Those of the forwarders that a name on the command line means.
fn meant<'a>(name: &str, all: impl Iterator<Item = &'a ForwarderId>) -> Vec<ForwarderId> {
    all.filter(|id| id.as_str() == name || id.name() == name).cloned().collect()
}

/// Forwarders that run and would lose something.
fn in_the_way(running: &[Running], named: Option<&str>) -> Vec<String> {
    let loses = |one: &&Running| named.is_none_or(|name| !meant(name, std::iter::once(&one.id)).is_empty());
    running.iter().filter(loses).map(|one| format!("{} (process {})", one.id, one.process)).collect()
}

/// One line for each, and a sum.
fn text(items: &[Item], results: &[Result<(), String>], dry_run: bool) -> String {
    let did = if dry_run { "would remove" } else { "removed" };
    let mut lines = Vec::new();
    let mut sums = [("link", "links", 0_usize), ("rule", "rules", 0), ("entry", "files of the journal", 0)];
    for (item, result) in items.iter().zip(results) {
        let owner = item.owner().map(|owner| format!(", of {owner}")).unwrap_or_default();
        lines.push(match result {
            Ok(()) => format!("{did} {}{owner}\n", item.what()),
            Err(error) => format!("cannot remove {}{owner}: {error}\n", item.what()),
        });
        for sum in sums.iter_mut().filter(|(kind, ..)| *kind == item.kind() && result.is_ok()) {
            sum.2 += 1;
        }
    }
    if items.is_empty() {
        return "nothing of a mesh is left here\n".to_owned();
    }
    let sums = sums.map(|(_, words, count)| format!("{count} {words}"));
    lines.push(format!("{did} {}\n", sums.join(", ")));
    lines.concat()
}

fn listing(items: &[Item], results: &[Result<(), String>], dry_run: bool) -> Value {
    let items = items.iter().zip(results).map(|(item, result)| {
        json!({
            "kind": item.kind(),
            "what": item.what(),
            "owner": item.owner(),
            "removed": !dry_run && result.is_ok(),
            "error": result.as_ref().err(),
        })
    });
    json!({"dryRun": dry_run, "items": items.collect::<Vec<_>>()})
}

// === impl Item ===

impl Item {
    async fn remove(&self, dataplane: &Dataplane<Netlink>) -> Result<(), String> {
        match self {
            Self::Found(found) => dataplane.remove_found(found).await.map_err(|error| with_causes(&error)),
            Self::Entry(file) => Journal::discard(file).map_err(|error| with_causes(&error)),
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Found(found) => found.kind(),
            Self::Entry(_) => "entry",
        }
    }

    fn what(&self) -> String {
        match self {
            Self::Found(found) => found.to_string(),
            Self::Entry(file) => format!("file {}", file.display()),
        }
    }

    fn owner(&self) -> Option<String> {
        match self {
            Self::Found(found) => Some(found.owner()),
            Self::Entry(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::NetnsKey;

    #[test]
    fn every_running_forwarder_is_in_the_way_unless_another_one_is_named() {
        let running = |process, name| {
            let id = ForwarderId::new(name, NetnsKey { dev: 4, ino: 1 }, "/x".as_ref());
            Running { process, id }
        };
        let all = [running(1, "a"), running(2, "b")];
        let way = |name: Option<&str>| {
            let words = in_the_way(&all, name);
            words.iter().map(|words| words[..1].to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(way(None), ["a", "b"]);
        assert_eq!(way(Some("a")), ["a"]);
        assert_eq!(way(Some(all[1].id.as_str())), ["b"]);
        assert!(way(Some("c")).is_empty() && way(Some("b#00000000")).is_empty());
    }

    #[test]
    fn what_could_not_be_removed_is_told_with_the_reason_and_not_counted() {
        let items = ["/x/a.json", "/x/b.json"].map(|path| Item::Entry(path.into()));
        let results = [Ok(()), Err("it is read-only".to_owned())];
        let told = text(&items, &results, false);
        let expected = "removed file /x/a.json\ncannot remove file /x/b.json: it is read-only\n\
                        removed 0 links, 0 rules, 1 files of the journal\n";
        assert_eq!(told, expected);
        let json = listing(&items, &results, false);
        assert_eq!(json["items"][0]["removed"], true);
        assert_eq!(json["items"][1]["error"], "it is read-only");
        assert_eq!(listing(&items, &[Ok(()), Ok(())], true)["items"][0]["removed"], false);
        assert_eq!(text(&[], &[], false), "nothing of a mesh is left here\n");
    }
}

//! `nsm drain`: has this node take no new connections, or close all, and waits until its processes may be stopped.

use std::time::Duration;

use clap::Args;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::connections::{self, Nsmgr};
use crate::{
    api::node::{DrainRequest, Process},
    settings::Connections,
};

/// Pause between two looks.
const PACE: Duration = Duration::from_millis(200);

/// How long the identity and the nsmgr may take.
const REACH: Duration = Duration::from_secs(5);

/// What the command line says.
#[derive(Args, Clone, Copy, Debug)]
pub struct Options {
    /// Takes new connections again.
    #[arg(long)]
    undo: bool,
    /// Also closes all connections that there are, and refuses those that are asked for again: before the mesh is
    /// removed.
    #[arg(long, conflicts_with = "undo")]
    close: bool,
    /// How long to wait until the processes may be stopped.
    #[arg(long, default_value = "1m", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

/// Why the node is not drained.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The nsmgr cannot be asked.
    #[error(transparent)]
    Nsmgr(#[from] connections::Error),
    /// Somebody is not where it should be.
    #[error("the node takes no new connections, but is not ready to stop: {0}; `nsm drain --undo` ends it")]
    NotReady(String),
    /// Somebody does not take new ones again.
    #[error("not all take new connections again: {0}")]
    NotUndone(String),
}

/// Drains the node, or ends that, and says how it went.
pub async fn run(options: Options, settings: Connections, stop: CancellationToken) -> Result<(), Error> {
    let draining = async {
        let nsmgr = Nsmgr::reach(&settings, REACH).await?;
        let end = Instant::now() + options.timeout;
        loop {
            let processes = nsmgr.drain(DrainRequest { undo: options.undo, close: options.close }).await?;
            let missing = missing(&processes, options.undo);
            if missing.is_empty() {
                for process in &processes {
                    println!("{}", line(process, options));
                }
                return Ok(());
            }
            if Instant::now() >= end {
                let missing = missing.join("; ");
                return Err(if options.undo { Error::NotUndone(missing) } else { Error::NotReady(missing) });
            }
            sleep(PACE).await;
        }
    };
    tokio::select! {
        drained = draining => drained,
        () = stop.cancelled() => Ok(()),
    }
}

fn line(process: &Process, options: Options) -> String {
    let what = match options {
        Options { undo: true, .. } => "takes new connections",
        Options { close: true, .. } => "has no connections and takes none: ready to stop",
        _ => "takes no new connections: ready to stop",
    };
    format!("{} {what}", process.name)
}

/// Who is not there yet, each with why.
fn missing(processes: &[Process], undo: bool) -> Vec<String> {
    let missing = processes.iter().filter_map(|process| {
        let why = match process.drain {
            None => process.unknown.clone(),
            Some(drain) if undo => drain.draining.then(|| "drains still".to_owned())?,
            Some(drain) if drain.ready => return None,
            Some(drain) if drain.making > 0 => format!("{} new connections are being made", drain.making),
            Some(drain) if drain.closing && drain.connections > 0 => {
                format!("{} connections are being closed", drain.connections)
            }
            Some(drain) if drain.closing => "waits for the others to close their connections".to_owned(),
            Some(_) => "could not leave a word for the next process; its log says why".to_owned(),
        };
        Some(format!("{}: {why}", process.name))
    });
    missing.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::node::Drain;

    #[test]
    fn who_is_not_ready_is_named_with_the_reason() {
        let process = |name: &str, drain: Option<(bool, u64, bool)>| Process {
            name: name.into(),
            drain: drain.map(|(draining, making, ready)| Drain {
                draining,
                making,
                ready,
                ..Drain::default()
            }),
            unknown: if drain.is_none() { "it is another's".into() } else { String::new() },
            ..Process::default()
        };
        let all = [
            process("ready", Some((true, 0, true))),
            process("making", Some((true, 2, false))),
            process("mute", Some((true, 0, false))),
            process("other", None),
        ];
        let told = missing(&all, false);
        let starts = ["making: 2 new connections", "mute: could not leave", "other: it is another's"];
        assert_eq!(told.len(), starts.len(), "{told:?}");
        assert!(told.iter().zip(starts).all(|(told, start)| told.starts_with(start)), "{told:?}");
        let undone = [process("a", Some((false, 0, false))), process("b", Some((true, 0, true)))];
        assert_eq!(missing(&undone, true), ["b: drains still"]);
    }
}

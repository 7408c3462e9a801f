//! What a process shows of itself: `/metrics` and `/readyz` on its private socket.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result, anyhow};

/// Longest wait for an answer.
const LIMIT: Duration = Duration::from_secs(5);

/// Status and body of a page.
pub fn get(socket: &Path, page: &str) -> Result<(u16, String)> {
    let mut stream =
        UnixStream::connect(socket).with_context(|| format!("{} is not served", socket.display()))?;
    stream.set_read_timeout(Some(LIMIT))?;
    write!(stream, "GET {page} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| anyhow!("no HTTP: {answer}"))?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok((status.ok_or_else(|| anyhow!("no status: {head}"))?, body.to_owned()))
}

/// All figures by name and labels as they are written, such as `nsm_calls_total{method="/a/B"}`.
pub fn figures(socket: &Path) -> Result<BTreeMap<String, u64>> {
    let (_, text) = get(socket, "/metrics")?;
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').ok_or_else(|| anyhow!("no figure: {line}"))?;
            Ok((name.to_owned(), value.parse()?))
        })
        .collect()
}

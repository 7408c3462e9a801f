//! Connections as a table: one a line, columns under their names.

use std::time::SystemTime;

use super::{
    listing::{Adopted, Listed, Listing, Running, Time},
    text::{bytes, duration, printable, shortened, since},
};

/// Longest reason in a narrow table.
const REASON: usize = 60;

/// How it shall look.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Style {
    /// With everything, however long the lines get.
    pub(super) wide: bool,
    /// For a terminal.
    pub(super) coloured: bool,
}

type Cell = fn(&Listed, SystemTime) -> String;

/// A column.
struct Column {
    name: &'static str,
    cell: Cell,
    /// Only in a wide table.
    wide: bool,
    /// Left out where no line has anything in it.
    optional: bool,
}

const fn column(name: &'static str, cell: Cell) -> Column {
    Column { name, cell, wide: false, optional: false }
}

const fn wide(name: &'static str, cell: Cell) -> Column {
    Column { name, cell, wide: true, optional: false }
}

const fn optional(name: &'static str, cell: Cell) -> Column {
    Column { name, cell, wide: false, optional: true }
}

const COLUMNS: [Column; 19] = [
    column("CLIENT", |one, _| one.client.clone()),
    column("SERVICE", |one, _| one.service.clone()),
    column("ENDPOINT", |one, _| one.endpoint.clone()),
    column(STATE, |one, _| one.state.to_owned()),
    column("SINCE", |one, now| since(one.since.0, now)),
    column("MECHANISM", |one, _| mechanism(one)),
    column("INTERFACE", |one, _| one.interface.client.clone().unwrap_or_default()),
    wide("PEER-INTERFACE", |one, _| one.interface.endpoint.clone().unwrap_or_default()),
    column("ADDRESS", |one, _| one.addresses.client.join(",")),
    column("PEER", |one, _| one.addresses.endpoint.join(",")),
    column("SENT", |one, _| one.bytes.as_ref().map(|counted| bytes(counted.from_client)).unwrap_or_default()),
    column("RECEIVED", |one, _| {
        one.bytes.as_ref().map(|counted| bytes(counted.to_client)).unwrap_or_default()
    }),
    column("TOKEN", token),
    wide("MTU", |one, _| one.mtu.map(|mtu| mtu.to_string()).unwrap_or_default()),
    wide("ID", |one, _| one.id.clone()),
    wide("PATH", |one, _| one.path.iter().map(|step| step.name.as_str()).collect::<Vec<_>>().join(" > ")),
    Column {
        name: MTU_REASON,
        cell: |one, _| one.mtu_reason.clone().unwrap_or_default(),
        wide: true,
        optional: true,
    },
    optional("LAST HEAL", heal),
    optional("ERROR", |one, _| one.error.clone().unwrap_or_default()),
];

const STATE: &str = "STATE";
const MTU_REASON: &str = "MTU REASON";

/// Columns whose text is a reason in somebody's words.
const REASONS: [&str; 2] = ["LAST HEAL", "ERROR"];

fn mechanism(one: &Listed) -> String {
    let (client, endpoint) = (&one.mechanism.client, &one.mechanism.endpoint);
    match (client, endpoint) {
        (Some(client), Some(endpoint)) if client != endpoint => format!("{client}>{endpoint}"),
        (Some(one), _) | (None, Some(one)) => one.clone(),
        (None, None) => String::new(),
    }
}

/// How old it is, of how long it lives.
fn token(one: &Listed, now: SystemTime) -> String {
    let Time(refreshed) = one.token.refreshed;
    let age = since(refreshed, now);
    match one.token.expires {
        Some(Time(end)) if end > refreshed => {
            format!("{age}/{}", duration(end.duration_since(refreshed).unwrap_or_default()))
        }
        _ => age,
    }
}

fn heal(one: &Listed, now: SystemTime) -> String {
    let text = one.last_heal.as_ref().map(|heal| format!("{} ago: {}", since(heal.at.0, now), heal.cause));
    text.unwrap_or_default()
}

/// What there is to say of the node's processes, one a line: those that take no new connections, and in a wide
/// table what became of the connections that they found.
pub(super) fn processes(listing: &Listing, style: Style) -> String {
    let lines = listing.processes.iter().flat_map(|one| [drain(one), adoption(one).filter(|_| style.wide)]);
    lines.flatten().map(|line| printable(&line) + "\n").collect()
}

fn drain(process: &Running) -> Option<String> {
    let drain = process.drain.filter(|drain| drain.draining)?;
    let rest = match drain.making {
        _ if drain.ready => "ready to stop".to_owned(),
        0 => "not ready to stop yet".to_owned(),
        making => format!("{making} are being made still"),
    };
    if drain.closing && drain.connections > 0 {
        return Some(format!("{} closes all connections: {} are left", process.name, drain.connections));
    }
    Some(format!("{} takes no new connections: {rest}", process.name))
}

fn adoption(process: &Running) -> Option<String> {
    let Adopted { baseline, recovered, closed_by_client, lost, longest_gap_milliseconds, quiesced } =
        process.adoption.as_ref().filter(|adopted| adopted.baseline > 0)?;
    let pending = baseline.saturating_sub(recovered + closed_by_client + lost);
    let end = if *quiesced { "after a stop" } else { "after a kill" };
    Some(format!(
        "{} found {baseline} connections {end}: {recovered} recovered, {closed_by_client} closed by their clients, \
         {lost} lost, {pending} not asked for yet; longest gap {longest_gap_milliseconds}ms",
        process.name
    ))
}

/// The whole table; without connections nothing.
pub(super) fn table(listing: &Listing, now: SystemTime, style: Style) -> String {
    let mut columns = Vec::new();
    for column in COLUMNS.iter().filter(|column| style.wide || !column.wide) {
        let cells: Vec<_> =
            listing.connections.iter().map(|one| printable(&(column.cell)(one, now))).collect();
        if cells.is_empty() || (column.optional && cells.iter().all(String::is_empty)) {
            continue;
        }
        let shortens = !style.wide && REASONS.contains(&column.name);
        let cell = |cell: String| match cell.as_str() {
            "" => "-".to_owned(),
            _ if shortens => shortened(&cell, REASON),
            _ => cell,
        };
        columns.push((column.name, cells.into_iter().map(cell).collect::<Vec<_>>()));
    }
    let Some((_, first)) = columns.first() else { return String::new() };
    let mut text = String::new();
    for line in 0..=first.len() {
        let cells = columns.iter().map(|(name, cells)| {
            let cell = if line == 0 { (*name).to_owned() } else { cells[line - 1].clone() };
            let width =
                cells.iter().map(|cell| cell.chars().count()).chain([name.len()]).max().unwrap_or_default();
            let padding = " ".repeat(width.saturating_sub(cell.chars().count()));
            let cell = if *name == STATE && line > 0 && style.coloured { coloured(&cell) } else { cell };
            cell + &padding
        });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// Green is well, red is not, yellow is on its way (ECMA-48: SGR).
fn coloured(state: &str) -> String {
    let colour = match state {
        "UP" => 32,
        "DOWN" => 31,
        _ => 33,
    };
    format!("\x1b[{colour}m{state}\x1b[0m")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{processes as processes_of, *};
    use crate::{
        api::{
            connection::State,
            node::{Adoption, Drain, Heal, NodeConnection, NodeConnections, Process},
        },
        apps::connections::listing::tests::told,
    };

    /// A minute after it was refreshed.
    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_110)
    }

    fn listing(connections: Vec<NodeConnection>) -> Listing {
        Listing::new(NodeConnections { nsmgr: "nsmgr-1".into(), connections, ..Default::default() })
    }

    #[test]
    fn columns_stand_under_their_names_and_those_with_nothing_to_say_are_left_out() {
        let listing = listing(vec![told("nsc-1", State::Up), told("a-long-name", State::RefreshRequested)]);
        let expected = "\
CLIENT       SERVICE  ENDPOINT  STATE              SINCE  MECHANISM     INTERFACE  ADDRESS        PEER           SENT   RECEIVED  TOKEN
a-long-name  finance  nse-1     REFRESH_REQUESTED  1m50s  KERNEL>VXLAN  nsm-1      172.16.1.1/32  172.16.1.0/32  1.5kB  98B       1m/9m10s
nsc-1        finance  nse-1     UP                 1m50s  KERNEL>VXLAN  nsm-1      172.16.1.1/32  172.16.1.0/32  1.5kB  98B       1m/9m10s
";
        assert_eq!(table(&listing, now(), Style::default()), expected);
    }

    #[test]
    fn a_reason_is_shown_where_there_is_one_and_whole_in_a_wide_table() {
        let cause = format!("{}\x1b[2J", "x".repeat(80));
        let at = Some(prost_types::Timestamp { seconds: 1_700_000_100, nanos: 0 });
        let healed = NodeConnection { last_heal: Some(Heal { at, cause }), ..told("a", State::Up) };
        let down = NodeConnection { error: "nobody listens".into(), ..told("b", State::Down) };
        let listing = listing(vec![healed, down]);
        let narrow = table(&listing, now(), Style::default());
        let lines: Vec<_> = narrow.lines().collect();
        assert!(lines[0].ends_with("ERROR") && lines[0].contains("LAST HEAL"), "{narrow}");
        assert!(lines[1].contains("10s ago: xxx") && lines[1].contains("x…  -"), "{narrow}");
        assert!(
            lines[2].ends_with("-  nobody listens") || lines[2].trim_end().ends_with("nobody listens"),
            "{narrow}"
        );
        let wide = table(&listing, now(), Style { wide: true, coloured: false });
        assert!(wide.contains(&"x".repeat(80)) && wide.contains("nsmgr-1 > fwd-1 > nsmgr-2"), "{wide}");
        assert!(wide.contains("nse-x") && !wide.contains('\x1b'), "{wide}");
    }

    #[test]
    fn above_the_table_stands_who_takes_no_new_connections_and_in_a_wide_one_what_was_found() {
        let adoption = Adoption { baseline: 4, recovered: 2, lost: 1, ..Default::default() };
        let drain = Drain { draining: true, making: 2, ..Drain::default() };
        let process =
            |drain| Process { name: "fwd-1".into(), drain, adoption: Some(adoption), ..Default::default() };
        let lines = |drain, wide| {
            let processes = vec![process(Some(drain)), Process::default()];
            let listing = Listing::new(NodeConnections { processes, ..Default::default() });
            processes_of(&listing, Style { wide, coloured: false })
        };
        assert_eq!(lines(Drain::default(), false), "");
        assert_eq!(lines(drain, false), "fwd-1 takes no new connections: 2 are being made still\n");
        let ready = Drain { making: 0, ready: true, ..drain };
        assert_eq!(lines(ready, false), "fwd-1 takes no new connections: ready to stop\n");
        assert_eq!(
            lines(Drain::default(), true),
            "fwd-1 found 4 connections after a kill: 2 recovered, 0 closed by their clients, 1 lost, 1 not asked \
             for yet; longest gap 0ms\n"
        );
    }

    #[test]
    fn colours_change_no_column() {
        let listing = listing(vec![told("a", State::Up), told("b", State::Down)]);
        let coloured = table(&listing, now(), Style { wide: false, coloured: true });
        assert!(
            coloured.contains("\x1b[32mUP\x1b[0m") && coloured.contains("\x1b[31mDOWN\x1b[0m"),
            "{coloured}"
        );
        let plain =
            ["\x1b[32m", "\x1b[31m", "\x1b[0m"].iter().fold(coloured, |text, code| text.replace(code, ""));
        assert_eq!(plain, table(&listing, now(), Style::default()));
    }

    #[test]
    fn without_connections_there_is_no_table() {
        assert_eq!(table(&listing(Vec::new()), now(), Style::default()), "");
    }
}

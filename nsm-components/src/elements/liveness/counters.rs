//! Packets that the interfaces of this process's network namespace have received.

use std::{collections::HashMap, fs, io};

/// Of the thread's namespace, whatever `/sys` shows (proc(5)).
const FILE: &str = "/proc/thread-self/net/dev";

/// Reads them all, by interface.
pub(super) fn received() -> io::Result<HashMap<String, u64>> {
    Ok(parse(&fs::read_to_string(FILE)?))
}

/// Lines `name: bytes packets …` below two of headings.
fn parse(text: &str) -> HashMap<String, u64> {
    let lines = text.lines().skip(2).filter_map(|line| line.rsplit_once(':'));
    lines
        .filter_map(|(name, counted)| {
            Some((name.trim().to_owned(), counted.split_whitespace().nth(1)?.parse().ok()?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_told_by_interface_also_where_its_name_is_odd() {
        let text = "Inter-|   Receive                  |  Transmit\n \
                    face |bytes    packets errs drop fifo frame compressed multicast|bytes packets\n    \
                    lo:    1234      12    0    0    0     0          0         0     1234      12\n \
                    nsm:1: 99 7 0 0 0 0 0 0 1 2\n";
        let parsed = parse(text);
        assert_eq!((parsed["lo"], parsed["nsm:1"], parsed.len()), (12, 7, 2));
        assert!(received().unwrap().contains_key("lo"));
    }
}

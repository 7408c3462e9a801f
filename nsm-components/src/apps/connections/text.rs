//! Times and amounts as people read them, and text of others as a terminal may have it.

use std::{
    fmt::Write as _,
    time::{Duration, SystemTime},
};

/// A time in its two largest units: `8s`, `3m12s`, `2d4h`.
pub(super) fn duration(time: Duration) -> String {
    const UNITS: [(&str, u64); 4] = [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)];
    let seconds = time.as_secs();
    let Some(first) = UNITS.iter().position(|(_, unit)| seconds >= *unit) else { return "0s".to_owned() };
    let (mut rest, mut text) = (seconds, String::new());
    for (name, unit) in &UNITS[first..(first + 2).min(UNITS.len())] {
        if rest >= *unit {
            // Writing to a string cannot fail.
            let _ = write!(text, "{}{name}", rest / unit);
        }
        rest %= unit;
    }
    text
}

/// How long ago it was; what is to come was now.
pub(super) fn since(then: SystemTime, now: SystemTime) -> String {
    duration(now.duration_since(then).unwrap_or_default())
}

/// Bytes in at most four characters and a unit: `999B`, `1.2kB`, `340MB`.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if count < 1000 {
        return format!("{count}B");
    }
    // In tenths of the unit, so that no number is rounded twice.
    let (mut tenths, mut unit) = (count / 100, 0);
    while tenths >= 10_000 && unit + 1 < UNITS.len() {
        tenths /= 1000;
        unit += 1;
    }
    let name = UNITS[unit];
    if tenths < 100 {
        format!("{}.{}{name}", tenths / 10, tenths % 10)
    } else {
        format!("{}{name}", tenths / 10)
    }
}

/// One line without what a terminal obeys: names and reasons come from other processes.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// At most this many characters.
pub(super) fn shortened(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_have_two_units_at_most() {
        for (seconds, expected) in [
            (0, "0s"),
            (8, "8s"),
            (60, "1m"),
            (192, "3m12s"),
            (3_605, "1h"),
            (187_300, "2d4h"),
            (86_400, "1d"),
        ] {
            assert_eq!(duration(Duration::from_secs(seconds)), expected);
        }
        assert_eq!(since(SystemTime::UNIX_EPOCH + Duration::from_secs(9), SystemTime::UNIX_EPOCH), "0s");
    }

    #[test]
    fn bytes_are_short_and_not_rounded_up() {
        for (count, expected) in [
            (0, "0B"),
            (999, "999B"),
            (1_000, "1.0kB"),
            (1_299, "1.2kB"),
            (12_999, "12kB"),
            (999_999, "999kB"),
            (1_000_000, "1.0MB"),
            (340_000_000, "340MB"),
            (u64::MAX, "18EB"),
        ] {
            assert_eq!(bytes(count), expected);
        }
    }

    #[test]
    fn what_a_terminal_would_obey_is_taken_out_and_long_text_says_that_it_goes_on() {
        assert_eq!(printable("a\x1b[2J\nb\u{9b}c"), "a [2J b c");
        assert_eq!((shortened("abcd", 4), shortened("abcde", 4)), ("abcd".into(), "abc…".into()));
    }

    proptest! {
        #[test]
        fn no_number_makes_them_panic_or_long(count: u64, seconds: u64) {
            prop_assert!(bytes(count).len() <= 5);
            prop_assert!(duration(Duration::from_secs(seconds)).len() <= 20);
        }
    }
}

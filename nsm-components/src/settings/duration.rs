//! Durations as Go writes them: `200ms`, `1m30s`, `1.5h`.

use std::time::Duration;

/// Units of Go in nanoseconds; one stands before those that begin it, as `ms` before `m`.
const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("\u{b5}s", 1_000),
    ("\u{3bc}s", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// A duration, if it is one and not negative. Words as `2days` are taken too.
pub(super) fn parse(text: &str) -> Option<Duration> {
    go(text).or_else(|| humantime::parse_duration(text).ok())
}

fn go(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    let mut sum = Duration::ZERO;
    loop {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (value, after) = rest.split_at(number);
        let (name, unit) = UNITS.into_iter().find(|(name, _)| after.starts_with(name))?;
        sum = sum.checked_add(nanoseconds(value, unit)?)?;
        rest = &after[name.len()..];
        if rest.is_empty() {
            return Some(sum);
        }
    }
}

/// `1.5` of a unit. What is less than a nanosecond is cut.
fn nanoseconds(value: &str, unit: u64) -> Option<Duration> {
    let (whole, fraction) = value.split_once('.').unwrap_or((value, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let (mut part, mut scale) = (0_u128, 1_u128);
    // Digits beyond these are far less than a nanosecond of an hour.
    for digit in fraction.chars().take(15) {
        part = part * 10 + u128::from(digit.to_digit(10)?);
        scale *= 10;
    }
    let part = u64::try_from(part * u128::from(unit) / scale).ok()?;
    let nanoseconds = whole.checked_mul(unit)?.checked_add(part)?;
    Some(Duration::from_nanos(nanoseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, milliseconds) in [
            ("1.5h", 5_400_000),
            ("1h30m", 5_400_000),
            ("1m30.5s", 90_500),
            (".5s", 500),
            ("1.s", 1_000),
            ("+15s", 15_000),
            ("200ms", 200),
            ("1500us", 1),
            ("1500\u{b5}s", 1),
            ("0", 0),
            ("2days", 172_800_000),
        ] {
            assert_eq!(parse(text).map(|parsed| parsed.as_millis()), Some(milliseconds), "{text}");
        }
        assert_eq!(parse("0.3s"), Some(Duration::from_millis(300)));
        for text in ["", "1", "s", ".s", "-1s", "1.2.3s", "1.5", "1h30", "soon", "99999999999999999999h"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}

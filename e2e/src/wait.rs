//! Waiting for conditions, and whether a test may run at all.

use std::{
    io::Write,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// Pause between two looks.
const PACE: Duration = Duration::from_millis(20);

/// Looks until there is something to see. After `limit` it fails, naming `what` was waited for.
pub fn until<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> Result<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(seen) = look() {
            return Ok(seen);
        }
        if Instant::now() >= end {
            bail!("not within {limit:?}: {what}");
        }
        sleep(PACE);
    }
}

/// Looks until it holds; see [`until`].
pub fn until_true(what: &str, limit: Duration, mut look: impl FnMut() -> bool) -> Result<()> {
    until(what, limit, || look().then_some(()))
}

/// Whether this process may make namespaces; says in one line why not.
///
/// # Panics
///
/// When it may not and `NSM_REQUIRE_ROOT` is 1: there a skipped test is a failed one.
pub fn may_run() -> bool {
    if nix::unistd::geteuid().is_root() {
        return true;
    }
    let reason = "SKIPPED: needs root to make network namespaces";
    assert!(std::env::var_os("NSM_REQUIRE_ROOT").is_none_or(|set| set != "1"), "{reason}");
    // Past the capture of output, which shows that of failed tests only.
    let _ = writeln!(std::io::stderr(), "{reason}");
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_that_never_holds_is_named() {
        let error = until_true("the sky falls", Duration::from_millis(1), || false).unwrap_err();
        assert!(error.to_string().contains("the sky falls"));
    }
}

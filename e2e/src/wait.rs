//! Waiting for conditions, and whether a test may run at all.

use std::{
    fmt::Display,
    io::Write,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow, bail};
use tokio::time::{Instant as TokioInstant, timeout_at};

use crate::netns::Netns;

/// Pause between two looks, where a look costs little.
pub const PACE: Duration = Duration::from_millis(20);

/// Looks until there is something to see. After `limit` it fails, naming `what` was waited for.
pub fn until<T>(what: &str, limit: Duration, look: impl FnMut() -> Option<T>) -> Result<T> {
    until_every(PACE, what, limit, look)
}

/// Looks until it holds; see [`until`].
pub fn until_true(what: &str, limit: Duration, mut look: impl FnMut() -> bool) -> Result<()> {
    until(what, limit, || look().then_some(()))
}

/// The same as [`until`], with a pause of its own between two looks.
pub fn until_every<T>(
    pace: Duration,
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> Option<T>,
) -> Result<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(seen) = look() {
            return Ok(seen);
        }
        if Instant::now() >= end {
            bail!("not within {limit:?}: {what}");
        }
        sleep(pace);
    }
}

/// Looks until it succeeds, and gives no look more than what is left of `limit`. Then it fails with what
/// was wrong at the last look.
pub async fn eventually<T, E: Display>(
    pace: Duration,
    what: &str,
    limit: Duration,
    mut look: impl AsyncFnMut() -> Result<T, E>,
) -> Result<T> {
    let end = TokioInstant::now() + limit;
    let mut last = anyhow!("the first look has not come back");
    loop {
        match timeout_at(end, look()).await {
            Ok(Ok(seen)) => return Ok(seen),
            Ok(Err(error)) => last = anyhow!("{error:#}"),
            Err(_) => {}
        }
        if TokioInstant::now() >= end {
            return Err(last.context(format!("not within {limit:?}: {what}")));
        }
        tokio::time::sleep(pace).await;
    }
}

/// Does something again and again, for as long as it is polled.
pub async fn over_and_over<F: Future>(pace: Duration, mut step: impl FnMut() -> F) {
    loop {
        step().await;
        tokio::time::sleep(pace).await;
    }
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

/// How many times as slow as others this machine is: `NSM_SLOWNESS`, for an emulated one.
pub fn slowness() -> u32 {
    std::env::var("NSM_SLOWNESS").ok().and_then(|times| times.parse().ok()).unwrap_or(1)
}

/// Whether the kernel has WireGuard; says in one line when not.
///
/// # Panics
///
/// When it has none and `NSM_REQUIRE_WIREGUARD` is 1: there a skipped test is a failed one.
pub fn has_wireguard() -> bool {
    let made = Netns::new("look for WireGuard").and_then(|netns| netns.ip("link add wg type wireguard"));
    if made.is_ok() {
        return true;
    }
    let reason = "SKIPPED: this kernel has no WireGuard; `make test TIER=qemu` brings one";
    assert!(std::env::var_os("NSM_REQUIRE_WIREGUARD").is_none_or(|set| set != "1"), "{reason}: {made:?}");
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

    #[tokio::test]
    async fn what_never_succeeds_is_named_with_its_last_error_even_while_a_look_hangs() {
        let (pace, limit, mut looks) = (Duration::from_millis(1), Duration::from_millis(200), 0);
        let look = async || {
            looks += 1;
            if looks > 3 {
                std::future::pending::<()>().await;
            }
            Err::<(), _>(format!("cloud {looks}"))
        };
        let error = format!("{:#}", eventually(pace, "the sky falls", limit, look).await.unwrap_err());
        assert!(error.contains("the sky falls") && error.contains("cloud 3"), "{error}");
    }
}

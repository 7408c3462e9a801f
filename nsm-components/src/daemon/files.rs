//! How many files a process may have open: each peer's connection is one, and what service managers
//! give by default, 1,024, is less than the clients of a node.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// No process of the mesh needs more: four for each of the most connections that one keeps.
const ENOUGH: u64 = 65_536;

/// The limit that is wanted where these are the soft and the hard one; none is none.
fn wanted(soft: Option<u64>, hard: Option<u64>) -> Option<u64> {
    let most = hard.unwrap_or(ENOUGH).min(ENOUGH);
    soft.is_some_and(|soft| soft < most).then_some(most)
}

/// Raises the limit of open files as far as this process may and needs. Answers what it is now, if
/// there is one.
pub fn raise_open_files() -> io::Result<Option<u64>> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let Some(more) = wanted(current, maximum) else { return Ok(current) };
    setrlimit(Resource::Nofile, Rlimit { current: Some(more), maximum })?;
    Ok(Some(more))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_raised_to_what_is_allowed_or_enough_and_never_lowered() {
        assert_eq!(wanted(Some(1_024), Some(4_096)), Some(4_096));
        assert_eq!(wanted(Some(1_024), Some(1 << 30)), Some(ENOUGH));
        assert_eq!(wanted(Some(1_024), None), Some(ENOUGH));
        for (soft, hard) in [(Some(4_096), Some(4_096)), (Some(1 << 20), None), (None, None)] {
            assert_eq!(wanted(soft, hard), None);
        }
    }
}

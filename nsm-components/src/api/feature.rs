//! What a process can do on the wire, as one number: its feature level. Every process writes it into the metrics
//! of its own segment of a path, where upstream passes over it; who says nothing has level 0, as upstream's
//! processes do. What changes the wire is used only where everybody on a path has the level for it.

use super::{Connection, PathSegment};

/// Key of a segment's metrics.
pub const FEATURE_LEVEL: &str = "feature_level";

/// Level of this program. It grows by one with each version that says something on the wire which the one before
/// does not understand.
pub const LEVEL: u32 = 1;

/// Writes the own level into a segment.
pub fn note(segment: &mut PathSegment) {
    segment.metrics.insert(FEATURE_LEVEL.to_owned(), LEVEL.to_string());
}

/// The level of the process of a segment.
pub fn level_of(segment: &PathSegment) -> u32 {
    segment.metrics.get(FEATURE_LEVEL).and_then(|level| level.parse().ok()).unwrap_or_default()
}

/// The level that everybody on the path has.
pub fn level_of_path(connection: &Connection) -> u32 {
    connection.segments().iter().map(level_of).min().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Path;

    #[test]
    fn a_path_has_the_level_of_its_oldest_process_and_who_says_nothing_or_nonsense_has_none() {
        let segment = |level: Option<&str>| PathSegment {
            metrics: level.map(|level| (FEATURE_LEVEL.to_owned(), level.to_owned())).into_iter().collect(),
            ..PathSegment::default()
        };
        let mut own = PathSegment::default();
        note(&mut own);
        assert_eq!(level_of(&own), LEVEL);
        for (others, expected) in [
            (vec![segment(Some("7")), segment(Some("1"))], 1),
            (vec![segment(Some("7")), segment(None)], 0),
            (vec![segment(Some("-1"))], 0),
            (vec![], LEVEL),
        ] {
            let path_segments = others.into_iter().chain([own.clone()]).collect();
            let path = Some(Path { index: 0, path_segments });
            assert_eq!(level_of_path(&Connection { path, ..Connection::default() }), expected);
        }
        assert_eq!(level_of_path(&Connection::default()), 0);
    }
}

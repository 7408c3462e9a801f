//! The path of a registration. The registry's messages have no place for it, so it travels as
//! JSON in the metadata `path` (protocol §2.5).

use serde::{Deserialize, Serialize};

/// Metadata key of the path, in requests and in answers.
pub const METADATA_KEY: &str = "path";

/// Largest path that is read, in bytes: some fifty hops.
const MAX_BYTES: usize = 64 << 10;

/// One hop of a registration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// Token of the process, as a JWT.
    #[serde(default, alias = "Token")]
    pub token: String,
}

/// All hops of a registration; `index` is the one that holds the message.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistryPath {
    /// Current segment.
    #[serde(rename = "Index", alias = "index", default)]
    pub index: u32,
    /// Segments, first the originator's; absent when there are none.
    #[serde(rename = "PathSegments", alias = "pathSegments", alias = "pathsegments", default)]
    pub path_segments: Option<Vec<Segment>>,
}

impl RegistryPath {
    /// Reads the metadata value; what cannot be read is no path.
    pub fn from_metadata(text: &str) -> Option<Self> {
        if text.len() > MAX_BYTES {
            return None;
        }
        serde_json::from_str(text).ok()
    }

    /// The metadata value.
    pub fn to_metadata(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Segments up to and with the current one.
    pub fn left(&self) -> &[Segment] {
        let all = self.path_segments.as_deref().unwrap_or_default();
        &all[..all.len().min(self.index as usize + 1)]
    }

    /// The server's step: the caller's token into its segment, the own token into the next one,
    /// which becomes current. Answers the index to put back, or nothing when the index is out of
    /// range.
    pub fn advance(&mut self, peer_token: &str, own_token: &str) -> Option<u32> {
        let segments = self.path_segments.get_or_insert_default();
        if segments.is_empty() {
            segments.push(Segment::default());
            self.index = 0;
        }
        let index = self.index as usize;
        peer_token.clone_into(&mut segments.get_mut(index)?.token);
        match segments.get_mut(index + 1) {
            Some(segment) => own_token.clone_into(&mut segment.token),
            None => segments.push(Segment { token: own_token.to_owned() }),
        }
        self.index += 1;
        Some(self.index - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_empty_path_is_written_as_upstream_writes_it() {
        assert_eq!(RegistryPath::default().to_metadata(), r#"{"Index":0,"PathSegments":null}"#);
        for text in [r#"{"Index":0,"PathSegments":null}"#, r#"{"PathSegments":null}"#, "{}"] {
            assert_eq!(RegistryPath::from_metadata(text), Some(RegistryPath::default()));
        }
    }

    #[test]
    fn a_refresh_replaces_the_tokens_at_their_places() {
        let mut path = RegistryPath::default();
        assert_eq!(path.advance("nse-1", "nsmgr-1"), Some(0));
        path.index = 0;
        assert_eq!(path.advance("nse-2", "nsmgr-2"), Some(0));
        let tokens: Vec<_> = path.left().iter().map(|segment| segment.token.as_str()).collect();
        assert_eq!(tokens, ["nse-2", "nsmgr-2"]);
    }

    #[test]
    fn an_index_out_of_range_is_refused() {
        let mut path = RegistryPath { index: 3, path_segments: Some(vec![Segment::default()]) };
        assert_eq!(path.advance("a", "b"), None);
    }

    proptest! {
        #[test]
        fn no_metadata_makes_it_panic(text in ".{0,200}") {
            if let Some(mut path) = RegistryPath::from_metadata(&text) {
                path.advance("a", "b");
                path.left();
            }
        }
    }
}

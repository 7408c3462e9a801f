//! Names of connections and namespaces, valid by construction.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Id of a connection as this process knows it (the id of its own path segment), for example
/// `6f2b0f3e-7c52-4f0c-9b57-0c8f3f9c9a44`.
///
/// It becomes the alias and the second name of links and the name of a file. So it is 1 to 100
/// bytes of visible ASCII without `/` and does not start with a dot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ConnectionId(String);

/// Longest connection id in bytes. `ALTIFNAMSIZ` is 128, and a prefix comes before it.
const MAX_CONNECTION_ID: usize = 100;

/// The text cannot name a connection's kernel objects.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "connection id {0:?} cannot be a link's alias: give 1 to 100 visible ASCII characters, no '/', no leading '.'"
)]
pub struct BadConnectionId(pub String);

impl ConnectionId {
    /// Checks and takes an id.
    pub fn new(id: impl Into<String>) -> Result<Self, BadConnectionId> {
        let id = id.into();
        let fits = (1..=MAX_CONNECTION_ID).contains(&id.len());
        let plain = id.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/');
        if fits && plain && !id.starts_with('.') { Ok(Self(id)) } else { Err(BadConnectionId(id)) }
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ConnectionId {
    type Error = BadConnectionId;

    fn try_from(id: String) -> Result<Self, BadConnectionId> {
        Self::new(id)
    }
}

impl From<ConnectionId> for String {
    fn from(id: ConnectionId) -> Self {
        id.0
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A network namespace as `stat` on its descriptor names it.
///
/// The kernel gives an inode number to another namespace once the first is gone: a key finds a
/// namespace, and the tag on the link says whether it is the one that was meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NetnsKey {
    /// `st_dev` of nsfs.
    pub dev: u64,
    /// `st_ino`.
    pub ino: u64,
}

impl fmt::Display for NetnsKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "netns {}/{}", self.dev, self.ino)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_cannot_be_an_alias_or_a_file_name_is_refused() {
        for id in ["", "../x", ".hidden", "a/b", "a b", "a\0b", "ä", &"x".repeat(101)] {
            assert_eq!(ConnectionId::new(id), Err(BadConnectionId(id.into())));
        }
        assert!(ConnectionId::new("x".repeat(100)).is_ok());
    }
}

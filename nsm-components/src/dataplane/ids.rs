//! Names of connections and namespaces, valid by construction.

use std::{fmt, path::Path};

use serde::{Deserialize, Serialize};

use crate::api::mechanism::fnv1a;

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

/// A forwarder as its links name it: its name, and a number made of the name, the network namespace it
/// runs in and the folder of its journal. So it is the same after every restart, also without its
/// journal, and two of one name on one machine are told apart.
///
/// As text `name#1a2b3c4d`, up to 69 bytes of visible ASCII.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ForwarderId(String);

/// Longest part of a forwarder's name that stands on its links: an alias has 255 bytes.
const MAX_FORWARDER_NAME: usize = 60;

impl ForwarderId {
    /// Of the forwarder of this name that runs in `host` and keeps its journal in `folder`.
    pub fn new(name: &str, host: NetnsKey, folder: &Path) -> Self {
        let number = fnv1a(format!("{name} {host} {}", folder.display()).as_bytes()) >> 32;
        let plain = |byte: u8| if byte.is_ascii_graphic() { char::from(byte) } else { '-' };
        let name: String = name.bytes().take(MAX_FORWARDER_NAME).map(plain).collect();
        Self(format!("{name}#{number:08x}"))
    }

    /// Reads it from an alias; `None` for anything else.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (_, number) = text.rsplit_once('#')?;
        let fits = text.len() <= MAX_FORWARDER_NAME + 9 && text.bytes().all(|byte| byte.is_ascii_graphic());
        (fits && u32::from_str_radix(number, 16).is_ok()).then(|| Self(text.to_owned()))
    }

    /// The forwarder's name, as far as it has room here.
    pub fn name(&self) -> &str {
        self.0.rsplit_once('#').map_or(&self.0, |(name, _)| name)
    }

    /// The same as a number, never 0.
    pub(super) fn mark(&self) -> u32 {
        u32::try_from(fnv1a(self.0.as_bytes()) >> 32).unwrap_or_default().max(1)
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ForwarderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
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

    #[test]
    fn forwarders_of_one_name_are_told_apart_by_where_they_run_and_keep_their_journal() {
        let at =
            |ino, folder: &str| ForwarderId::new("forwarder-1", NetnsKey { dev: 4, ino }, Path::new(folder));
        let one = at(1, "/a");
        assert!(one.as_str().starts_with("forwarder-1#"), "{one}");
        assert_eq!(one, at(1, "/a"), "the same after a restart");
        assert!(one != at(2, "/a") && one != at(1, "/b"));
        assert_ne!(one.mark(), at(1, "/b").mark());
        assert_eq!(ForwarderId::parse(one.as_str()), Some(one));
    }

    #[test]
    fn a_name_that_is_long_or_has_blanks_still_fits_an_alias() {
        let id = ForwarderId::new(&"ä b".repeat(40), NetnsKey { dev: 4, ino: 1 }, Path::new("/a"));
        assert_eq!((id.as_str().len(), ForwarderId::parse(id.as_str())), (69, Some(id.clone())));
        for text in ["", "forwarder", "a b#12345678", "a#x", &format!("{id}0")] {
            assert_eq!(ForwarderId::parse(text), None, "{text}");
        }
    }
}

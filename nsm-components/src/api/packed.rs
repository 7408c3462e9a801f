//! Messages at rest.

use std::marker::PhantomData;

use prost::Message;

/// A message as it goes over the wire, in one piece.
///
/// A connection is some sixty strings and maps, which take four times the room of what they say; a process that
/// has thousands holds each more than once, and looks at it once in minutes.
#[derive(Clone, Debug)]
pub struct Packed<M> {
    bytes: Box<[u8]>,
    message: PhantomData<fn() -> M>,
}

impl<M: Message + Default> Packed<M> {
    /// Packs it.
    pub fn of(message: &M) -> Self {
        Self { bytes: message.encode_to_vec().into(), message: PhantomData }
    }

    /// The message again.
    pub fn unpack(&self) -> M {
        // What was written here can be read.
        M::decode(&*self.bytes).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Connection, Mechanism, PathSegment, connection::Path};

    #[test]
    fn what_is_unpacked_is_what_was_packed() {
        let mut mechanism = Mechanism::kernel();
        mechanism.set("name", "nsm-1");
        let segment = |name: &str| PathSegment {
            name: name.into(),
            token: "t".repeat(500),
            metrics: [("server_rx_bytes".to_owned(), "1".to_owned())].into(),
            ..Default::default()
        };
        let connection = Connection {
            id: "c-1".into(),
            mechanism: Some(mechanism.clone()),
            path: Some(Path { index: 1, path_segments: vec![segment("one"), segment("two")] }),
            labels: [("app".to_owned(), "x".to_owned())].into(),
            ..Default::default()
        };
        assert_eq!(Packed::of(&connection).unpack(), connection);
        assert_eq!(Packed::of(&mechanism).unpack(), mechanism);
        assert_eq!(Packed::of(&Connection::default()).unpack(), Connection::default());
    }
}

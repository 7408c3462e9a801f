//! The path of a Request: one segment per process, and the rule by which each process finds or
//! adds its own (protocol §2.2). The rule is the same for servers and clients.

use super::{Connection, PathSegment};

/// A path that cannot be continued.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// The index points behind the end.
    #[error("path index {index} is out of range: the path has {length} segments")]
    IndexOutOfRange {
        /// Index in the message.
        index: u32,
        /// Number of segments.
        length: usize,
    },
    /// The connection's id is not that of its current segment.
    #[error("connection id {connection:?} is not the id {segment:?} of segment {index}")]
    IdMismatch {
        /// `Connection.id`.
        connection: String,
        /// Id in the current segment.
        segment: String,
        /// Index of the current segment.
        index: u32,
    },
}

/// The index to put back before the answer goes to the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restore(pub u32);

/// Makes the segment of the process `name` the current one, adding or taking it over when it is
/// not there.
///
/// `called` says whether another process brought the message. Then the current segment is that
/// process's, whatever name stands in it: a caller that puts this process's name there would else
/// choose the id, and with it whose connection it is.
///
/// `id_after` says the id that this process has for the connection of the segment before: the same
/// for the same one, which makes a repeated Request a refresh, also when its path was lost. What
/// the message says of this process's own id does not count, or anybody could name another's
/// connection. An originator asks with no segment before, and keeps the id it brings.
pub fn advance(
    connection: &mut Connection,
    name: &str,
    called: bool,
    id_after: impl Fn(Option<&PathSegment>) -> String,
) -> Result<Restore, PathError> {
    let id = &mut connection.id;
    let path = connection.path.get_or_insert_default();
    let segments = &mut path.path_segments;
    if segments.is_empty() {
        if id.is_empty() {
            *id = id_after(None);
        }
        path.index = 0;
        segments.push(PathSegment { name: name.into(), id: id.clone(), ..PathSegment::default() });
        return Ok(Restore(0));
    }
    let out_of_range = PathError::IndexOutOfRange { index: path.index, length: segments.len() };
    let index = path.index as usize;
    let current = segments.get(index).ok_or(out_of_range)?;
    if current.name == name && !called {
        id.clone_from(&current.id);
        return Ok(Restore(path.index));
    }
    if current.id != *id {
        return Err(PathError::IdMismatch {
            connection: id.clone(),
            segment: current.id.clone(),
            index: path.index,
        });
    }
    let next = index + 1;
    let own = id_after(Some(current));
    match segments.get_mut(next) {
        Some(segment) => {
            name.clone_into(&mut segment.name);
            segment.id = own;
        }
        None => segments.push(PathSegment { name: name.into(), id: own, ..PathSegment::default() }),
    }
    id.clone_from(&segments[next].id);
    path.index += 1;
    Ok(Restore(path.index - 1))
}

/// Gives an answer back to the caller's point of view: its index and its id.
pub fn restore(connection: &mut Connection, Restore(index): Restore) {
    let Some(path) = connection.path.as_mut() else { return };
    if let Some(segment) = path.path_segments.get(index as usize) {
        connection.id.clone_from(&segment.id);
        path.index = index;
    }
}

// === impl Connection ===

impl Connection {
    /// Segment at `offset` from the current one.
    pub fn segment(&self, offset: i64) -> Option<&PathSegment> {
        let path = self.path.as_ref()?;
        let index = usize::try_from(i64::from(path.index) + offset).ok()?;
        path.path_segments.get(index)
    }

    /// The same, to change it.
    pub fn segment_mut(&mut self, offset: i64) -> Option<&mut PathSegment> {
        let path = self.path.as_mut()?;
        let index = usize::try_from(i64::from(path.index) + offset).ok()?;
        path.path_segments.get_mut(index)
    }

    /// Writes the interface of a mechanism into the current segment's metrics under this key
    /// (protocol §6.10).
    pub fn note_interface(&mut self, key: &str, mechanism: Option<&super::Mechanism>) {
        if let (Some(mechanism), Some(segment)) = (mechanism, self.segment_mut(0)) {
            segment.metrics.insert(key.to_owned(), mechanism.interface());
        }
    }

    /// All segments, first the client's.
    pub fn segments(&self) -> &[PathSegment] {
        self.path.as_ref().map_or(&[], |path| &path.path_segments)
    }

    /// Id in the client's own segment: the same in every process the connection passes through.
    pub fn origin_id(&self) -> &str {
        self.segments().first().map_or(&self.id, |segment| &segment.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Ids as a process makes them: from its name and the segment before.
    fn id(name: &str, before: Option<&PathSegment>) -> String {
        before.map_or("origin".into(), |before| format!("{name}({},{})", before.name, before.id))
    }

    /// A Request on its way through these processes, and its answer back.
    fn walk(mut connection: Connection, names: &[&str]) -> Connection {
        let step = |connection: &mut Connection, name: &str, called| {
            advance(connection, name, called, |before| id(name, before)).unwrap()
        };
        let names = names.iter().enumerate();
        let restores: Vec<_> = names.map(|(hop, name)| step(&mut connection, name, hop > 0)).collect();
        restores.into_iter().rev().for_each(|index| restore(&mut connection, index));
        connection
    }

    #[test]
    fn every_process_on_the_way_gets_a_segment_and_the_client_sees_its_own_again() {
        let connection = walk(Connection::default(), &["nsc", "nsmgr", "fwd", "nse"]);
        let names: Vec<_> = connection.segments().iter().map(|segment| segment.name.as_str()).collect();
        assert_eq!(names, ["nsc", "nsmgr", "fwd", "nse"]);
        assert_eq!((connection.id.as_str(), connection.path.unwrap().index), ("origin", 0));
    }

    #[test]
    fn a_refresh_keeps_all_ids_and_so_does_a_client_that_lost_the_path() {
        let names = ["nsc", "nsmgr", "fwd", "nse"];
        let first = walk(Connection::default(), &names);
        assert_eq!(walk(first.clone(), &names), first);
        assert_eq!(walk(Connection { id: "origin".into(), ..Default::default() }, &names), first);
    }

    #[test]
    fn a_segment_taken_over_by_another_process_gets_a_new_id() {
        let first = walk(Connection::default(), &["nsc", "nsmgr", "fwd-1"]);
        let second = walk(first.clone(), &["nsc", "nsmgr", "fwd-2"]);
        assert_eq!(second.segments()[1], first.segments()[1]);
        assert_ne!(second.segments()[2].id, first.segments()[2].id);
    }

    #[test]
    fn nobody_reaches_anothers_connection_by_naming_its_ids() {
        let victim = walk(Connection::default(), &["nsc", "nsmgr", "fwd"]);
        let mut forged = walk(Connection { id: "evil".into(), ..Default::default() }, &["evil"]);
        forged.path.as_mut().unwrap().path_segments.extend(victim.segments()[1..].iter().cloned());
        let answered = walk(forged, &["evil", "nsmgr", "fwd"]);
        assert_ne!(answered.segments()[1].id, victim.segments()[1].id);
        assert_ne!(answered.segments()[2].id, victim.segments()[2].id);
    }

    #[test]
    fn a_caller_that_bears_this_processs_name_does_not_choose_the_id() {
        let victim = walk(Connection::default(), &["nsc", "nsmgr", "fwd"]);
        let mut forged = victim.clone();
        let path = forged.path.as_mut().unwrap();
        path.path_segments[0] = PathSegment { name: "evil".into(), id: "evil".into(), ..Default::default() };
        path.index = 1;
        forged.id.clone_from(&path.path_segments[1].id);
        advance(&mut forged, "nsmgr", true, |before| id("nsmgr", before)).unwrap();
        assert_ne!(forged.id, victim.segments()[1].id);
        assert_eq!(forged.path.unwrap().index, 2);
    }

    #[test]
    fn an_id_that_is_not_the_current_segments_is_refused() {
        let mut connection = walk(Connection::default(), &["nsc"]);
        connection.id = "another".into();
        let refused = advance(&mut connection, "nsmgr", true, |before| id("nsmgr", before));
        assert!(matches!(refused, Err(PathError::IdMismatch { .. })));
    }

    proptest! {
        #[test]
        fn no_message_makes_it_panic_and_success_leaves_the_own_segment_current(
            index in 0_u32..6, names in prop::collection::vec("[ab]", 0..5), given in "[ab]?", own in "[abc]",
            called: bool,
        ) {
            let path_segments =
                names.iter().map(|n| PathSegment { name: n.clone(), id: n.clone(), ..Default::default() }).collect();
            let path = Some(super::super::Path { index, path_segments });
            let mut connection = Connection { id: given, path, ..Connection::default() };
            if advance(&mut connection, &own, called, |before| id(&own, before)).is_ok() {
                let segment = connection.segment(0).unwrap();
                prop_assert_eq!((&segment.name, &segment.id), (&own, &connection.id));
            }
        }
    }
}

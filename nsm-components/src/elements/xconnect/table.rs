//! The connections that have links here, or may have.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;

use crate::dataplane::{ConnectionId, Entry, Footprint};

/// What a connection is to this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It was asked for since the start, and not closed since.
    Asked,
    /// An earlier process left it, and nobody has asked for it yet.
    Left,
    /// It was closed, but its links could not be removed.
    Ended,
}

#[derive(Clone, Debug)]
struct Known {
    footprint: Footprint,
    standing: Standing,
}

/// See the module. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Table(Arc<Mutex<HashMap<ConnectionId, Known>>>);

impl Table {
    /// What an earlier process left.
    pub(super) fn of(left: Vec<Entry>) -> Self {
        let known = left.into_iter().map(|entry| {
            let known = Known { footprint: entry.footprint, standing: Standing::Left };
            (known.footprint.id.clone(), known)
        });
        Self(Arc::new(Mutex::new(known.collect())))
    }

    pub(super) fn standing(&self, id: &ConnectionId) -> Option<Standing> {
        self.0.lock().get(id).map(|known| known.standing)
    }

    /// Where it is.
    pub(super) fn footprint(&self, id: &ConnectionId) -> Option<Footprint> {
        self.0.lock().get(id).map(|known| known.footprint.clone())
    }

    /// Whether the client's namespace may have policy routes of the connection.
    pub(super) fn has_policies(&self, id: &ConnectionId) -> bool {
        self.0.lock().get(id).is_some_and(|known| known.footprint.has_policies)
    }

    /// The connection is asked for; answers where it was before.
    pub(super) fn ask(&self, footprint: Footprint) -> Option<Footprint> {
        let known = Known { footprint, standing: Standing::Asked };
        let before = self.0.lock().insert(known.footprint.id.clone(), known);
        before.map(|known| known.footprint)
    }

    /// It counts again as it did before it was asked for in vain.
    pub(super) fn restore(&self, id: &ConnectionId, standing: Standing) {
        if let Some(known) = self.0.lock().get_mut(id) {
            known.standing = standing;
        }
    }

    /// It is to be removed; answers where it is, and what it was.
    pub(super) fn end(&self, id: &ConnectionId) -> Option<(Footprint, Standing)> {
        let mut known = self.0.lock();
        let known = known.get_mut(id)?;
        let before = std::mem::replace(&mut known.standing, Standing::Ended);
        Some((known.footprint.clone(), before))
    }

    /// Nothing is left of it.
    pub(super) fn forget(&self, id: &ConnectionId) {
        self.0.lock().remove(id);
    }

    pub(super) fn footprints(&self) -> HashMap<ConnectionId, Footprint> {
        self.0.lock().iter().map(|(id, known)| (id.clone(), known.footprint.clone())).collect()
    }

    /// All in one of these standings.
    pub(super) fn all(&self, standings: &[Standing]) -> Vec<ConnectionId> {
        let known = self.0.lock();
        let all = known.iter().filter(|(_, known)| standings.contains(&known.standing));
        all.map(|(id, _)| id.clone()).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.0.lock().len()
    }
}

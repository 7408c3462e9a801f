//! Which channel a watch goes over. A server bounds the calls that are open on one connection, and a
//! watch is a call that does not end: beyond so many, further channels carry them.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::chain::{Error, Kind, Result};

/// Most watches on one channel: half of what our servers take. Upstream's take more, and the other
/// half is for calls that end.
const WATCHES: usize = 512;

/// Most channels for watches.
const LANES: usize = 128;

/// Watches on each channel, by its number. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Lanes(Arc<Mutex<Vec<usize>>>);

/// The place of one watch; free again when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    lanes: Lanes,
    lane: usize,
}

impl Lanes {
    /// A place on the first channel that has one.
    pub(super) fn take(&self) -> Result<Place> {
        let mut counts = self.0.lock();
        let lane = counts.iter().position(|count| *count < WATCHES).unwrap_or(counts.len());
        if lane >= LANES {
            let message = format_args!("{} watches of this process are open already", LANES * WATCHES);
            return Err(Error::new(Kind::Exhausted, message));
        }
        if lane == counts.len() {
            counts.push(0);
        }
        counts[lane] += 1;
        Ok(Place { lanes: self.clone(), lane })
    }

    #[cfg(test)]
    pub(super) fn counts(&self) -> Vec<usize> {
        self.0.lock().clone()
    }
}

impl Place {
    /// Number of the channel.
    pub(super) fn lane(&self) -> usize {
        self.lane
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.lanes.0.lock()[self.lane] -= 1;
    }
}

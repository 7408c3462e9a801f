//! What becomes of a registration, by what is known of its name. No effects.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use prost_types::Timestamp;

use super::{
    Apply,
    known::{Held, Key, Known},
    spec::{Life, Resource, Said, life, node},
};
use crate::{
    chain::{Error, Kind, Result},
    elements::registry::table::Table,
};

/// Field managers of registries begin so; the rest tells the owner of the name, so that the API server
/// itself refuses a name to others, without being asked before.
pub(super) const MANAGER: &str = "nsm-registry/";

/// Longest name of an object.
const MAX_NAME: usize = 253;

/// What to do.
#[derive(Debug)]
pub(super) enum Verdict {
    /// Nothing is new but the end of the entry's life, which needs no write.
    Keep {
        /// When the name was registered first.
        first: Option<Timestamp>,
    },
    /// Write it.
    Apply(Apply),
}

/// Who writes the fields of this owner's entries.
pub(super) fn manager(owner: &str) -> String {
    let digest = digest(&SHA256, owner.as_bytes());
    let first = digest.as_ref().iter().take(8).fold(0_u64, |first, byte| first << 8 | u64::from(*byte));
    format!("{MANAGER}{first:016x}")
}

/// Judges a registration of this life, in an own namespace, at this time.
pub(super) fn judge<T: Resource>(
    (known, table): (&Known<T>, &Table<T>),
    entry: &T,
    lasting: Option<Duration>,
    namespace: &str,
    seconds: f64,
) -> Result<Verdict> {
    check_name::<T>(entry.name())?;
    let own: Key = (namespace.into(), entry.name().into());
    for (key, held) in known.of_name(entry.name()) {
        check_claim(key, held, &own)?;
    }
    let held = known.get(&own);
    let before = held.and_then(|held| match &held.said {
        Said::Entry(before) => Some((held, before)),
        Said::Template | Said::Over | Said::Unreadable(_) => None,
    });
    let first = if let Some((_, before)) = before {
        // An object may say to have another name than its own.
        if before.name() != entry.name() {
            return Err(taken::<T>(entry.name(), &own, &format!("which calls itself {}", before.name())));
        }
        if before.owner().is_empty() {
            return Err(taken::<T>(entry.name(), &own, "which a user wrote"));
        }
        before.check_owner(entry.owner())?;
        before.first_registration()
    } else {
        table.lock().check_room(entry.owner())?;
        entry.first_registration()
    };
    if let Some((held, before)) = before
        && is_same(&**before, entry)
        && lasts(held, lasting, seconds)
    {
        return Ok(Verdict::Keep { first });
    }
    let spec = spec(entry, first, lasting, seconds);
    let spec = spec.map_err(|error| Error::new(Kind::Internal, format_args!("{}: {error}", T::WHAT)))?;
    // The owner's own fields may have been written by others, such as upstream's registry: this one
    // object is its own.
    let uid = held.map(|held| held.uid.clone());
    Ok(Verdict::Apply(Apply { key: own, uid, manager: manager(entry.owner()), spec }))
}

/// Whether the name can be an object's.
fn check_name<T: Resource>(name: &str) -> Result<()> {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let part = |part: &str| {
        let bytes = part.as_bytes();
        let ends = bytes.first().zip(bytes.last());
        ends.is_some_and(|(first, last)| inner(*first) && inner(*last))
            && bytes.iter().all(|c| inner(*c) || *c == b'-')
    };
    if name.len() <= MAX_NAME && name.split('.').all(part) {
        return Ok(());
    }
    let message = format_args!(
        "{} {name} cannot be kept as an object of the API server: its name may have at most {MAX_NAME} \
         lower case letters, digits, '-' and '.', and each part begins and ends with a letter or digit",
        T::WHAT
    );
    Err(Error::new(Kind::Invalid, message))
}

fn taken<T: Resource>(name: &str, (namespace, object): &Key, why: &str) -> Error {
    let message = format_args!(
        "the name of {} {name} is taken by the {} {namespace}/{object}, {why}: use another name, or delete \
         that one",
        T::WHAT,
        T::KIND
    );
    Error::new(Kind::Taken, message)
}

/// A name is mesh-wide: who claims it in whatever namespace has it.
fn check_claim<T: Resource>(key: &Key, held: &Held<T>, own: &Key) -> Result<()> {
    let name = &*own.1;
    match &held.said {
        Said::Template => Err(taken::<T>(name, key, "a template (spec.workload)")),
        Said::Unreadable(why) => Err(taken::<T>(name, key, &format!("which cannot be read ({why})"))),
        Said::Entry(_) if key != own => {
            Err(taken::<T>(name, key, "which no registry of this namespace wrote"))
        }
        Said::Entry(_) | Said::Over => Ok(()),
    }
}

/// Whether a registration brings nothing new but the end of its life. Which registry it came by is
/// nothing new: several take turns.
fn is_same<T: Resource>(before: &T, now: &T) -> bool {
    let bare = |entry: &T| {
        let mut entry = entry.clone();
        if let Some(end) = entry.expiration_mut() {
            *end = None;
        }
        if let Some(first) = entry.first_registration_mut() {
            *first = None;
        }
        entry.path_ids_mut().truncate(1);
        entry
    };
    node(before.path_ids()) == node(now.path_ids()) && bare(before) == bare(now)
}

/// Whether what stands in the object covers this life.
fn lasts<T>(held: &Held<T>, lasting: Option<Duration>, seconds: f64) -> bool {
    match (&held.life, lasting) {
        (Life::OfNode(_), _) | (Life::Endless, None) => true,
        (Life::Endless, Some(_)) | (Life::Until(_), None) => false,
        #[allow(clippy::cast_precision_loss)] // exact until the year 285,000,000
        (Life::Until(end), Some(lasting)) => *end as f64 - seconds >= lasting.as_secs_f64(),
    }
}

/// The spec to write: who ends with a node has no end of its own; others have twice their life, so that
/// every other refresh at most is written.
fn spec<T: Resource>(
    entry: &T,
    first: Option<Timestamp>,
    lasting: Option<Duration>,
    seconds: f64,
) -> serde_json::Result<serde_json::Value> {
    let mut entry = entry.clone();
    if let Some(time) = entry.first_registration_mut() {
        *time = first;
    }
    let of_node = matches!(life(&entry), Life::OfNode(_));
    if let Some(end) = entry.expiration_mut() {
        #[allow(clippy::cast_possible_truncation)] // whole seconds since the epoch
        let twice = |lasting: Duration| (seconds + 2.0 * lasting.as_secs_f64()).ceil() as i64;
        let time = lasting.filter(|_| !of_node).map(twice);
        *end = time.map(|seconds| Timestamp { seconds, nanos: 0 });
    }
    entry.spec()
}

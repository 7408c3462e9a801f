//! Asks the API server about overrides before any workload is written: once for each.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use serde_json::Value;

use super::{Context, Error};
use crate::{
    apply, compare, names,
    object::{Desired, Key},
    plan::{Step, step},
    render::{Mesh, Tier},
};

/// What came out, by object and the revision that was asked about.
#[derive(Debug, Default)]
pub(super) struct Rehearsals(Mutex<BTreeMap<Key, (String, Verdict)>>);

/// What the API server says of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    Sound,
    Refused(String),
}

impl Rehearsals {
    /// What was said of this revision, if it was asked about.
    fn verdict(&self, desired: &Desired) -> Option<Verdict> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (revision, verdict) = known.get(&desired.key)?;
        (Some(revision.as_str()) == desired.revision()).then(|| verdict.clone())
    }

    fn note(&self, desired: &Desired, verdict: Verdict) {
        let revision = desired.revision().unwrap_or_default().to_owned();
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(desired.key.clone(), (revision, verdict));
    }
}

/// Fails with the first that cannot be written as it is wanted, or would not stay as written.
pub(super) async fn all(mesh: &Mesh, tiers: &[Tier], context: &Context) -> Result<(), Error> {
    let overridden = |desired: &&Desired| {
        desired.key.kind.is_workload() && mesh.overrides.contains_key(desired.key.component())
    };
    for desired in tiers.iter().flat_map(|tier| &tier.objects).filter(overridden) {
        let todo = step(desired, context.known.live(&desired.key).as_deref());
        if !matches!(todo, Step::Create | Step::Change) {
            continue;
        }
        let verdict = if let Some(known) = context.rehearsals.verdict(desired) {
            known
        } else {
            let verdict = ask(desired, context).await?;
            context.rehearsals.note(desired, verdict.clone());
            verdict
        };
        if let Verdict::Refused(message) = verdict {
            return Err(Error::Override { name: desired.key.component().to_owned(), message });
        }
    }
    Ok(())
}

async fn ask(desired: &Desired, context: &Context) -> Result<Verdict, Error> {
    let would_be = match context.writer.rehearse(desired).await {
        Ok(object) => serde_json::to_value(object).unwrap_or_default(),
        Err(apply::Error::Refused { message, .. }) => return Ok(Verdict::Refused(message)),
        Err(error) => return Err(error.into()),
    };
    Ok(unstable(desired, &would_be).map_or(Verdict::Sound, Verdict::Refused))
}

/// What the API server stores in another form than it is written would be written for ever.
fn unstable(desired: &Desired, would_be: &Value) -> Option<String> {
    let difference = compare::in_sync(&desired.body, would_be, names::MANAGER).err()?;
    Some(format!(
        "the API server would store it in another form: {difference}; write it as the server does, or leave it out"
    ))
}

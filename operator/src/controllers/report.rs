//! The status of the `NSMConfig`, written when it differs, and the Events that go with it.

use std::time::Duration;

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Condition, jiff::Timestamp};
use kube::ResourceExt;
use nsm_crds::{CONDITION_READY, Component, ConfigReason, NSMConfig, NSMConfigStatus, Reason, RolloutStatus};

use super::{Context, Error};
use crate::{
    apply::Told,
    kept::Kept,
    status::{self, ConfigInput, Outcome},
};

/// Shortest time between two writes of a status in which only counts differ.
const COUNTS_EVERY: Duration = Duration::from_secs(1);

/// Whether a status still has to be written.
pub(super) enum Delay {
    None,
    Later(Duration),
}

pub(super) async fn write(
    config: &NSMConfig,
    components: &[Component],
    rollout: Option<RolloutStatus>,
    kept: Kept,
    outcome: &Outcome,
    context: &Context,
) -> Result<Delay, Error> {
    let name = config.name_any();
    let newer = context.configs.newer_than(&name, config.resource_version().as_deref());
    let old = newer.as_ref().or(config.status.as_ref());
    let nodes = context.known.nodes();
    let new = status::config(ConfigInput {
        old,
        generation: config.metadata.generation,
        namespace: &config.spec.namespace,
        outcome,
        components,
        rollout,
        kept,
        connections: status::mesh(nodes.iter().map(AsRef::as_ref)),
        unprotected: &context.server.unprotected,
        now: Timestamp::now(),
    });
    if old == Some(&new) {
        return Ok(Delay::None);
    }
    if let Some(age) = context.configs.age(&name)
        && age < COUNTS_EVERY
        && old.is_some_and(|old| only_counts_differ(old, &new))
    {
        return Ok(Delay::Later(COUNTS_EVERY.saturating_sub(age)));
    }
    let written = context.writer.status(config, &new).await?;
    if let Some(told) = news(old, &new) {
        context.writer.tell(config, &context.installation.namespace, &told).await;
    }
    context.configs.remember(name, written.resource_version().as_deref(), new);
    Ok(Delay::None)
}

/// The status as it was written last.
pub(super) fn last(config: &NSMConfig, context: &Context) -> Option<NSMConfigStatus> {
    let newer = context.configs.newer_than(&config.name_any(), config.resource_version().as_deref());
    newer.or_else(|| config.status.clone())
}

/// What is worth an Event: that Ready has another reason than before.
fn news(old: Option<&NSMConfigStatus>, new: &NSMConfigStatus) -> Option<Told> {
    let ready = |status: &NSMConfigStatus| {
        status.conditions.iter().find(|condition| condition.type_ == CONDITION_READY).cloned()
    };
    let now = ready(new)?;
    let before = old.and_then(ready);
    let same = before.is_some_and(|before| before.reason == now.reason && before.status == now.status);
    let calm = [
        ConfigReason::AllReady,
        ConfigReason::Progressing,
        ConfigReason::Deleting,
        ConfigReason::WaitingForIdle,
    ];
    let warning = !calm.iter().any(|reason| reason.as_str() == now.reason);
    (!same).then_some(Told { warning, reason: now.reason, note: now.message })
}

fn only_counts_differ(old: &NSMConfigStatus, new: &NSMConfigStatus) -> bool {
    let verdicts = |conditions: &[Condition]| -> Vec<(String, String, String)> {
        let verdict = |c: &Condition| (c.type_.clone(), c.status.clone(), c.reason.clone());
        conditions.iter().map(verdict).collect()
    };
    old.components == new.components
        && old.rollout == new.rollout
        && old.services == new.services
        && old.service_accounts == new.service_accounts
        && old.observed_generation == new.observed_generation
        && verdicts(&old.conditions) == verdicts(&new.conditions)
}

//! What there is of the node daemons, and what is wanted of them.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::Value;

use super::super::Context;
use crate::{
    dereference::Owned,
    names,
    object::{Desired, Kind},
    plan::{Step, step},
    render::{self, Mesh, Tier},
    rollout::{Mark, Pod, Set},
    status::Rollout,
};

/// A DaemonSet that is there.
pub(super) struct Present {
    pub daemon: String,
    pub set: Set,
    pub object: Owned,
    pub live: Arc<Value>,
}

/// Daemon and revision of a DaemonSet: of its selector, which nobody can change.
pub(super) fn of(daemons: &Value) -> Option<(String, String)> {
    let labels = daemons.pointer("/spec/selector/matchLabels")?;
    let text = |name: &str| labels.get(name)?.as_str().map(str::to_owned);
    Some((text(names::NAME)?, text(names::DAEMON_REVISION)?))
}

pub(super) fn named(desired: &Desired) -> Option<(String, String, &Desired)> {
    let (name, revision) = of(&desired.body)?;
    Some((name, revision, desired))
}

pub(super) fn wanted(tiers: &[Tier]) -> impl Iterator<Item = (String, String, &Desired)> {
    let daemons = |desired: &&Desired| desired.key.kind == Kind::DaemonSet;
    tiers.iter().flat_map(|tier| &tier.objects).filter(daemons).filter_map(named)
}

/// The DaemonSets that are there of the wanted daemons, oldest first.
pub(super) fn present(mesh: &Mesh, wanted: &[(String, String, &Desired)], context: &Context) -> Vec<Present> {
    let mut found: Vec<Present> = Vec::new();
    let mut objects = context.known.daemon_sets(&mesh.owner.uid);
    for (_, _, desired) in wanted {
        // Just made, and not in the watch yet.
        if let Some(live) = context.known.live(&desired.key)
            && objects.iter().all(|(object, _)| object.key != desired.key)
        {
            objects.push((Owned::made(&desired.key, &live), live));
        }
    }
    for (object, live) in objects {
        let Some((daemon, revision)) = of(&live) else { continue };
        let gone = object.leaving || context.deleted.age(&object.uid).is_some();
        if gone || object.key.namespace != mesh.namespace || wanted.iter().all(|(name, ..)| *name != daemon) {
            continue;
        }
        let set = Set {
            revision,
            placement: render::placement(&live),
            observed: Rollout::has_been_observed(&live),
        };
        found.push(Present { daemon, set, object, live });
    }
    found.sort_by_key(|one| {
        let made =
            one.live.pointer("/metadata/creationTimestamp").and_then(Value::as_str).unwrap_or_default();
        (made.to_owned(), one.set.placement == Some(render::Placement::New))
    });
    found
}

pub(super) fn marks(context: &Context) -> BTreeMap<String, Mark> {
    let mut marks = BTreeMap::new();
    context.known.stores().marks.each(|_, name, mark| {
        marks.insert(name.to_owned(), *mark);
    });
    marks
}

pub(super) fn pods(mesh: &Mesh, context: &Context) -> Vec<Pod> {
    let mut pods = Vec::new();
    context.known.stores().pods.each(|namespace, _, pod| {
        if namespace == mesh.namespace {
            pods.push(Pod {
                daemon: pod.daemon.to_string(),
                revision: pod.revision.to_string(),
                node: pod.node.as_deref().map(str::to_owned),
                ready: pod.ready,
            });
        }
    });
    pods
}

/// Whether all that goes before the nodes is as wanted.
///
/// What gets its identity from the agents does not go before agents whose tokens ended with their service
/// account: it waits for their successors.
pub(super) fn may_begin(tiers: &[Tier], present: &[Present], context: &Context) -> bool {
    let orphaned = |desired: &Desired| present.iter().any(|one| is_orphaned(&one.live, &desired.body));
    let agents = tiers.iter().position(|tier| tier.objects.iter().any(orphaned));
    let before = agents.unwrap_or(tiers.len());
    let objects = tiers[..before].iter().flat_map(|tier| &tier.objects);
    objects.filter(|desired| desired.key.kind == Kind::Deployment).all(|desired| {
        let live = context.known.live(&desired.key);
        step(desired, live.as_deref()) == Step::Nothing && Rollout::of(live.as_deref()).complete()
    })
}

/// Whether agents have another service account than those that are wanted.
fn is_orphaned(running: &Value, wanted: &Value) -> bool {
    let are_agents = |set: &Value| of(set).is_some_and(|(name, _)| name == names::component::AGENT);
    let account = |set: &Value| {
        let annotations = set.pointer("/spec/template/metadata/annotations")?;
        annotations.get(names::ACCOUNT).cloned()
    };
    are_agents(running) && are_agents(wanted) && account(running) != account(wanted)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn set(name: &str, revision: &str, account: Option<&str>) -> Value {
        let mut set = json!({"spec": {
            "selector": {"matchLabels": {names::NAME: name, names::DAEMON_REVISION: revision}},
            "template": {"metadata": {}},
        }});
        if let Some(account) = account {
            set["spec"]["template"]["metadata"]["annotations"] = json!({names::ACCOUNT: account});
        }
        set
    }

    #[test]
    fn agents_are_orphaned_by_a_new_account_and_by_no_other_change() {
        let agent = |revision, account| set(names::component::AGENT, revision, account);
        assert!(!is_orphaned(&agent("1", None), &agent("2", None)));
        assert!(is_orphaned(&agent("1", None), &agent("2", Some("b"))));
        assert!(is_orphaned(&agent("1", Some("b")), &agent("2", Some("c"))));
        assert!(!is_orphaned(&agent("1", Some("b")), &agent("2", Some("b"))));
        let nsmgr = |account| set(names::component::NSMGR, "1", account);
        assert!(!is_orphaned(&nsmgr(None), &nsmgr(Some("b"))));
        assert!(!is_orphaned(&nsmgr(None), &agent("1", Some("b"))));
    }
}

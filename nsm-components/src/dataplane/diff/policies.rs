//! What the policy routes of a client still lack.

use super::{At, Conflict, End, Operation, change_of};
use crate::dataplane::policy::{LAST, ObservedPolicy, Policies, Rule, wanted};

/// The changes on rules and their tables. What is new comes before what is old goes, so that no
/// packet finds neither; a rule comes before its routes, because it is what its table is found by.
pub(super) fn change(
    [tag, mark]: [u32; 2],
    end: &End,
    at: &At,
    observed: &Policies,
) -> Result<Vec<Operation>, Conflict> {
    let mut left: Vec<&ObservedPolicy> = observed.own.iter().collect();
    let mut used = observed.taken.clone();
    used.extend(left.iter().map(|own| own.rule.table));
    let mut operations = Vec::new();
    for (priority, policy) in wanted(&end.policies) {
        let is_this = |own: &&ObservedPolicy| {
            (own.rule.priority, own.rule.selector, own.shared) == (priority, policy.selector, false)
        };
        let known = left.iter().position(is_this).map(|place| left.remove(place));
        let table = match known {
            Some(known) => known.rule.table,
            None => (1..=LAST)
                .find(|table| !used.contains(table))
                .ok_or(Conflict::NoTable { netns: end.netns, policies: end.policies.len() })?,
        };
        if known.is_none() {
            used.insert(table);
            let rule = Rule { tag, mark, priority, selector: policy.selector, table };
            operations.push(Operation::AddRule(end.netns, rule));
        }
        let [gone, new] = change_of(known.map_or(&[][..], |known| &known.hops), &policy.hops);
        operations.extend(gone.into_iter().map(|hop| Operation::RemoveRoute(at.clone(), table, hop)));
        operations.extend(new.into_iter().map(|hop| Operation::AddRoute(at.clone(), table, hop)));
    }
    for old in left {
        let route = |hop: &_| Operation::RemoveRoute(at.clone(), old.rule.table, *hop);
        operations.extend(old.hops.iter().map(route));
        operations.push(Operation::RemoveRule(end.netns, old.rule));
    }
    Ok(operations)
}

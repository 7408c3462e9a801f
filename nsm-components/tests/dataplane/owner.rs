//! Several forwarders on one kernel: each knows its own links and rules, and touches no other's.

use std::{
    collections::HashMap,
    os::fd::{AsFd, AsRawFd},
};

use nsm_components::{
    api::connectioncontext::PolicyRoute,
    dataplane::{Applied, Conflict, Desired, Error, Netns, Orphan, OrphanKind, Removed, plan},
};

use crate::monitor::Monitor;
use crate::world::{
    connection, dataplane, dataplane_of, inside, ip, ip_context, links, may_run, namespaces, netns, pod,
};

fn policed(id: &str, nsc: &Netns, nse: &Netns) -> Desired {
    let mut connection = connection(id);
    ip_context(&mut connection).policies = vec![PolicyRoute { proto: "17".into(), ..PolicyRoute::default() }];
    plan(&connection, &pod(nsc, "nsm-1"), &pod(nse, "nsm-1")).unwrap()
}

#[tokio::test]
async fn links_and_rules_name_their_forwarder_and_another_one_leaves_them_alone() {
    if !may_run() {
        return;
    }
    let (node, nsc, nse) = (netns(), netns(), netns());
    let at_hand = namespaces(&[&nsc, &nse]);
    let (own, other) = (dataplane_of("/a", &node), dataplane_of("/b", &node));
    let desired = policed("c-owned", &nsc, &nse);
    own.ensure(&desired, &at_hand).await.unwrap();
    let link = ip(&nsc, "-d link show nsm-1");
    assert!(link.contains("alias nsm:c-owned of forwarder-1#"), "{link}");
    let rules = ip(&nsc, "rule");
    assert!(rules.lines().any(|rule| rule.contains("fwmark 0x") && rule.contains("/0 ")), "{rules}");

    // The same connection id: by chance, or because both give ids by one rule.
    let monitors = [Monitor::start(&nsc), Monitor::start(&nse)];
    assert_eq!(other.remove(&desired.footprint(), &at_hand).await.unwrap(), Removed::Nothing);
    // Another connection that wants the name, of which the other forwarder has never heard.
    let wanted = plan(&connection("c-wants"), &pod(&nsc, "nsm-1"), &pod(&nse, "nsm-2")).unwrap();
    let error = other.ensure(&wanted, &at_hand).await.unwrap_err();
    assert!(matches!(&error, Error::Conflict(Conflict::OtherForwarder { .. })), "{error:?}");
    assert!(error.to_string().contains("c-owned of forwarder forwarder-1#"), "{error}");
    for monitor in monitors {
        assert_eq!(monitor.seen(), [""; 0]);
    }
    assert_eq!(ip(&nsc, "rule"), rules);

    assert_eq!(own.remove(&desired.footprint(), &at_hand).await.unwrap(), Removed::Deleted);
    assert!(!ip(&nsc, "rule").contains("fwmark"), "its own forwarder removes the rule");
}

#[tokio::test]
async fn links_of_an_earlier_version_are_adopted_as_they_are() {
    if !may_run() {
        return;
    }
    let (node, nsc, nse) = (netns(), netns(), netns());
    let at_hand = namespaces(&[&nsc, &nse]);
    let desired = policed("c-earlier", &nsc, &nse);
    dataplane(&node).ensure(&desired, &at_hand).await.unwrap();
    let rule = ip(&nsc, "rule").lines().find(|rule| rule.contains("fwmark")).unwrap().to_owned();
    let (priority, rest) = rule.split_once(':').unwrap();
    let unmarked: Vec<_> = rest.split_whitespace().collect();
    let at = unmarked.iter().position(|word| *word == "fwmark").unwrap();
    let unmarked = [&unmarked[..at], &unmarked[at + 2..]].concat().join(" ").replace(" proto ", " protocol ");
    ip(&nsc, &format!("rule delete priority {priority}"));
    ip(&nsc, &format!("rule add priority {priority} {unmarked}"));
    for pod in [&nsc, &nse] {
        ip(pod, "link set nsm-1 alias nsm:c-earlier");
    }

    let next = dataplane(&node);
    let applied = next.ensure(&desired, &at_hand).await.unwrap();
    assert_eq!((applied, next.kernel().counters().writes), (Applied::Adopted, 0), "{}", ip(&nsc, "rule"));
    assert_eq!(next.remove(&desired.footprint(), &at_hand).await.unwrap(), Removed::Deleted);
    assert_eq!(ip(&nsc, "rule").lines().count(), 3, "{}", ip(&nsc, "rule"));
}

#[tokio::test]
async fn orphans_are_found_and_removed_also_where_no_path_leads_and_no_others() {
    if !may_run() {
        return;
    }
    let (node, nsc, nse) = (netns(), netns(), netns());
    // What a CNI plugin makes: by it the node has a number for the pod. Nothing else leads there.
    let path = format!("/proc/{}/fd/{}", std::process::id(), nse.as_fd().as_raw_fd());
    ip(&node, &format!("link add cni type veth peer name eth0 netns {path}"));
    // To this one there is a path: a process is in it.
    let mut pause = inside(&nsc, "sleep").arg("infinity").spawn().unwrap();
    let at_hand = namespaces(&[&nsc, &nse]);
    let (own, other) = (dataplane_of("/a", &node), dataplane_of("/b", &node));
    let desired = policed("c-orphan", &nsc, &nse);
    own.ensure(&desired, &at_hand).await.unwrap();
    let mut theirs = policed("c-theirs", &nsc, &nse);
    theirs.ends.iter_mut().for_each(|end| end.name = "nsm-2".into());
    other.ensure(&theirs, &at_hand).await.unwrap();

    let known = HashMap::from([(desired.id.clone(), desired.footprint())]);
    let own_ones = |(orphans, _): (Vec<Orphan>, usize)| -> Vec<Orphan> {
        orphans.into_iter().filter(Orphan::is_own).collect()
    };
    assert_eq!(own_ones(own.audit(&known).await.unwrap()), []);
    let writes = own.kernel().counters().writes;
    let orphans = own_ones(own.audit(&HashMap::new()).await.unwrap());
    let mut kinds: Vec<_> = orphans.iter().map(|orphan| orphan.kind).collect();
    kinds.sort_unstable();
    let all: Vec<_> = orphans.iter().map(ToString::to_string).collect();
    assert_eq!(kinds, [OrphanKind::Link, OrphanKind::Link, OrphanKind::Rule], "{all:?}");
    assert!(all.iter().any(|orphan| orphan.contains("with nsid")), "{all:?}");
    assert_eq!(own.kernel().counters().writes, writes, "looking writes nothing");

    own.remove_orphans(&orphans).await.unwrap();
    assert_eq!((links(&nsc), links(&nse)), (vec!["nsm-2".into()], vec!["eth0".into(), "nsm-2".into()]));
    let rules = ip(&nsc, "rule");
    assert_eq!(rules.matches("fwmark").count(), 1, "{rules}");
    pause.kill().unwrap();
    pause.wait().unwrap();
}

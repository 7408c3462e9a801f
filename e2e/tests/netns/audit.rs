//! What serves no connection is found, counted and removed, and what others have made is not touched.

use std::{fs, time::Duration};

use nsm_e2e::{
    figures::figures,
    interface::{GROUP, interfaces},
    mesh::{Mesh, START, Signal, Who},
    wait::{may_run, until_true},
};

use crate::story::{IFNAME, LIFE, Story, assert_silent, assert_whole};

/// How long an orphan may stay: a life, a look later, and what a busy machine needs.
const GRACE: Duration = LIFE.saturating_mul(2);

fn figure(mesh: &Mesh, who: Who, name: &str) -> u64 {
    figures(&mesh.metrics_socket(who)).ok().and_then(|all| all.get(name).copied()).unwrap_or_default()
}

fn orphans(mesh: &Mesh, node: usize, kind: &str) -> u64 {
    figure(mesh, Who::Forwarder(node), &format!("nsm_orphans{{kind=\"{kind}\"}}"))
}

#[test]
fn links_without_a_journal_are_counted_told_with_their_owner_and_removed_after_a_life() {
    if !may_run() {
        return;
    }
    let mut story = Story::begin();
    let (lost, kept) = (story.interface(story.local), story.interface(story.remote));
    let pod = story.mesh.pod_of(story.local).unwrap().clone();
    // Of a forwarder nobody knows, of nobody, and of an earlier version.
    let others = [("other", "nsm:lost of forwarder-2#00000000"), ("own", "uplink"), ("old", "nsm:lost")];
    for (name, alias) in others {
        let group = if name == "own" { "0" } else { GROUP };
        pod.ip(&format!("link add {name} group {group} type bridge")).unwrap();
        let arguments = ["link", "set", name, "alias", alias];
        assert!(pod.command("ip").args(arguments).status().unwrap().success());
    }
    let stream = story.stream(story.remote);

    // A client dies while its forwarder is away, and the journal with it.
    story.mesh.end(&[Who::Forwarder(2), story.local], Signal::SIGKILL).unwrap();
    let connection = lost.connection().unwrap().to_owned();
    let folder = story.mesh.journal_folder(2);
    fs::remove_file(folder.join(format!("{connection}.json"))).unwrap();
    story.mesh.start_again(&[Who::Forwarder(2)]).unwrap();
    until_true("the orphans are counted", START, || orphans(&story.mesh, 2, "link") == 2).unwrap();
    let owner = format!(r#""owner":"connection {connection} of forwarder-2#"#);
    let told = story.mesh.says(Who::Forwarder(2), &owner, START).unwrap();
    assert!(told.contains("serves no connection"), "{told}");
    assert_eq!(story.interface(story.local), lost, "nothing is removed at once");
    until_true("the orphans are removed", GRACE, || {
        interfaces(&pod).unwrap().iter().all(|interface| interface.name != IFNAME)
    })
    .unwrap();
    // It counts once the kernel has answered: then the links have gone already.
    let removed = || figure(&story.mesh, Who::Forwarder(2), "nsm_orphans_removed_total") == 2;
    until_true("the removed orphans are counted", START, removed).unwrap();
    for (name, alias) in others {
        let link = pod.ip(&format!("link show {name}")).unwrap();
        assert!(link.contains(&format!("alias {alias}")), "{link}");
    }
    assert_whole(stream);
    assert_eq!(story.interface(story.remote), kept);
}

#[test]
fn a_forwarder_of_the_same_name_beside_it_never_touches_the_links_of_one_that_is_gone() {
    if !may_run() {
        return;
    }
    let mut one = Story::begin_with(LIFE * 30);
    let other = Story::begin();
    let watched = one.watch();
    // It cannot defend what is its own, and has no journal any more.
    one.mesh.end(&[Who::Forwarder(1), Who::Forwarder(2)], Signal::SIGKILL).unwrap();
    for node in [1, 2] {
        fs::remove_dir_all(one.mesh.journal_folder(node)).unwrap();
    }
    let looks = |node| figure(&other.mesh, Who::Forwarder(node), "nsm_audits_total");
    // Four looks are a life.
    let before = [1, 2].map(looks);
    until_true("the other mesh has looked for two lives", LIFE * 4, || {
        [1, 2].map(looks).iter().zip(before).all(|(now, before)| now - before > 8)
    })
    .unwrap();
    assert_silent(watched);
    for node in [1, 2] {
        let found = ["link", "rule"].map(|kind| orphans(&other.mesh, node, kind));
        assert_eq!(found, [0, 0], "node {node}");
    }
    one.mesh.start_again(&[Who::Forwarder(1), Who::Forwarder(2)]).unwrap();
}

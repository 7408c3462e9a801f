//! `nsm purge`: what a mesh that was killed has left is removed, and nothing else.

use std::process::Output;

use nsm_e2e::{
    interface::{GROUP, interfaces},
    mesh::{Mesh, START, Signal, Who, program},
    wait::{may_run, until},
};
use serde_json::Value;

use crate::story::{IFNAME, LIFE, Story};

/// Rules of the mesh have it.
const POLICY: &str = "- proto: 17\n  dstport: 6666\n";

fn purge(mesh: &Mesh, arguments: &[&str]) -> Output {
    let mut command = mesh.nodes()[1].command(program().unwrap());
    command.arg("purge").args(arguments).env("NSM_BASE_DIR", mesh.journal_folder(2)).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The forwarder of node 2 as it stands on its links: other tests have one of the same name.
fn forwarder(story: &Story) -> String {
    let alias = story.interface(story.local).alias;
    alias.rsplit_once(" of ").map(|(_, forwarder)| forwarder.to_owned()).unwrap()
}

/// All of the mesh that there is, without that of node 1's forwarder.
fn traces(story: &Story, forwarder: &str) -> Vec<String> {
    let mut traces = story.mesh.traces().unwrap();
    traces.retain(|trace| {
        trace.contains(forwarder) || trace.starts_with("rule") || trace.ends_with("of node 2")
    });
    traces
}

#[test]
fn what_a_killed_mesh_has_left_on_a_node_is_removed_with_its_journal_and_what_others_made_stays() {
    if !may_run() {
        return;
    }
    let mut mesh = Mesh::start(LIFE * 30).unwrap();
    let policies = mesh.folder().join("policies.yaml");
    std::fs::write(&policies, POLICY).unwrap();
    let endpoint =
        mesh.endpoint(2, "routed", &[("NSM_PBR_CONFIG_PATH", policies.to_str().unwrap())]).unwrap();
    let routed = mesh.client(2, &format!("kernel://routed/{IFNAME}")).unwrap();
    mesh.connected(routed, IFNAME).unwrap();
    let mut story = Story::begin_in(mesh);
    let forwarder = forwarder(&story);
    let pod = story.mesh.pod_of(story.local).unwrap().clone();
    // Of a user, of another forwarder, and of an earlier version.
    let others = [("user", "uplink"), ("other", "nsm:lost of forwarder-2#00000000"), ("old", "nsm:lost")];
    for (name, alias) in others {
        let group = if name == "user" { "0" } else { GROUP };
        pod.ip(&format!("link add {name} group {group} type bridge")).unwrap();
        assert!(pod.command("ip").args(["link", "set", name, "alias", alias]).status().unwrap().success());
    }
    pod.ip("rule add to 198.51.100.0/24 lookup 200 pref 99").unwrap();

    let before = traces(&story, &forwarder);
    // Beneath a forwarder that runs nothing is removed.
    let refused = purge(&story.mesh, &["--forwarder", &forwarder]);
    assert_eq!(refused.status.code(), Some(1));
    let why = text(&refused.stderr);
    assert!(why.contains(&format!("{forwarder} (process ")) && why.contains("--force"), "{why}");
    assert_eq!(traces(&story, &forwarder), before);

    let killed =
        [Who::Forwarder(2), Who::Nsmgr(2), story.local, story.remote, routed, endpoint, story.endpoint];
    story.mesh.end(&killed, Signal::SIGKILL).unwrap();
    // A dry run tells all of it, and removes nothing.
    let told = purge(&story.mesh, &["--forwarder", &forwarder, "--dry-run", "-o", "json"]);
    assert_eq!(told.status.code(), Some(0), "{}", text(&told.stderr));
    let told: Value = serde_json::from_slice(&told.stdout).unwrap();
    let count =
        |kind: &str| told["items"].as_array().unwrap().iter().filter(|item| item["kind"] == kind).count();
    // Two pairs, and a tunnel with its end in the endpoint's pod.
    assert_eq!((count("link"), count("rule"), count("entry")), (5, 1, 3), "{told:#}");
    assert!(told["items"].as_array().unwrap().iter().all(|item| item["removed"] == false), "{told:#}");
    assert_eq!(traces(&story, &forwarder), before);

    let purged = purge(&story.mesh, &["--forwarder", &forwarder]);
    assert_eq!(purged.status.code(), Some(0), "{}{}", text(&purged.stdout), text(&purged.stderr));
    let said = text(&purged.stdout);
    assert!(said.contains(&format!("removed link {IFNAME} in netns ")), "{said}");
    assert!(said.ends_with("removed 5 links, 1 rules, 3 files of the journal\n"), "{said}");
    // The kernel ends a tunnel's other end a moment later.
    let left = until("nothing of this forwarder is left", START, || {
        Some(traces(&story, &forwarder)).filter(Vec::is_empty)
    });
    assert!(left.is_ok(), "{:?}", traces(&story, &forwarder));
    for (name, alias) in others {
        let link = pod.ip(&format!("link show {name}")).unwrap();
        assert!(link.contains(&format!("alias {alias}")), "{link}");
    }
    assert!(pod.ip("rule").unwrap().contains("198.51.100.0/24"));
    let node1 = interfaces(story.mesh.pod_of(story.remote).unwrap()).unwrap();
    assert_eq!(node1.len(), 1, "the other node's is not touched: {node1:?}");

    // Once more there is nothing to do.
    let again = purge(&story.mesh, &["--forwarder", &forwarder]);
    assert_eq!(
        (again.status.code(), text(&again.stdout).as_str()),
        (Some(0), "nothing of a mesh is left here\n")
    );
}

#[test]
fn without_the_right_to_look_it_says_so_and_does_not_take_it_for_nothing() {
    if !may_run() {
        return;
    }
    let mut other = std::process::Command::new("setpriv");
    other.args(["--reuid", "65534", "--clear-groups", "--"]).arg(program().unwrap());
    let refused = other.args(["purge", "--dry-run"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(1), "{}", text(&refused.stdout));
    assert!(text(&refused.stderr).contains("CAP_SYS_ADMIN"), "{}", text(&refused.stderr));
}

//! `nsm drain`: a node that is to be stopped takes nothing new, goes on with what it has, and says when it is ready.

use std::process::{Command, Output};

use nsm_e2e::{
    figures::get,
    interface::interfaces,
    mesh::{Mesh, START, Signal, Who, program},
    wait::{may_run, until, until_true},
};
use serde_json::{Value, json};

use crate::{
    connections::{environment, listing},
    story::{IFNAME, LIFE, Story, assert_whole},
};

const NODE: [Who; 2] = [Who::Nsmgr(2), Who::Forwarder(2)];

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn drain(mesh: &Mesh, arguments: &[&str]) -> Output {
    let mut command = mesh.nodes()[1].command(program().unwrap());
    command.arg("drain").args(arguments).envs(environment(mesh, 2)).output().unwrap()
}

fn ready(mesh: &Mesh, who: Who) -> (u16, String) {
    get(&mesh.metrics_socket(who), "/readyz").unwrap()
}

/// What is told of the forwarder of node 2.
fn forwarder(mesh: &Mesh) -> Value {
    let listing = listing(mesh, 2);
    let mut all = listing["processes"].as_array().unwrap().iter();
    all.find(|one| one["name"] == "forwarder-2").cloned().unwrap_or_default()
}

#[test]
fn a_node_that_drains_refuses_what_is_new_keeps_what_it_has_and_takes_new_ones_again_when_told() {
    if !may_run() {
        return;
    }
    let mut story = Story::begin();
    let before = story.interfaces();
    let streams = story.clients().map(|client| story.stream(client));
    let drained = drain(&story.mesh, &[]);
    assert_eq!(drained.status.code(), Some(0), "{}", text(&drained.stderr));
    let said = "nsmgr-2 takes no new connections: ready to stop\nforwarder-2 takes no new connections: ready to stop\n";
    assert_eq!(text(&drained.stdout), said);
    for who in NODE {
        let (status, why) = ready(&story.mesh, who);
        assert!(status == 503 && why.contains("drain: no new connections"), "{who}: {status} {why}");
    }
    let marker = story.mesh.journal_folder(2).join("quiesced");
    assert!(marker.exists(), "the next forwarder is told");
    let told = json!({"draining": true, "making": 0, "ready": true, "closing": false, "connections": 2});
    for process in listing(&story.mesh, 2)["processes"].as_array().unwrap() {
        assert_eq!(process["drain"], told, "{process:#}");
    }
    // New ones from this node and from the other.
    let wanted = format!("kernel://finance/{IFNAME}");
    let new = [2, 1].map(|node| story.mesh.client(node, &wanted).unwrap());
    for client in new {
        story.mesh.says(client, "no new connections are taken here until `nsm drain --undo`", START).unwrap();
    }
    // All that there were are asked for again meanwhile.
    streams[0].run_for(LIFE * 2).unwrap();
    assert_eq!(story.interfaces(), before);
    for client in new {
        assert_eq!(interfaces(story.mesh.pod_of(client).unwrap()).unwrap(), [], "{client}");
    }
    let undone = drain(&story.mesh, &["--undo"]);
    assert_eq!(undone.status.code(), Some(0), "{}", text(&undone.stderr));
    assert!(text(&undone.stdout).contains("forwarder-2 takes new connections\n"));
    assert!(!marker.exists(), "this forwarder goes on");
    for client in new {
        story.interface(client);
    }
    for who in NODE {
        assert_eq!(ready(&story.mesh, who).0, 200, "{who}");
    }
    for stream in streams {
        assert_whole(stream);
    }
    // Who is no process of the mesh may not.
    let mut other = Command::new("setpriv");
    other.args(["--reuid", "65534", "--clear-groups", "--"]).arg(program().unwrap());
    let refused = other.arg("drain").envs(environment(&story.mesh, 2)).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("/host/uid/65534/nsm"), "{}", text(&refused.stderr));
    assert_eq!(ready(&story.mesh, NODE[0]).0, 200);
}

/// What the removal of a mesh asks each node.
#[test]
fn a_node_that_closes_all_has_nothing_left_of_those_who_are_gone_either_and_serves_again_when_told() {
    if !may_run() {
        return;
    }
    // Nothing ends by itself.
    let mut story = Story::begin_with(LIFE * 30);
    let (local, remote, endpoint) = (story.local, story.remote, story.endpoint);
    let gone = story.mesh.client(2, &format!("kernel://finance/{IFNAME}")).unwrap();
    story.interface(gone);
    // One that only the journal knows of any more: its client is dead, and the processes are new.
    story.mesh.end(&[gone, NODE[0], NODE[1]], Signal::SIGKILL).unwrap();
    story.mesh.start_again(&NODE).unwrap();
    let is_ready = |(status, _): (u16, String)| status == 200;
    for who in NODE {
        let serves = || get(&story.mesh.metrics_socket(who), "/readyz").is_ok_and(is_ready);
        until_true(&format!("{who} is back"), START, serves).unwrap();
    }
    assert_eq!(story.mesh.journal(2).len(), 3);

    let closed = drain(&story.mesh, &["--close"]);
    assert_eq!(closed.status.code(), Some(0), "{}", text(&closed.stderr));
    let said = "nsmgr-2 has no connections and takes none: ready to stop\n\
                forwarder-2 has no connections and takes none: ready to stop\n";
    assert_eq!(text(&closed.stdout), said);
    assert_eq!(story.mesh.journal(2), Vec::<String>::new());
    for who in [local, gone, endpoint] {
        let pod = story.mesh.pod_of(who).unwrap();
        until_true(&format!("{who} has no interface"), START, || {
            interfaces(pod).is_ok_and(|all| all.is_empty())
        })
        .unwrap();
    }
    // Those that still run ask again, here and from the other node, and are told why not.
    for client in [local, remote] {
        story.mesh.says(client, "all are closed by command", START).unwrap();
    }
    assert_eq!(story.mesh.journal(2), Vec::<String>::new());
    assert_eq!(drain(&story.mesh, &["--undo"]).status.code(), Some(0));
    for client in [local, remote] {
        story.interface(client);
    }
}

/// What a rollout asks each node, once for each start of the forwarder.
#[test]
fn a_node_that_was_drained_and_killed_tells_what_became_of_its_connections() {
    if !may_run() {
        return;
    }
    let mut story = Story::begin();
    let streams = story.clients().map(|client| story.stream(client));
    let first = until("the forwarder tells of itself", START, || {
        Some(forwarder(&story.mesh)).filter(|told| told["instance"].is_string())
    })
    .unwrap();
    assert_eq!((&first["featureLevel"], &first["adoption"]["baseline"]), (&json!(1), &json!(0)), "{first:#}");
    assert_eq!(drain(&story.mesh, &[]).status.code(), Some(0));
    story.mesh.end(&NODE, Signal::SIGKILL).unwrap();
    story.mesh.start_again(&NODE).unwrap();
    until_true("the nsmgr is back", START, || {
        get(&story.mesh.metrics_socket(NODE[0]), "/readyz").is_ok_and(|(status, _)| status == 200)
    })
    .unwrap();
    let expected = json!({
        "baseline": 2, "recovered": 2, "closedByClient": 0, "lost": 0, "longestGapMilliseconds": 0, "quiesced": true,
    });
    let mut last = Value::Null;
    until_true("all are recovered", LIFE * 2, || {
        last = forwarder(&story.mesh);
        last["adoption"] == expected
    })
    .unwrap_or_else(|error| panic!("{error}: {last:#}"));
    assert_ne!(last["instance"], first["instance"], "another start");
    assert_eq!(last["drain"]["draining"], false, "a new process takes new connections");
    let mut wide = story.mesh.nodes()[1].command(program().unwrap());
    wide.args(["connections", "-o", "wide"]).envs(environment(&story.mesh, 2));
    let wide = text(&wide.output().unwrap().stdout);
    assert!(
        wide.starts_with("forwarder-2 found 2 connections after a stop: 2 recovered, 0 closed"),
        "{wide}"
    );
    for stream in streams {
        assert_whole(stream);
    }
}

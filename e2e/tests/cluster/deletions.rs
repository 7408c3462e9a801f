//! Whatever of the operator's is deleted comes back, and the mesh connects new clients again.

use std::{collections::BTreeSet, fs, time::Duration};

use crate::{
    kubectl::{Kubectl, eventually},
    mesh::{self, connected},
};

const LIMIT: Duration = Duration::from_mins(2);

/// What is deleted at once; all of the operator's of these kinds.
const GROUPS: [&str; 5] =
    ["rolebindings,clusterrolebindings", "services", "serviceaccounts", "deployments", "daemonsets"];

/// Objects that the operator made, by kind, name and uid.
fn made(k: &Kubectl, kinds: &str) -> BTreeSet<(String, String)> {
    let all = ["get", kinds, "--all-namespaces", "-l", OWN, "-o", "json"];
    let objects = k.get(&all);
    let word = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let object = |object: &serde_json::Value| {
        let name = format!("{} {}", word(&object["kind"]), word(&object["metadata"]["name"]));
        (name, word(&object["metadata"]["uid"]))
    };
    objects["items"].as_array().unwrap().iter().map(object).collect()
}

const OWN: &str = "app.kubernetes.io/managed-by=nsm-operator";

/// A client that was not there before gets its connection: until then its pod is not ready.
fn connects(k: &Kubectl, name: &str) {
    let sample =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../config/samples/client.yaml")).unwrap();
    let pod = sample.split("\n---\n").next().unwrap().replace("client-local", name);
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), pod).unwrap();
    k.apply(file.path().to_str().unwrap());
    let pod = format!("pod/{name}");
    k.run(&["-n", "nsm-demo", "wait", "--for=condition=Ready", &pod, "--timeout=120s"]);
    let link = k.text(&["-n", "nsm-demo", "exec", name, "-c", "app", "--", "ip", "route"]);
    assert!(link.contains("dev nsm-1"), "{link}");
    k.run(&["-n", "nsm-demo", "delete", "pod", name, "--wait=false"]);
}

#[test]
fn after_each_deletion_of_what_the_operator_made_a_new_client_is_connected() {
    let k = Kubectl::new();
    connected(&k);
    for (number, kinds) in GROUPS.into_iter().enumerate() {
        let before = made(&k, kinds);
        assert!(!before.is_empty(), "the operator made no {kinds}");
        k.run(&["delete", kinds, "--all-namespaces", "-l", OWN, "--wait=false"]);
        eventually(&format!("all {kinds} are made anew"), LIMIT, || {
            let now = made(&k, kinds);
            now.len() == before.len() && now.is_disjoint(&before)
        });
        eventually("the mesh is ready again", LIMIT, || mesh::is_ready(&k));
        connects(&k, &format!("client-new-{number}"));
    }
    eventually("the clients that were there are connected", LIMIT, || mesh::connections(&k) == 2);
}

#[test]
fn a_mesh_in_use_is_removed_when_its_nodes_have_closed_their_connections() {
    let k = Kubectl::new();
    connected(&k);
    let interface = |client: &str| {
        let show = ["-n", "nsm-demo", "exec", client, "-c", "app", "--", "ip", "-o", "link"];
        k.text(&show).contains("nsm-1")
    };
    assert!(interface("client-local") && interface("client-remote"));
    // Templates' endpoints end first, and their clients with them: these ones stay as long as their nodes let them.
    k.run(&["delete", "nsm", "default", "--timeout=120s"]);
    for client in ["client-local", "client-remote"] {
        eventually(&format!("{client} has no interface"), LIMIT, || !interface(client));
    }
    let events =
        k.text(&["-n", "nsm-operator", "get", "events.events.k8s.io", "-o", "jsonpath={.items[*].reason}"]);
    assert!(!events.contains("NodeNotDrained"), "every node answers: {events}");
    connected(&k);
}

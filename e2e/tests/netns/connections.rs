//! `nsm connections` on nodes with live connections.

use std::{
    collections::BTreeMap,
    process::{Command, Output},
};

use nsm_e2e::{
    mesh::{Mesh, START, Signal, Who, program},
    process::spawn,
    wait::{may_run, until, until_true},
};
use serde_json::Value;

use crate::story::{IFNAME, LIFE, Story, assert_whole};

/// Whom the command asks, and where it gets its identity: nothing else.
pub(crate) fn environment(mesh: &Mesh, node: usize) -> [(String, String); 2] {
    [
        ("NSM_CONNECT_TO".to_owned(), format!("unix://{}", mesh.nsmgr_socket(node).display())),
        ("SPIFFE_ENDPOINT_SOCKET".to_owned(), format!("unix://{}", mesh.workload_api().display())),
    ]
}

/// Runs the command on a node.
fn connections(mesh: &Mesh, node: usize, arguments: &[&str]) -> Output {
    let mut command = mesh.nodes()[node - 1].command(program().unwrap());
    command.arg("connections").args(arguments).envs(environment(mesh, node)).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// All that the command tells of a node.
pub(crate) fn listing(mesh: &Mesh, node: usize) -> Value {
    let output = connections(mesh, node, &["-o", "json"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let listing = text(&output.stdout);
    // How every token begins, as every JWT does.
    assert!(!listing.contains("eyJ"), "{listing}");
    let listing: Value = serde_json::from_str(&listing).unwrap();
    assert_eq!(listing["nsmgr"], format!("nsmgr-{node}"));
    listing
}

/// The connections of a node by client.
pub(crate) fn listed(mesh: &Mesh, node: usize) -> BTreeMap<String, Value> {
    let listing = listing(mesh, node);
    let all = listing["connections"].as_array().unwrap();
    all.iter().map(|one| (one["client"].as_str().unwrap().to_owned(), one.clone())).collect()
}

fn sides(client: &str, endpoint: &str) -> Value {
    serde_json::json!({"client": client, "endpoint": endpoint})
}

fn names(one: &Value) -> Vec<&str> {
    one["path"].as_array().unwrap().iter().map(|step| step["name"].as_str().unwrap()).collect()
}

#[test]
fn each_node_lists_its_connections_with_where_they_lead_and_what_was_sent() {
    if !may_run() {
        return;
    }
    let story = Story::begin();
    let (remote, local) = (story.remote.to_string(), story.local.to_string());
    let streams = story.clients().map(|client| story.stream(client));
    // A client that is new tells of its interface when it asks again, and so do the links of theirs.
    let counted = |one: &Value| one["bytes"]["fromClient"].as_u64().is_some_and(|bytes| bytes > 10_000);
    until_true("both nodes tell what was sent", LIFE * 2, || {
        let all: Vec<_> =
            [1, 2].into_iter().flat_map(|node| listed(&story.mesh, node).into_values()).collect();
        all.len() == 3 && all.iter().all(counted)
    })
    .unwrap();
    for stream in streams {
        assert_whole(stream);
    }
    let (one, two) = (listed(&story.mesh, 1), listed(&story.mesh, 2));
    assert_eq!((one.len(), two.len()), (1, 2));
    assert_eq!(one[&remote]["mechanism"], sides("KERNEL", "VXLAN"));
    assert_eq!(two[&remote]["mechanism"], sides("VXLAN", "KERNEL"));
    assert_eq!(two[&local]["mechanism"], sides("KERNEL", "KERNEL"));
    let far = ["nsc-1", "nsmgr-1", "forwarder-1", "nsmgr-2", "forwarder-2", "nse-1"];
    assert_eq!((names(&one[&remote]), names(&two[&remote])), (far.to_vec(), far.to_vec()));
    assert_eq!(names(&two[&local]), ["nsc-2", "nsmgr-2", "forwarder-2", "nse-1"]);
    let endpoints = nsm_e2e::interface::interfaces(story.mesh.pod_of(story.endpoint).unwrap()).unwrap();
    for (client, seen) in
        [(story.remote, &one[&remote]), (story.remote, &two[&remote]), (story.local, &two[&local])]
    {
        let interface = story.interface(client);
        let (address, peer) = (interface.address.unwrap().0, interface.peer.unwrap());
        assert_eq!(seen["addresses"]["client"][0], format!("{address}/32"), "{seen:#}");
        assert_eq!(seen["addresses"]["endpoint"][0], format!("{peer}/32"), "{seen:#}");
        let at_endpoint = endpoints.iter().find(|found| found.peer == Some(address)).unwrap();
        assert_eq!(seen["interface"], sides(IFNAME, &at_endpoint.name), "{seen:#}");
        assert_eq!(seen["featureLevel"], 1, "{seen:#}");
        assert_eq!((&seen["service"], &seen["endpoint"]), (&"finance".into(), &"nse-1".into()));
        assert_eq!((&seen["state"], &seen["error"]), (&"UP".into(), &Value::Null), "{seen:#}");
        assert_eq!((&seen["heals"], &seen["lastHeal"]), (&0.into(), &Value::Null), "{seen:#}");
        // By the kernel's own word: what the client sent is not less now.
        let links = story.mesh.pod_of(client).unwrap().list(&format!("-s link show dev {IFNAME}")).unwrap();
        for (key, direction) in [("fromClient", "tx"), ("toClient", "rx")] {
            let (told, now) =
                (seen["bytes"][key].as_u64().unwrap(), &links[0]["stats64"][direction]["bytes"]);
            assert!(told > 10_000 && told <= now.as_u64().unwrap(), "{key}: {told} of {now}");
        }
    }
    let table = text(&connections(&story.mesh, 2, &[]).stdout);
    let lines: Vec<_> = table.lines().collect();
    assert_eq!(lines.len(), 3, "{table}");
    let at = |line: &str, cell: &str| line.find(cell).unwrap_or_else(|| panic!("no {cell} in {table}"));
    assert_eq!(at(lines[0], "STATE"), at(lines[1], "UP "), "{table}");
    assert_eq!(at(lines[0], "MECHANISM"), at(lines[1], "VXLAN>KERNEL"), "{table}");
    assert!(!table.contains('\x1b') && !table.contains("LAST HEAL"), "{table}");
    let wide = text(&connections(&story.mesh, 1, &["-o", "wide"]).stdout);
    assert!(wide.contains(&far.join(" > ")), "{wide}");
}

/// Waits until the command shows this of a client's connection.
fn shows(mesh: &Mesh, node: usize, client: Who, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    let shown = until(what, START, || {
        last = listed(mesh, node).remove(&client.to_string())?;
        is(&last).then(|| last.clone())
    });
    shown.unwrap_or_else(|error| panic!("{error}; last seen: {last:#}"))
}

#[test]
fn what_is_down_is_shown_with_the_reason_and_what_was_healed_with_the_cause() {
    if !may_run() {
        return;
    }
    let mut story = Story::begin();
    let local = story.local;
    story.mesh.end(&[Who::Forwarder(2)], Signal::SIGKILL).unwrap();
    let down = shows(&story.mesh, 2, local, "it is down", |one| one["state"] == "DOWN");
    let error = down["error"].as_str().unwrap();
    assert!(!error.is_empty() && down["lastHeal"].is_null(), "{down:#}");
    let table = text(&connections(&story.mesh, 2, &[]).stdout);
    assert!(table.contains("ERROR") && table.contains("DOWN"), "{table}");
    story.mesh.start_again(&[Who::Forwarder(2)]).unwrap();
    let healed = shows(&story.mesh, 2, local, "it is up again", |one| one["state"] == "UP");
    assert_eq!((&healed["heals"], &healed["lastHeal"]["cause"]), (&1.into(), &down["error"]), "{healed:#}");
    assert!(
        healed["since"].as_str() > down["since"].as_str() || healed["since"] == down["since"],
        "{healed:#}"
    );
    assert_eq!(healed["error"], Value::Null);
    story.mesh.end(&[Who::Nsmgr(2)], Signal::SIGKILL).unwrap();
    story.mesh.start_again(&[Who::Nsmgr(2)]).unwrap();
    until_true("the nsmgr is back", START, || {
        connections(&story.mesh, 2, &[]).status.success() && listed(&story.mesh, 2).len() == 2
    })
    .unwrap();
    let taken = shows(&story.mesh, 2, local, "it was taken over", |one| !one["lastHeal"].is_null());
    assert!(taken["lastHeal"]["cause"].as_str().unwrap().contains("started anew"), "{taken:#}");
    let table = text(&connections(&story.mesh, 2, &[]).stdout);
    assert!(table.contains("LAST HEAL") && table.contains("started anew"), "{table}");
}

#[test]
fn exit_codes_say_what_is_wrong_and_standard_error_where() {
    if !may_run() {
        return;
    }
    let mesh = Mesh::start(LIFE).unwrap();
    until_true("an nsmgr without connections", START, || connections(&mesh, 1, &[]).status.success())
        .unwrap();
    let nothing = connections(&mesh, 1, &["-o", "json"]);
    assert_eq!(
        (nothing.status.code(), text(&nothing.stderr)),
        (Some(0), "nsm: nsmgr-1 has no connections\n".into())
    );
    let listing: Value = serde_json::from_slice(&nothing.stdout).unwrap();
    assert_eq!((&listing["nsmgr"], &listing["connections"]), (&"nsmgr-1".into(), &serde_json::json!([])));
    assert_eq!(text(&connections(&mesh, 1, &[]).stdout), "");

    let run = |program: &mut Command, own: (&str, &str)| {
        let command = program.arg("connections").envs(environment(&mesh, 1)).env(own.0, own.1);
        let output = command.output().unwrap();
        (output.status.code(), text(&output.stderr))
    };
    for (name, value, code, texts) in [
        ("NSM_CONNECT_TO", "unix:///nowhere/nsm.sock", 1, ["/nowhere/nsm.sock", "NSM_CONNECT_TO"]),
        (
            "SPIFFE_ENDPOINT_SOCKET",
            "unix:///nowhere/agent.sock",
            1,
            ["/nowhere/agent.sock", "SPIFFE_ENDPOINT_SOCKET"],
        ),
        (
            "NSM_CONNECT_TO",
            "tcp://10.77.0.1:5001",
            2,
            ["NSM_CONNECT_TO=\"tcp://10.77.0.1:5001\"", "unix:///path"],
        ),
    ] {
        let (status, error) = run(&mut Command::new(program().unwrap()), (name, value));
        assert_eq!(status, Some(code), "{error}");
        assert!(texts.iter().all(|text| error.contains(text)), "{error}");
    }
    assert_eq!(connections(&mesh, 1, &["-o", "yaml"]).status.code(), Some(2));
    // Another user of the host is another one than the mesh.
    let mut other = Command::new("setpriv");
    other.args(["--reuid", "65534", "--clear-groups", "--"]).arg(program().unwrap());
    let (status, error) = run(&mut other, ("NO_COLOR", "1"));
    assert_eq!(status, Some(1), "{error}");
    assert!(error.contains("/host/uid/65534/nsm") && error.contains("nsm.sock"), "{error}");
}

#[test]
fn a_watch_prints_every_change_outlives_the_nsmgr_and_ends_with_0_when_it_is_interrupted() {
    if !may_run() {
        return;
    }
    let mut story = Story::begin();
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut command = story.mesh.nodes()[1].command(program().unwrap());
    command.args(["connections", "-o", "json", "--watch"]).envs(environment(&story.mesh, 2));
    let mut child = spawn(&command, Some(log.reopen().unwrap())).unwrap();
    let counts = || -> Vec<usize> {
        let text = std::fs::read_to_string(log.path()).unwrap();
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.map(|listing| listing["connections"].as_array().unwrap().len()).collect()
    };
    until_true("what there is", START, || counts().first() == Some(&2)).unwrap();
    let third = story.mesh.client(2, &format!("kernel://finance/{IFNAME}")).unwrap();
    until_true("a third connection", START, || counts().last() == Some(&3)).unwrap();
    story.mesh.end(&[Who::Nsmgr(2)], Signal::SIGKILL).unwrap();
    story.mesh.start_again(&[Who::Nsmgr(2)]).unwrap();
    let before = counts().len();
    until_true("all three again", START, || counts().len() > before && counts().last() == Some(&3)).unwrap();
    story.mesh.end(&[third], Signal::SIGTERM).unwrap();
    until_true("two again", START, || counts().last() == Some(&2)).unwrap();
    let id = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(id, Signal::SIGINT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

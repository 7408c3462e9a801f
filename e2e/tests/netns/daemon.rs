//! What is around every process: its settings, its figures, its log and its end.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use nsm_e2e::{
    figures::{figures, get},
    mesh::{Mesh, START, Signal, Who, program},
    wait::{may_run, until, until_true},
};

use crate::story::{IFNAME, LIFE, Story, assert_silent};

const SOCKET: (&str, &str) = ("SPIFFE_ENDPOINT_SOCKET", "unix:///nowhere.sock");

/// What each process needs to get as far as to the bad value.
const PROCESSES: &[(&str, &[(&str, &str)])] = &[
    ("registry", &[SOCKET]),
    ("nsmgr", &[SOCKET]),
    ("forwarder", &[SOCKET]),
    ("nsc", &[SOCKET, ("NSM_NETWORK_SERVICES", "kernel://finance/nsm-1")]),
    ("nse", &[SOCKET, ("NSM_SERVICE_NAMES", "finance")]),
    ("identity standalone", &[]),
    ("identity agent", &[("NODE_NAME", "n"), ("NSM_AUTHORITY_URL", "tcp://a:1")]),
    ("identity authority", &[]),
];

/// Process, variable, bad value, and a word of what is allowed.
const BAD: &[(&str, &str, &str, &str)] = &[
    ("*", "NSM_LOG_LEVEL", "loud", "WARN"),
    ("*", "NSM_LISTEN_ON", "ftp://x", "unix://"),
    ("mesh", "SPIFFE_ENDPOINT_SOCKET", "", "unix://"),
    ("mesh", "NSM_NAME", " ", "name"),
    ("mesh", "NSM_MAX_TOKEN_LIFETIME", "0s", "10m"),
    ("mesh", "NSM_DIAL_TIMEOUT", "soon", "200ms"),
    ("mesh", "NSM_MAX_REQUESTS_IN_FLIGHT", "0", "from 1 to"),
    ("mesh", "NSM_MAX_IDENTITY_OUTAGE", "a day", "10m"),
    ("mesh", "NSM_METRICS_LISTEN_ON", "tcp://0.0.0.0:9090", "127.0.0.1"),
    ("nsmgr", "NSM_LISTEN_ON", "tcp://:5001", "address of this node"),
    ("nsmgr", "NSM_REGISTRY_URL", "http:///", "tcp://"),
    ("nsmgr", "NSM_FORWARDER_NETWORK_SERVICE_NAME", "", "name"),
    ("forwarder", "NSM_CONNECT_TO", "ftp://x", "unix://"),
    ("forwarder", "NSM_NSNAME", "", "name"),
    ("forwarder", "NSM_LABELS", "p2p", "key:value"),
    ("forwarder", "NSM_TUNNEL_IP", "node1", "IP address"),
    ("forwarder", "NSM_VXLAN_PORT", "65536", "65535"),
    ("nsc", "NSM_CONNECT_TO", "ftp://x", "unix://"),
    ("nsc", "NSM_NETWORK_SERVICES", "", "kernel://"),
    ("nsc", "NSM_REQUEST_TIMEOUT", "-1s", "15s"),
    ("nse", "NSM_CONNECT_TO", "ftp://x", "unix://"),
    ("nse", "NSM_SERVICE_NAMES", "", "at least one"),
    ("nse", "NSM_PAYLOAD", "UDP", "ETHERNET or IP"),
    ("nse", "NSM_LABELS", "app", "key:value"),
    ("nse", "NSM_CIDR_PREFIX", "172.16.0.0/33", "172.16.0.0/24"),
    ("nse", "NSM_REGISTER_SERVICE", "maybe", "true or false"),
    ("nse", "NSM_UNREGISTER_ITSELF", "", "true or false"),
    ("identity standalone", "NSM_SVID_LIFETIME", "1 fortnight", "10m"),
    ("identity standalone", "NSM_TRUST_DOMAIN", "", "name"),
    ("identity agent", "NODE_NAME", "", "name"),
    ("identity agent", "NSM_AUTHORITY_URL", "", "unix://"),
    ("identity agent", "NSM_BUNDLE_CONFIG_MAP", "bundle", "namespace/name"),
    ("identity authority", "NSM_SVID_LIFETIME", "", "10m"),
    ("identity authority", "NSM_ROOT_SECRET", "/", "namespace/name"),
    ("identity authority", "NSM_AGENT_SERVICE_ACCOUNT", "agent", "namespace/name"),
];

fn takes(process: &str, whom: &str) -> bool {
    match whom {
        "*" => true,
        "mesh" => !process.starts_with("identity"),
        one => process == one,
    }
}

#[test]
fn every_bad_setting_ends_its_process_with_2_and_names_variable_value_and_what_is_allowed() {
    let program = program().unwrap();
    let mut tried = 0;
    for (process, needed) in PROCESSES {
        for (_, name, value, allowed) in BAD.iter().filter(|(whom, ..)| takes(process, whom)) {
            let mut command = Command::new(&program);
            command.env_clear().args(process.split(' ')).envs(needed.iter().copied()).env(name, value);
            let output = command.output().unwrap();
            let error = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(2), "{process} {name}={value}: {error}");
            for text in [name, value, allowed] {
                assert!(error.contains(text), "{process} {name}={value}: no {text} in: {error}");
            }
            tried += 1;
        }
    }
    assert!(tried > 60, "{tried}");
}

#[test]
fn a_policy_that_cannot_be_used_ends_its_process_with_2_before_it_serves() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("own.rego");
    std::fs::write(&file, "package nsm\nvalid if true").unwrap();
    let file = (file.to_str().unwrap(), "a rego v0 module of package nsm is needed");
    let [pattern, missing] = ["/nowhere/.*.rego", "/nowhere/x.rego"].map(|mask| (mask, "no file is there"));
    for (name, (mask, reason)) in [
        ("NSM_SERVER_POLICIES", pattern),
        ("NSM_REGISTRY_SERVER_POLICIES", missing),
        ("NSM_SERVER_POLICIES", file),
        ("NSM_CLIENT_POLICIES", file),
        ("NSM_MONITOR_POLICIES", file),
        ("NSM_REGISTRY_SERVER_POLICIES", file),
        ("NSM_REGISTRY_CLIENT_POLICIES", file),
    ] {
        let mut command = Command::new(program().unwrap());
        command.env_clear().arg("registry").envs([SOCKET, ("NSM_METRICS_LISTEN_ON", "")]).env(name, mask);
        let output = command.output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{name}={mask}: {error}");
        assert!(error.contains(name) && error.contains(mask) && error.contains(reason), "{error}");
    }
}

#[test]
fn a_process_shows_what_it_does_and_that_it_is_ready() {
    if !may_run() {
        return;
    }
    let story = Story::begin();
    let socket = |who| story.mesh.metrics_socket(who);
    for who in [Who::Registry, Who::Nsmgr(1), Who::Nsmgr(2), Who::Forwarder(2), story.endpoint, story.local] {
        until_true(&format!("{who} is ready"), START, || get(&socket(who), "/readyz").unwrap().0 == 200)
            .unwrap();
        assert_eq!(get(&socket(who), "/livez").unwrap(), (200, "ok\n".to_owned()));
    }
    let seen = figures(&socket(Who::Nsmgr(2))).unwrap();
    assert!(seen["nsm_requests_total{result=\"ok\"}"] >= 2, "{seen:#?}");
    assert_eq!(seen["nsm_connections"], 2, "{seen:#?}");
    assert!(seen["nsm_svid_expires_seconds"] > 1_700_000_000, "{seen:#?}");
    // Refreshes: no connection is made for them, however many there are.
    let refreshed = |socket| figures(socket).unwrap()["nsm_refreshes_total"];
    let client = socket(story.local);
    let before = (figures(&client).unwrap(), figures(&socket(Who::Nsmgr(2))).unwrap());
    let enough = before.0["nsm_refreshes_total"] + 3;
    until_true("three refreshes", START, || refreshed(&client) >= enough).unwrap();
    let after = (figures(&client).unwrap(), figures(&socket(Who::Nsmgr(2))).unwrap());
    for name in ["nsm_dials_total", "nsm_accepted_total"] {
        assert_eq!((before.0[name], before.1[name]), (after.0[name], after.1[name]), "{name}");
    }
    let calls = "nsm_calls_total{method=\"/networkservice.NetworkService/Request\"}";
    assert!(after.0[calls] - before.0[calls] >= 3);
}

#[test]
fn a_registry_shows_what_it_keeps_and_an_nsmgr_what_it_knows_of_that() {
    if !may_run() {
        return;
    }
    let mut mesh = Mesh::start(LIFE).unwrap();
    let endpoint = mesh.endpoint(2, "finance,reports", &[("NSM_UNREGISTER_ITSELF", "true")]).unwrap();
    let client = mesh.client(1, &format!("kernel://finance/{IFNAME}")).unwrap();
    mesh.connected(client, IFNAME).unwrap();
    let shows = |mesh: &Mesh, who: Who, expected: &[(&str, u64)]| {
        let mut seen = Vec::new();
        until_true(&format!("{who} shows {expected:?}"), START, || {
            let figures = figures(&mesh.metrics_socket(who)).unwrap();
            seen = expected.iter().map(|(name, _)| (*name, figures[*name])).collect();
            seen == expected
        })
        .unwrap_or_else(|error| panic!("{error}, not {seen:?}"));
    };
    let registered = |services, endpoints| {
        [("nsm_services_registered", services), ("nsm_endpoints_registered", endpoints)]
    };
    let indexed =
        |services, endpoints| [("nsm_services_indexed", services), ("nsm_endpoints_indexed", endpoints)];
    shows(&mesh, Who::Registry, &registered(2, 1));
    // One service is in use here, and none there but for what the endpoint itself is.
    shows(&mesh, Who::Nsmgr(1), &indexed(1, 1));
    shows(&mesh, Who::Forwarder(1), &indexed(1, 1));
    let watches = ["nsm_services_watches", "nsm_endpoints_watches"];
    let seen = figures(&mesh.metrics_socket(Who::Registry)).unwrap();
    assert!(watches.iter().all(|name| seen[*name] > 0), "{seen:#?}");
    mesh.end(&[client, endpoint], Signal::SIGTERM).unwrap();
    shows(&mesh, Who::Registry, &registered(2, 0));
    shows(&mesh, Who::Nsmgr(1), &indexed(1, 0));
    mesh.end(&[Who::Nsmgr(1), Who::Nsmgr(2)], Signal::SIGKILL).unwrap();
    shows(&mesh, Who::Registry, &watches.map(|name| (name, 0)));
}

#[test]
fn a_new_connection_on_known_ways_is_three_calls_and_no_dial_and_asks_no_registry() {
    if !may_run() {
        return;
    }
    let mut story = Story::begin();
    let whom = [Who::Nsmgr(2), Who::Forwarder(2), story.endpoint];
    let mesh = &story.mesh;
    let read = |who| figures(&mesh.metrics_socket(who)).unwrap();
    let before = whom.map(read);
    let registry = read(Who::Registry)["nsm_accepted_total"];
    // All of its process is new; what it asks is known.
    let client = story.mesh.client(2, &format!("kernel://finance/{IFNAME}")).unwrap();
    story.mesh.connected(client, IFNAME).unwrap();
    let mesh = &story.mesh;
    let read = |who| figures(&mesh.metrics_socket(who)).unwrap();
    let after = whom.map(read);
    for (who, (before, after)) in whom.iter().zip(before.iter().zip(&after)) {
        assert_eq!(before["nsm_dials_total"], after["nsm_dials_total"], "{who} dialled");
    }
    assert_eq!(registry, read(Who::Registry)["nsm_accepted_total"]);
    let client = read(client);
    let calls = "nsm_calls_total{method=\"/networkservice.NetworkService/Request\"}";
    assert_eq!((client[calls], client["nsm_dials_total"]), (1, 1));
    assert_eq!((client["nsm_tokens_signed_total"], client["nsm_tokens_verified_total"]), (1, 1));
}

#[test]
fn a_process_without_an_identity_lives_and_says_why_it_is_not_ready() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("metrics.sock");
    let mut command = Command::new(program().unwrap());
    command.env_clear().arg("registry");
    command.env("SPIFFE_ENDPOINT_SOCKET", "unix:///nowhere.sock");
    command.env("NSM_METRICS_LISTEN_ON", format!("unix://{}", socket.display()));
    command.env("NSM_SURPRISE", "secret");
    let log = std::fs::File::create(folder.path().join("log")).unwrap();
    let mut child = nsm_e2e::process::spawn(&command, Some(log)).unwrap();
    let answered = until("an answer", START, || get(&socket, "/readyz").ok());
    let lives = get(&socket, "/livez");
    child.kill().unwrap();
    child.wait().unwrap();
    let (status, reasons) = answered.unwrap();
    assert_eq!(status, 503, "{reasons}");
    assert!(reasons.contains("identity: ") && reasons.contains("nowhere.sock"), "{reasons}");
    assert_eq!(lives.unwrap().0, 200);
    let log = std::fs::read_to_string(folder.path().join("log")).unwrap();
    let begin = log.lines().find(|line| line.contains("\"settings\"")).unwrap_or_else(|| panic!("{log}"));
    assert!(begin.contains("SPIFFE_ENDPOINT_SOCKET=unix:///nowhere.sock"), "{begin}");
    assert!(begin.contains("NSM_SURPRISE") && !log.contains("secret"), "{begin}");
}

#[test]
fn signals_raise_the_log_level_of_a_running_process_and_put_it_back() {
    if !may_run() {
        return;
    }
    let mut mesh = Mesh::start(LIFE).unwrap();
    let who = Who::Registry;
    until_true("the registry is ready", START, || {
        get(&mesh.metrics_socket(who), "/readyz").is_ok_and(|(status, _)| status == 200)
    })
    .unwrap();
    mesh.process(who).unwrap().signal(Signal::SIGUSR1).unwrap();
    mesh.says(who, "the log level is changed\",\"to\":\"trace", START).unwrap();
    // Something to say.
    mesh.endpoint(2, "finance", &[]).unwrap();
    mesh.says(who, "\"level\":\"TRACE\"", START).unwrap();
    mesh.process(who).unwrap().signal(Signal::SIGUSR2).unwrap();
    mesh.says(who, "the log level is changed\",\"to\":\"debug", START).unwrap();
}

#[test]
fn a_process_that_is_told_twice_to_stop_ends_at_once_and_no_connection_notices() {
    if !may_run() {
        return;
    }
    let mut story = Story::begin();
    let watched = story.watch();
    // A Request that nobody answers is in flight when the nsmgr is to stop.
    story.mesh.process(Who::Forwarder(2)).unwrap().signal(Signal::SIGSTOP).unwrap();
    let socket = story.mesh.metrics_socket(Who::Nsmgr(2));
    let _third = story.mesh.client(2, &format!("kernel://finance/{IFNAME}")).unwrap();
    let in_flight = || figures(&socket).is_ok_and(|seen| seen["nsm_requests_in_flight"] > 0);
    until_true("a Request is in flight", START, in_flight).unwrap();
    story.mesh.process(Who::Nsmgr(2)).unwrap().signal(Signal::SIGTERM).unwrap();
    let stopping =
        || get(&socket, "/readyz").is_ok_and(|(status, why)| status == 503 && why.contains("stop"));
    until_true("the nsmgr says that it stops", START, stopping).unwrap();
    let before = Instant::now();
    let status = story.mesh.end_status(Who::Nsmgr(2), Signal::SIGTERM).unwrap();
    assert!(before.elapsed() < Duration::from_secs(2), "{:?}", before.elapsed());
    assert_eq!(status.code(), Some(1));
    story.mesh.process(Who::Forwarder(2)).unwrap().signal(Signal::SIGCONT).unwrap();
    assert_silent(watched);
    story.mesh.start_again(&[Who::Nsmgr(2)]).unwrap();
}

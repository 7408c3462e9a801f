//! The program on the command line.

use std::{
    process::{Command, Output},
    time::{Duration, Instant},
};

use nsm_e2e::{
    mesh::{Mesh, Signal, Who, program},
    wait::{may_run, until_true},
};

use crate::story::{LIFE, Story};

/// Runs `nsm health` in the environment of a process.
fn health(mesh: &Mesh, who: Who) -> Output {
    let mut command = mesh.nodes()[0].command(program().unwrap());
    command.args(["health", "--timeout", "2s"]);
    command.envs(mesh.environment(who).unwrap()).output().unwrap()
}

#[test]
fn health_is_0_for_a_process_that_serves_and_1_for_one_that_does_not() {
    if !may_run() {
        return;
    }
    let mut mesh = Mesh::start(LIFE).unwrap();
    for who in [Who::Nsmgr(1), Who::Forwarder(1), Who::Registry] {
        let serves = || health(&mesh, who).status.code() == Some(0);
        until_true(&format!("{who} serves"), nsm_e2e::mesh::START, serves).unwrap();
    }
    mesh.end(&[Who::Nsmgr(1)], Signal::SIGKILL).unwrap();
    let output = health(&mesh, Who::Nsmgr(1));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("nsm.sock"), "what was asked is not named: {error}");
}

#[test]
fn a_bad_setting_ends_with_2_and_names_variable_value_and_what_is_allowed() {
    let mut command = Command::new(program().unwrap());
    command.env_clear().arg("nsc").env("SPIFFE_ENDPOINT_SOCKET", "unix:///nowhere.sock");
    command.env("NSM_MAX_TOKEN_LIFETIME", "soon").env("NSM_NETWORK_SERVICES", "memif://finance");
    let output = command.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{error}");
    // All mistakes at once.
    for text in
        ["NSM_MAX_TOKEN_LIFETIME", "soon", "200ms", "NSM_NETWORK_SERVICES", "memif://finance", "kernel://"]
    {
        assert!(error.contains(text), "{text} is not in: {error}");
    }
}

#[test]
fn a_process_that_is_told_to_stop_does_not_wait_for_those_who_watch_it() {
    if !may_run() {
        return;
    }
    let mut story = Story::begin();
    // Both clients and the forwarder have streams open that never end by themselves.
    let before = Instant::now();
    story.mesh.end(&[Who::Nsmgr(2), Who::Forwarder(2), Who::Registry], Signal::SIGTERM).unwrap();
    assert!(before.elapsed() < Duration::from_secs(3), "{:?}", before.elapsed());
}

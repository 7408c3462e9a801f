//! SPIFFE's own client on our Workload API: SVIDs and bundles of both kinds, all of it used anew
//! after each change, while the CA changes over and the process that serves is started anew.

use std::{path::Path, process::Command, time::Duration};

use nsm_e2e::{
    mesh::{Signal, program},
    netns::Netns,
    process::{Process, Recipe},
    wait::{may_run, until, until_true},
};

use crate::upstream::peers;

/// Short, so that all phases of a rotation pass: each lasts a little longer.
const SVID_LIFE: Duration = Duration::from_secs(10);

const LIMIT: Duration = Duration::from_secs(30);

fn process(folder: &Path, name: &str, program: &Path, arguments: &[&str]) -> Process {
    let socket = format!("unix://{}", folder.join("agent.sock").display());
    let environment = [
        ("NSM_LISTEN_ON", socket.clone()),
        ("SPIFFE_ENDPOINT_SOCKET", socket),
        ("NSM_BASE_DIR", folder.join("ca").display().to_string()),
        ("NSM_SVID_LIFETIME", format!("{}s", SVID_LIFE.as_secs())),
        ("NSM_LOG_LEVEL", "debug".to_owned()),
    ];
    let recipe = Recipe {
        name: name.to_owned(),
        netns: Netns::own().unwrap(),
        program: program.to_owned(),
        arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
        environment: environment.map(|(name, value)| (name.to_owned(), value)).into(),
        log: folder.join(format!("{name}.log")),
    };
    Process::start(recipe).unwrap()
}

/// What `nsm identity rotate` prints.
fn rotate(folder: &Path) -> String {
    let socket = format!("unix://{}", folder.join("agent.sock").display());
    let mut command = Command::new(program().unwrap());
    let output = command.args(["identity", "rotate"]).env("NSM_LISTEN_ON", socket).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn spiffes_own_client_takes_all_that_the_workload_api_gives_and_outlives_a_rotation() {
    if !may_run() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let mut server = process(folder, "identity", &program().unwrap(), &["identity", "standalone"]);
    until_true("the socket", LIMIT, || folder.join("agent.sock").exists()).unwrap();
    let mut client = process(folder, "client", &peers(), &["identity"]);
    let says = |client: &Process, text: &str, times: usize| {
        let said = || (client.log().matches(text).count() >= times).then_some(());
        until(&format!("the client says {text:?}"), LIMIT, said)
            .unwrap_or_else(|error| panic!("{error}\n{}", client.log_tail(20)));
    };
    says(&client, "all holds with 1 CAs and 1 keys", 1);
    assert!(client.log().contains("spiffe://host.nsm/host/uid/0/peers"), "{}", client.log());

    assert!(rotate(folder).contains("it signs from"));
    says(&client, "all holds with 2 CAs and 2 keys", 1);
    // In the middle of it the process is killed; it goes on where it was.
    server.signal(Signal::SIGKILL).unwrap();
    server.ended().unwrap();
    server.start_again().unwrap();
    says(&client, "all holds with 2 CAs and 2 keys", 3);
    let before = client.log().matches("all holds with 1 CAs and 1 keys").count();
    says(&client, "all holds with 1 CAs and 1 keys", before + 1);

    client.signal(Signal::SIGTERM).unwrap();
    assert!(client.ended().unwrap().success(), "{}", client.log_tail(20));
    let log = client.log();
    assert!(!log.contains("x509: ") && !log.contains("could not verify"), "{log}");
}

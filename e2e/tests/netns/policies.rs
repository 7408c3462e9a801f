//! Users' policies, from files, at each place where they are asked.

use std::path::{Path, PathBuf};

use nsm_components::{
    api::{
        PathSegment,
        connection::{MonitorScopeSelector, monitor_connection_client::MonitorConnectionClient},
    },
    transport::Channel,
};
use nsm_e2e::{
    mesh::{Mesh, START, Who},
    netns::Netns,
    wait::may_run,
};
use tonic::{Code, Request, Status};

use crate::{
    story::{IFNAME, LIFE},
    stranger::{LIMIT, Stranger},
};

/// The next process signed its token with the key that it shows.
const NEXT_SIGNED: &str = r"
package nsm

default valid = false
default index = 0

index = input.index

valid {
    next := input.path_segments[index + 1].token
    io.jwt.verify_es256(next, input.auth_info.certificate)
}
";

/// The same, and some more that nobody is.
const NEXT_IS_NOBODY: &str = r"
package nsm

default valid = false

valid {
    [_, claims, _] := io.jwt.decode(input.path_segments[_].token)
    claims.sub == `spiffe://host.nsm/nobody`
}
";

/// The program of this test watches those connections alone that it names, and has; all others as they like.
const OWN_BY_NAME: &str = r"
package nsm

default valid = false

valid {
    not endswith(input.service_spiffe_id, `/PROGRAM`)
}

valid {
    input.spiffe_id_connection_map[input.service_spiffe_id][_] == input.selector_connection_ids[_]
}
";

fn policy(folder: &Path, name: &str, text: &str) -> PathBuf {
    let file = folder.join(name);
    std::fs::write(&file, text).unwrap();
    file
}

fn refusal(file: &Path) -> String {
    format!("no sufficient privileges: by {}", file.display())
}

#[test]
fn what_a_client_and_an_endpoint_get_back_is_judged_by_their_users_policies() {
    if !may_run() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let allows = policy(folder.path(), "signed.rego", NEXT_SIGNED);
    let denies = policy(folder.path(), "nobody.rego", NEXT_IS_NOBODY);
    let masks = [&allows, &denies].map(|file| file.to_str().unwrap().to_owned());
    let mut mesh = Mesh::start(LIFE).unwrap();

    let registers = |mask: &str| [("NSM_REGISTRY_CLIENT_POLICIES", mask.to_owned())];
    let endpoint = |mesh: &mut Mesh, mask: &str| {
        let settings = registers(mask);
        let settings = settings.each_ref().map(|(name, mask)| (*name, mask.as_str()));
        mesh.endpoint(2, "finance", &settings).unwrap()
    };
    let refused = endpoint(&mut mesh, &masks[1]);
    mesh.says(refused, &refusal(&denies), START).unwrap();
    let waits = mesh.client(1, &format!("kernel://finance/{IFNAME}")).unwrap();
    mesh.says(waits, "not connected", START).unwrap();
    let serves = endpoint(&mut mesh, &masks[0]);
    mesh.says(serves, "\"registered\"", START).unwrap();
    mesh.connected(waits, IFNAME).unwrap();
    assert!(!mesh.process(refused).unwrap().log().contains("\"registered\""));

    let before = mesh.traces().unwrap();
    let client = |mesh: &mut Mesh, mask: &str| -> Who {
        let services = format!("kernel://finance/{IFNAME}");
        mesh.client_with(1, &services, &[("NSM_CLIENT_POLICIES", mask)]).unwrap()
    };
    let refused = client(&mut mesh, &masks[1]);
    mesh.says(refused, &refusal(&denies), START).unwrap();
    mesh.end(&[refused], nsm_e2e::mesh::Signal::SIGTERM).unwrap();
    assert_eq!(mesh.traces().unwrap(), before, "what the client refused was taken down");
    let connects = client(&mut mesh, &masks[0]);
    mesh.connected(connects, IFNAME).unwrap();
}

/// Opens a watch of these connections; answers those that it is told of first.
async fn watch(channel: &Channel, id: &str) -> Result<Vec<String>, Status> {
    let segment = PathSegment { id: id.into(), ..Default::default() };
    let path_segments = if id.is_empty() { Vec::new() } else { vec![segment] };
    let mut call = Request::new(MonitorScopeSelector { path_segments, ..Default::default() });
    channel.token(LIMIT).unwrap().write(call.metadata_mut());
    call.set_timeout(LIMIT);
    let mut client = MonitorConnectionClient::new(channel.grpc.clone());
    let mut events = client.monitor_connections(call).await?.into_inner();
    Ok(events.message().await?.unwrap().connections.into_keys().collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_watch_connections_is_judged_by_users_policies() {
    if !may_run() {
        return;
    }
    let program = std::env::current_exe().unwrap();
    let program = program.file_name().unwrap().to_str().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = policy(folder.path(), "own.rego", &OWN_BY_NAME.replace("PROGRAM", program));
    let mut mesh = Mesh::start_with(LIFE, &[("NSM_MONITOR_POLICIES", file.to_str().unwrap())]).unwrap();
    mesh.endpoint(1, "finance", &[]).unwrap();
    let client = mesh.client(1, &format!("kernel://finance/{IFNAME}")).unwrap();
    mesh.connected(client, IFNAME).unwrap();
    let pod = mesh.empty_pod(1).unwrap();
    let pod: Netns = mesh.pod_of(pod).unwrap().clone();

    let stranger = Stranger::of(&mesh);
    assert!(stranger.id.ends_with(program), "{}", stranger.id);
    let nsmgr = stranger.channel(&mesh.nsmgr_socket(1)).await;
    let denied = async |id: &str| {
        let status = watch(&nsmgr, id).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
        assert!(status.message().contains(&refusal(&file)), "{status:?}");
    };
    denied("strange").await;
    let own = stranger.ask(&nsmgr, &pod, Some(&nsmgr.token(LIFE).unwrap())).await.unwrap();
    assert_eq!(watch(&nsmgr, "strange").await.unwrap().len(), 1);
    denied("").await;
    denied(&format!("{client}-0")).await;
    stranger.close(&nsmgr, own, &pod).await.unwrap();
    denied("strange").await;
    // The client has one open, and so has the nsmgr with its forwarder.
    assert!(!mesh.process(client).unwrap().log().contains("sufficient privileges"));
}

//! Who may not is refused on both sides: ours by upstream, and upstream's by us.

use nsm_e2e::{
    mesh::{Mesh, START, Who},
    wait::may_run,
};
use tonic::Code;

use crate::{
    stranger::Stranger,
    upstream::{IFNAME, LATE, LIFE, Upstream},
};

#[test]
fn clients_of_upstream_with_wrong_tokens_are_refused_and_see_it() {
    if !may_run() {
        return;
    }
    let mut mesh = Mesh::start(LIFE).unwrap();
    let endpoint = mesh.endpoint(2, "finance", &[]).unwrap();
    mesh.says(endpoint, "\"registered\"", START).unwrap();
    let wrong = [
        ("expired", "expired"),
        ("audience", "is for spiffe://host.nsm/host/uid/0/elsewhere"),
        ("subject", "brought a token of spiffe://host.nsm/host/uid/0/another"),
        ("key", "not signed by the peer that brought it"),
    ];
    let clients = wrong.map(|(tokens, why)| {
        let pod = mesh.empty_pod(2).unwrap();
        let services = format!("kernel://finance/{IFNAME}");
        (Upstream::client_with(&mesh, pod, 2, &services, &[("NSM_WRONG_TOKENS", tokens)]), why)
    });
    for (client, why) in clients {
        let said = client.says("request 1 failed", START);
        assert!(said.contains("PermissionDenied") && said.contains(why), "{why}: {said}");
        assert!(client.answered().is_empty());
    }
    assert_eq!(mesh.traces().unwrap(), Vec::<String>::new());
}

#[test]
fn an_endpoint_of_upstream_that_takes_the_name_of_ours_is_refused_and_sees_it() {
    if !may_run() {
        return;
    }
    let mut mesh = Mesh::start(LIFE).unwrap();
    let owner = mesh.endpoint(2, "finance", &[]).unwrap();
    mesh.says(owner, "\"registered\"", START).unwrap();
    let pod = mesh.empty_pod(1).unwrap();
    let taken = owner.to_string();
    let (thief, _) = Upstream::endpoint_with(&mesh, pod, 1, "finance", &[("NSM_NAME", &taken)]);
    let said = thief.says("try attempt has failed", START);
    assert!(said.contains(&taken) && said.contains("spiffe://host.nsm/host/uid/0/nse-1"), "{said}");
    let watcher = Upstream::watcher(&mesh, 1, "finance");
    watcher.says(&format!("there is {taken}"), START);
}

#[test]
fn an_endpoint_of_ours_that_takes_the_name_of_one_of_upstream_is_refused_and_says_so() {
    if !may_run() {
        return;
    }
    let mut mesh = Mesh::start(LIFE).unwrap();
    let _registry = Upstream::registry(&mut mesh);
    let _nsmgrs = [1, 2].map(|node| Upstream::nsmgr(&mut mesh, node));
    let pod = mesh.empty_pod(2).unwrap();
    let (owner, name) = Upstream::endpoint(&mesh, pod, 2, "finance");
    owner.says(&format!("registered {name}"), START);
    let thief = mesh.endpoint(1, "finance", &[("NSM_NAME", &name)]).unwrap();
    let said = mesh.says(thief, "no sufficient privileges", START).unwrap();
    assert!(said.contains("WARN") || said.contains("ERROR"), "{said}");
    assert!(!mesh.process(thief).unwrap().log().contains("\"registered\""));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_of_ours_with_wrong_tokens_is_refused_by_an_nsmgr_of_upstream() {
    if !may_run() {
        return;
    }
    let mut mesh = Mesh::start(LIFE).unwrap();
    let _nsmgr = Upstream::nsmgr(&mut mesh, 1);
    let endpoint = mesh.endpoint(1, "finance", &[]).unwrap();
    mesh.says(endpoint, "\"registered\"", START).unwrap();
    let pod = mesh.empty_pod(1).unwrap();
    let pod = mesh.pod_of(pod).unwrap();
    let stranger = Stranger::of(&mesh);
    let nsmgr = stranger.channel(&mesh.nsmgr_socket(1)).await;
    let elsewhere = stranger.channel(&mesh.nsmgr_socket(2)).await;
    let expired = nsmgr.token(std::time::Duration::from_secs(1)).unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(2100)).await;
    let forged = stranger.forged(&nsmgr);
    let elsewhere = elsewhere.token(LIFE).unwrap();
    for wrong in [None, Some(&expired), Some(&forged), Some(&elsewhere)] {
        let refused = stranger.ask(&nsmgr, pod, wrong).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
        assert!(refused.message().contains("no sufficient privileges"), "{refused}");
    }
    assert_eq!(mesh.traces().unwrap(), Vec::<String>::new());
    // The right one is taken, so all else was right.
    let connection = stranger.ask(&nsmgr, pod, Some(&nsmgr.token(LIFE).unwrap())).await.unwrap();
    stranger.close(&nsmgr, connection, pod).await.unwrap();
    mesh.is_clean(LATE).unwrap();
    assert!(mesh.process(Who::Forwarder(1)).unwrap().id().is_some());
}

use std::{os::fd::OwnedFd, sync::Arc, time::Duration};

use super::*;
use crate::{
    api::peer::Peer,
    chain::{Caller, RegistryChain},
    elements::registry::Store,
    transport::file_key,
};

const POD: &str = "spiffe://d/ns/demo/sa/default/pod/a";
const OTHER: &str = "spiffe://d/ns/demo/sa/default/pod/b";
const FORWARDER: &str = "spiffe://d/ns/nsm-system/sa/forwarder/node/n1";

fn chain() -> (LocalEntries, RegistryChain<NetworkServiceEndpoint>) {
    let local = LocalEntries::default();
    let trust = Trust::new(&[], "spiffe://d/ns/nsm-system/sa/nsmgr/node/n1");
    let bypass = LocalBypass::new("tcp://10.0.0.1:5001", "forwarder", local.clone(), trust);
    (local, RegistryChain::new([Arc::new(bypass) as Arc<dyn RegistryElement<_>>]))
}

/// A call of this process, with a socket beside it, and the socket's URL.
fn call(id: &str) -> (RegistryCx, String) {
    let (socket, _) = std::os::unix::net::UnixStream::pair().unwrap();
    let socket = Arc::new(OwnedFd::from(socket));
    let key = file_key(&socket).unwrap();
    let mut cx = RegistryCx::within(Duration::from_secs(1));
    cx.files.insert(key, socket);
    let peer = Peer { id: id.into(), public_key: Vec::new(), not_after: 0 };
    cx.caller = Some(Arc::new(Caller::test(peer)));
    (cx, key.to_string())
}

async fn register(
    chain: &RegistryChain<NetworkServiceEndpoint>,
    id: &str,
    name: &str,
    service: &str,
    url: Option<&str>,
) -> Result<NetworkServiceEndpoint> {
    let (cx, own) = call(id);
    let entry = NetworkServiceEndpoint {
        name: name.into(),
        network_service_names: vec![service.into()],
        url: url.map_or(own, str::to_owned),
        path_ids: vec![id.into()],
        ..Default::default()
    };
    chain.start().register(&cx, entry).await
}

#[tokio::test]
async fn nobody_takes_or_removes_anothers_name() {
    let (local, chain) = chain();
    register(&chain, POD, "nse", "finance", None).await.unwrap();
    assert_eq!(register(&chain, OTHER, "nse", "finance", None).await.unwrap_err().kind, Kind::Denied);
    let entry = |id: &str| NetworkServiceEndpoint {
        name: "nse".into(),
        path_ids: vec![id.into()],
        ..Default::default()
    };
    let refused = chain.start().unregister(&call(OTHER).0, entry(OTHER)).await.unwrap_err();
    assert_eq!(refused.kind, Kind::Denied);
    assert!(local.get("nse").is_some());
    chain.start().unregister(&call(POD).0, entry(POD)).await.unwrap();
    assert!(local.is_empty());
}

#[tokio::test]
async fn only_processes_of_the_mesh_offer_forwarders_and_register_addresses() {
    let (local, chain) = chain();
    assert_eq!(register(&chain, POD, "a", "forwarder", None).await.unwrap_err().kind, Kind::Denied);
    let tcp = Some("tcp://10.0.0.9:1");
    assert_eq!(register(&chain, POD, "b", "finance", tcp).await.unwrap_err().kind, Kind::Denied);
    let path = Some("unix:///run/other.sock");
    assert_eq!(register(&chain, POD, "c", "finance", path).await.unwrap_err().kind, Kind::Denied);
    assert!(local.is_empty());
    register(&chain, FORWARDER, "forwarder-n1", "forwarder", None).await.unwrap();
    register(&chain, FORWARDER, "d", "finance", tcp).await.unwrap();
}

#[tokio::test]
async fn a_repeated_registration_does_not_keep_its_socket_open_once_more() {
    let (local, chain) = chain();
    let (mut cx, url) = call(POD);
    let entry = NetworkServiceEndpoint {
        name: "nse".into(),
        network_service_names: vec!["finance".into()],
        url: url.clone(),
        path_ids: vec![POD.into()],
        ..Default::default()
    };
    chain.start().register(&cx, entry.clone()).await.unwrap();
    let first = cx.files.by_url(&url).unwrap().clone();
    let again = Arc::new(first.try_clone().unwrap());
    cx.files.insert(url.parse().unwrap(), again.clone());
    chain.start().register(&cx, entry).await.unwrap();
    drop(cx);
    let Some((_, Address::File(_, kept))) = local.get("nse") else { panic!("no socket is kept") };
    assert!(Arc::ptr_eq(&kept, &first));
    assert_eq!(Arc::strong_count(&again), 1, "the other one is closed when the caller drops it");
}

/// As the nsmgr keeps it, before a registry.
fn mesh() -> (LocalEntries, RegistryChain<NetworkServiceEndpoint>) {
    let local = LocalEntries::default();
    let trust = Trust::new(&[], "spiffe://d/ns/nsm-system/sa/nsmgr/node/n1");
    let bypass = LocalBypass::new("tcp://10.0.0.1:5001", "forwarder", local.clone(), trust);
    (local, RegistryChain::new([Arc::new(bypass) as Arc<dyn RegistryElement<_>>, Store::in_memory()]))
}

async fn next(events: &mut Events<NetworkServiceEndpoint>) -> (String, bool) {
    let event = tokio::time::timeout(Duration::from_secs(5), events.next()).await;
    let event = event.unwrap().unwrap().unwrap();
    assert!(event.deleted || event.files.by_url(&event.entry.url).is_some());
    (event.entry.url, event.deleted)
}

#[tokio::test]
async fn watchers_of_this_node_hear_what_the_registry_takes_for_a_refresh() {
    let (local, chain) = mesh();
    let query = || Query::changes(NetworkServiceEndpoint::default());
    register(&chain, POD, "nse", "finance", None).await.unwrap();
    // The nsmgr is started anew: the registry knows the endpoint, this process does not yet.
    local.remove("nse");
    let mut events = chain.start().find(&call(POD).0, query()).await.unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(50), events.next()).await.is_err());
    let back = register(&chain, POD, "nse", "finance", None).await.unwrap().url;
    assert_eq!(next(&mut events).await, (back.clone(), false));
    // The endpoint is started anew and listens on another socket.
    let other = register(&chain, POD, "nse", "finance", None).await.unwrap().url;
    assert_ne!(other, back);
    assert_eq!(next(&mut events).await, (other.clone(), false));
    local.remove("nse");
    assert_eq!(next(&mut events).await, (other, true));
}

#[tokio::test]
async fn strangers_find_endpoints_and_forwarders_without_their_sockets_and_their_own_with_it() {
    let (_, chain) = mesh();
    let own = register(&chain, POD, "nse", "finance", None).await.unwrap().url;
    let socket = register(&chain, FORWARDER, "forwarder-n1", "forwarder", None).await.unwrap().url;
    let find = async |id: &str, service: &str, watch: bool| {
        let like =
            NetworkServiceEndpoint { network_service_names: vec![service.into()], ..Default::default() };
        let query = Query { watch, ..Query::once(like) };
        let mut events = chain.start().find(&call(id).0, query).await.unwrap();
        let event = tokio::time::timeout(Duration::from_secs(5), events.next()).await.unwrap();
        let Event { entry, files, .. } = event.unwrap().unwrap();
        let has_file = files.by_url(&own).or(files.by_url(&socket)).is_some();
        (entry.url, has_file)
    };
    let public = ("tcp://10.0.0.1:5001".to_owned(), false);
    for watch in [false, true] {
        assert_eq!(find(OTHER, "finance", watch).await, public);
        assert_eq!(find(OTHER, "forwarder", watch).await, public);
        assert_eq!(find(POD, "forwarder", watch).await, public);
        assert_eq!(find(POD, "finance", watch).await, (own.clone(), true));
        assert_eq!(find(FORWARDER, "finance", watch).await, (own.clone(), true));
        assert_eq!(find(FORWARDER, "forwarder", watch).await, (socket.clone(), true));
    }
}

/// A registry that does not answer.
struct Silent;

#[async_trait]
impl RegistryElement<NetworkServiceEndpoint> for Silent {
    fn name(&self) -> &'static str {
        "silent"
    }

    async fn register(
        &self,
        _: &RegistryCx,
        _: NetworkServiceEndpoint,
        _: RegistryNext<'_, NetworkServiceEndpoint>,
    ) -> Result<NetworkServiceEndpoint> {
        std::future::pending().await
    }
}

#[tokio::test]
async fn who_gives_a_registration_up_holds_no_name_and_nobody_sees_it_before_the_registry_agreed() {
    let (local, _) = chain();
    let trust = Trust::new(&[], "spiffe://d/ns/nsm-system/sa/nsmgr/node/n1");
    let bypass = Arc::new(LocalBypass::new("tcp://10.0.0.1:5001", "forwarder", local.clone(), trust));
    let silent = RegistryChain::new([bypass.clone() as _, Arc::new(Silent) as Arc<dyn RegistryElement<_>>]);
    let mut squatting = Box::pin(register(&silent, OTHER, "vault", "finance", None));
    assert!(futures::poll!(&mut squatting).is_pending());
    assert!(local.is_empty());
    drop(squatting);
    let chain = RegistryChain::new([bypass as Arc<dyn RegistryElement<_>>, Store::in_memory()]);
    register(&chain, POD, "vault", "finance", None).await.unwrap();
    assert_eq!(local.get("vault").unwrap().0.path_ids, [POD]);
}

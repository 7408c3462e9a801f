//! What upstream's processes said to each other.

use std::collections::BTreeSet;

use nsm_components::api::{networkservice::NetworkServiceRequest, registry_path::RegistryPath};
use prost::Message;

use crate::recording::lines;

const RECORDING: &str = include_str!("live.txt");

fn requests_of(role: &str) -> Vec<NetworkServiceRequest> {
    let case = format!("{role}:asks:networkservice.NetworkService/Request");
    let found = lines(RECORDING).filter(|recorded| recorded.case == case);
    found.map(|recorded| NetworkServiceRequest::decode(&*recorded.bytes()).unwrap()).collect()
}

#[test]
fn all_that_upstream_said_is_given_out_as_it_came() {
    let mut methods = BTreeSet::new();
    for recorded in lines(RECORDING).filter(|recorded| recorded.name != "path") {
        let taken = recorded.take();
        assert_eq!(taken.bytes, recorded.bytes(), "{} {}: {}", recorded.name, recorded.case, taken.text);
        methods.insert(recorded.case.rsplit(':').next().unwrap());
    }
    // The recording is whole: every method that a mesh on Linux uses is in it.
    let all = [
        "connection.MonitorConnection/MonitorConnections",
        "networkservice.NetworkService/Close",
        "networkservice.NetworkService/Request",
        "registry.NetworkServiceEndpointRegistry/Find",
        "registry.NetworkServiceEndpointRegistry/Register",
        "registry.NetworkServiceEndpointRegistry/Unregister",
        "registry.NetworkServiceRegistry/Find",
        "registry.NetworkServiceRegistry/Register",
    ];
    assert_eq!(methods, all.into());
}

#[test]
fn the_path_of_a_registration_is_given_out_as_it_came() {
    let mut hops = BTreeSet::new();
    for recorded in lines(RECORDING).filter(|recorded| recorded.name == "path") {
        let path = RegistryPath::from_metadata(recorded.rest).unwrap();
        assert_eq!(path.to_metadata(), recorded.rest, "{}", recorded.case);
        hops.insert(path.path_segments.map_or(0, |segments| segments.len()));
    }
    assert_eq!(hops, [0, 2, 3].into());
}

#[test]
fn a_client_asks_for_a_kernel_interface_and_refreshes_with_what_it_has() {
    let mut requests = requests_of("nsc");
    // As they are in the file the first has the shorter path.
    requests.sort_by_key(|request| {
        request.connection.as_ref().and_then(|connection| Some(connection.path.as_ref()?.path_segments.len()))
    });
    let connections: Vec<_> = requests.iter().filter_map(|request| request.connection.as_ref()).collect();
    let [first, .., last] = &connections[..] else { panic!("a Request and its refresh") };
    for request in &requests {
        let [wanted] = &request.mechanism_preferences[..] else { panic!("one preference") };
        assert_eq!((&*wanted.cls, &*wanted.r#type), ("LOCAL", "KERNEL"));
        assert_eq!(wanted.parameters["name"], "nsm-1");
        assert!(wanted.parameters["inodeURL"].starts_with("inode://"), "{wanted:?}");
    }
    assert_eq!(first.network_service, "finance");
    assert!(first.mechanism.is_none());
    assert_eq!(first.path.as_ref().map(|path| (path.index, path.path_segments.len())), Some((0, 1)));
    let path = last.path.as_ref().unwrap();
    assert_eq!((path.index, &path.path_segments[0].id), (0, &last.id));
    let context = last.context.as_ref().and_then(|context| context.ip_context.as_ref()).unwrap();
    assert_eq!((context.src_ip_addrs.len(), context.dst_ip_addrs.len()), (1, 1));
    assert!(path.path_segments.iter().all(|segment| segment.expires.is_some() && !segment.token.is_empty()));
}

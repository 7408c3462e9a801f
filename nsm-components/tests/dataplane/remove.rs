//! Ways out, and what fails on the way in.

use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use nsm_components::{
    api::connectioncontext::Route,
    dataplane::{Netns, OwnedLink, Owner, Removed, plan},
};

use crate::world::{
    connection, dataplane, inside, ip, ip_context, links, may_run, namespaces, netns, pod, tunnel,
};

const O_PATH: i32 = nix::fcntl::OFlag::O_PATH.bits();

#[tokio::test]
async fn links_that_nobody_wants_can_be_listed_and_removed_one_by_one() {
    if !may_run() {
        return;
    }
    let (node, nsc, nse) = (netns(), netns(), netns());
    ip(&nsc, "link add own type bridge");
    ip(&nsc, "link add half group 7238509 type bridge");
    let dataplane = dataplane(&node);
    let desired = plan(&connection("c-listed"), &pod(&nsc, "nsm-1"), &pod(&nse, "nsm-1")).unwrap();
    dataplane.ensure(&desired, &namespaces(&[&nsc, &nse])).await.unwrap();

    let mut owned = dataplane.list_owned(&nsc).await.unwrap();
    owned.sort_by(|a, b| a.name.cmp(&b.name));
    let owners: Vec<_> = owned.iter().map(|link| link.owner.clone()).collect();
    assert_eq!(owners, [Owner::Unfinished, Owner::Connection(desired.id)]);

    let renamed = OwnedLink { owner: Owner::Unfinished, ..owned[1].clone() };
    assert!(!dataplane.remove_owned(&renamed, &nsc).await.unwrap());
    for link in &owned {
        assert!(dataplane.remove_owned(link, &nsc).await.unwrap());
    }
    assert_eq!((links(&nsc), links(&nse)), (vec!["own".into()], vec![]));
}

#[tokio::test]
async fn the_kernels_own_words_reach_the_error_and_nothing_is_left() {
    if !may_run() {
        return;
    }
    let (node, nsc, nse) = (netns(), netns(), netns());
    let dataplane = dataplane(&node);
    let mut connection = connection("c-words");
    // A next hop that is an address of the pod itself.
    let route = Route { prefix: "10.7.0.0/16".into(), next_hop: "127.0.0.1".into() };
    ip_context(&mut connection).src_routes = vec![route];
    let desired = plan(&connection, &pod(&nsc, "nsm-1"), &pod(&nse, "nsm-1")).unwrap();

    let error = dataplane.ensure(&desired, &namespaces(&[&nsc, &nse])).await.unwrap_err();

    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(error.to_string().starts_with("cannot add route 10.7.0.0/16 via 127.0.0.1"), "{error}");
    assert!(cause.contains("invalid gateway"), "{cause}");
    assert_eq!((links(&nsc), links(&nse)), (vec![], vec![]));
}

#[tokio::test]
async fn a_connection_is_removed_through_a_process_in_the_pod_and_a_dead_pod_needs_nothing() {
    if !may_run() {
        return;
    }
    let (node, nsc, nse) = (netns(), netns(), netns());
    let dataplane = dataplane(&node);
    let desired = plan(&connection("c-find"), &pod(&nsc, "nsm-1"), &pod(&nse, "nsm-1")).unwrap();
    dataplane.ensure(&desired, &namespaces(&[&nsc, &nse])).await.unwrap();
    let footprint = desired.footprint();
    let nsc_key = nsc.key();

    // Only a process leads into the client's pod, and nothing into the endpoint's.
    let mut process = inside(&nsc, "cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
    let deadline = std::time::SystemTime::now() + Duration::from_secs(10);
    while Netns::find(nsc_key).is_none() {
        assert!(std::time::SystemTime::now() < deadline, "the process is not in the namespace");
        tokio::task::yield_now().await;
    }
    let removed = dataplane.remove(&footprint, &namespaces(&[])).await;
    process.kill().unwrap();
    process.wait().unwrap();
    assert_eq!(removed.unwrap(), Removed::Deleted);
    assert_eq!((links(&nsc), links(&nse)), (vec![], vec![]));

    dataplane.ensure(&desired, &namespaces(&[&nsc, &nse])).await.unwrap();
    drop((nsc, nse));
    assert_eq!(dataplane.remove(&footprint, &namespaces(&[])).await.unwrap(), Removed::OutOfReach);
}

#[test]
fn only_namespaces_are_taken_for_namespaces_also_without_the_right_to_read() {
    let path_only =
        |path: &str| std::fs::OpenOptions::new().read(true).custom_flags(O_PATH).open(path).unwrap();
    let own = Netns::from_fd(path_only("/proc/self/ns/net").as_fd()).unwrap();
    assert_eq!(own.key(), Netns::open("/proc/self/ns/net").unwrap().key());
    for path in ["/dev/null", "/tmp", "/proc/self/status"] {
        let error = Netns::from_fd(path_only(path).as_fd()).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput, "{path}: {error}");
    }
}

#[tokio::test]
async fn a_pod_that_cannot_be_entered_is_cleared_through_the_nsid_of_its_cni_link() {
    if !may_run() {
        return;
    }
    let (node, nsc) = (netns(), netns());
    let dataplane = dataplane(&node);
    let desired =
        plan(&connection("c-nsid"), &pod(&nsc, "nsm-1"), &tunnel("10.0.0.1", "10.0.0.2", 9)).unwrap();
    dataplane.ensure(&desired, &namespaces(&[&nsc])).await.unwrap();

    // Neither a name nor a process leads into the pod.
    let without = dataplane.remove(&desired.footprint(), &namespaces(&[])).await.unwrap();
    assert_eq!((without, links(&nsc)), (Removed::OutOfReach, vec!["nsm-1".into()]));

    let target = format!("/proc/{}/fd/{}", std::process::id(), nsc.as_fd().as_raw_fd());
    ip(&node, &format!("link add cni type veth peer name eth0 netns {target}"));
    let with = dataplane.remove(&desired.footprint(), &namespaces(&[])).await.unwrap();
    assert_eq!((with, links(&nsc)), (Removed::Deleted, vec!["eth0".into()]));
    assert_eq!(links(&node), ["cni"]);
}

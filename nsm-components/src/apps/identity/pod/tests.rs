use proptest::prelude::*;

use super::*;

const A: &str = "0a1b2c3d-1111-2222-3333-444455556666";
const B: &str = "ffffffff-1111-2222-3333-444455556666";

fn slice(uid: &str) -> String {
    uid.replace('-', "_")
}

/// Without knowledge of the own place.
fn anywhere(cgroup: &str) -> Result<String, PodError> {
    Roots::default().pod_uid(cgroup)
}

#[allow(clippy::unnecessary_wraps)] // stands where results are compared
fn ok() -> Result<String, PodError> {
    Ok(A.to_owned())
}

#[test]
fn both_drivers_and_all_qos_classes_are_read() {
    let u = slice(A);
    for path in [
        format!("/kubepods/pod{A}/c0ffee"),
        format!("/kubepods/burstable/pod{A}/c0ffee"),
        format!("/kubepods/besteffort/pod{A}/c0ffee/init.scope"),
        format!("/kubepods/besteffort/pod{A}"),
        format!("/e2e/node1/kubepods/besteffort/pod{A}/c0ffee"),
        format!("/kubepods.slice/kubepods-pod{u}.slice/cri-containerd-c0ffee.scope"),
        format!(
            "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{u}.slice/crio-c0ffee.scope"
        ),
        format!(
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{u}.slice/cri-containerd-1.scope"
        ),
        format!(
            "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod{u}.slice/x"
        ),
    ] {
        assert_eq!(anywhere(&format!("0::{path}\n")), ok(), "{path}");
    }
}

#[test]
fn the_uid_of_a_static_pod_is_read() {
    let uid = "0123456789abcdef0123456789abcdef";
    assert_eq!(anywhere(&format!("0::/kubepods/burstable/pod{uid}/c")), Ok(uid.to_owned()));
}

#[test]
fn hierarchies_of_v1_agree_or_the_process_is_refused() {
    let v1 = |memory: &str| {
        format!(
            "12:pids:/kubepods/besteffort/pod{A}/c\n4:memory:{memory}\n1:name=systemd:/kubepods/besteffort/pod{A}/c\n0::/\n"
        )
    };
    assert_eq!(anywhere(&v1(&format!("/kubepods/besteffort/pod{A}/c"))), ok());
    assert_eq!(anywhere(&v1("/system.slice/containerd.service")), ok());
    assert_eq!(anywhere(&v1(&format!("/kubepods/pod{B}/c"))), Err(PodError::Disagree));
}

#[test]
fn a_process_outside_pods_is_refused() {
    for path in [
        "/",
        "/user.slice/user-1000.slice/session-1.scope",
        "/system.slice/kubelet.service",
        "/kubepods",
        "/kubepods/besteffort",
        "/kubepods.slice/kubepods-besteffort.slice",
        &format!("/pod{A}/c"),
        &format!("/system.slice/pod{A}"),
        &format!("/kubepods/other/pod{A}/c"),
        "/kubepods/podx/c",
        "/kubepods/pod/c",
        &format!("/kubepods/pod{}/c", A.to_uppercase()),
        &format!("/kubepods.slice/x-pod{}.slice", slice(A)),
    ] {
        assert_eq!(anywhere(&format!("0::{path}")), Err(PodError::NoPod), "{path}");
    }
    assert_eq!(anywhere(""), Err(PodError::NoPod));
    assert_eq!(anywhere("nonsense"), Err(PodError::NoPod));
}

#[test]
fn a_pod_that_names_another_below_itself_is_refused() {
    let u = slice(B);
    for tail in [
        format!("pod{B}"),
        format!("c/pod{B}/d"),
        format!("c/kubepods/besteffort/pod{B}/d"),
        format!("c/kubepods.slice/kubepods-pod{u}.slice/d"),
        format!("c/pod{A}"),
    ] {
        let path = format!("0::/kubepods/besteffort/pod{A}/{tail}");
        assert!(matches!(anywhere(&path), Err(PodError::TwoPods(_))), "{path}");
    }
}

#[test]
fn an_agent_that_knows_its_root_serves_that_one_alone() {
    let own = format!(
        "4:memory:/e2e/node1/kubepods/burstable/pod{B}/agent\n3:cpu:/e2e/node1/kubepods/burstable/pod{B}/agent\n0::/\n"
    );
    let roots = Roots::learn(&own);
    let caller = |memory: &str, cpu: &str| roots.pod_uid(&format!("4:memory:{memory}\n3:cpu:{cpu}\n0::/\n"));
    let pod = format!("/e2e/node1/kubepods/besteffort/pod{A}/c");
    let other = format!("/e2e/node2/kubepods/besteffort/pod{A}/c");
    assert_eq!(caller(&pod, &pod), ok());
    assert_eq!(roots.pod_uid(&own), Ok(B.to_owned()));
    assert!(matches!(caller(&other, &other), Err(PodError::OtherRoot(_))));
    assert!(matches!(caller(&pod, &other), Err(PodError::OtherRoot(_))));
    assert_eq!(caller(&pod, "/user.slice"), Err(PodError::Disagree));
    // A user of the host owns a part of a hierarchy in which the agent is not.
    let forged = format!("4:memory:/user.slice\n3:cpu:/\n0::/user.slice/user-1000.slice/kubepods/pod{A}/x\n");
    assert_eq!(roots.pod_uid(&forged), Err(PodError::Disagree));
}

#[test]
fn an_agent_in_a_cluster_within_a_pod_knows_the_inner_root() {
    let outer = format!("/kubepods/burstable/pod{B}/c/kubelet/kubepods");
    let roots = Roots::learn(&format!("0::{outer}/pod{B}/agent"));
    assert_eq!(roots.pod_uid(&format!("0::{outer}/besteffort/pod{A}/c")), ok());
    let sibling = format!("0::/kubepods/burstable/pod{A}/c");
    assert!(matches!(roots.pod_uid(&sibling), Err(PodError::OtherRoot(_))));
}

#[test]
fn an_agent_in_its_own_cgroup_namespace_sees_pods_upwards() {
    let roots = Roots::learn("0::/\n");
    let u = slice(A);
    for path in [
        format!("/../../pod{A}/c"),
        format!("/../../../besteffort/pod{A}/c"),
        format!("/../../../pod{A}/c/init.scope"),
        format!("/../../kubepods-besteffort-pod{u}.slice/cri-containerd-1.scope"),
        format!("/../../../kubepods-burstable.slice/kubepods-burstable-pod{u}.slice/cri-containerd-1.scope"),
        format!("/../../../kubepods-pod{u}.slice/cri-containerd-1.scope"),
    ] {
        assert_eq!(roots.pod_uid(&format!("0::{path}")), ok(), "{path}");
    }
    for path in [
        "/".to_owned(),
        "/../other-container".to_owned(),
        "/../../../../system.slice/sshd.service".to_owned(),
        format!("/../../../../user.slice/user-1000.slice/kubepods.slice/kubepods-pod{u}.slice/x"),
        format!("/../../../../user.slice/kubepods/pod{A}/x"),
    ] {
        assert_eq!(roots.pod_uid(&format!("0::{path}")), Err(PodError::NoPod), "{path}");
    }
    let nested = format!("0::/../../pod{A}/c/pod{B}");
    assert!(matches!(roots.pod_uid(&nested), Err(PodError::TwoPods(_))));
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(own in any::<Vec<u8>>(), other in any::<Vec<u8>>()) {
        let roots = Roots::learn(&String::from_utf8_lossy(&own));
        let _ = roots.pod_uid(&String::from_utf8_lossy(&other));
    }

    /// Whatever a pod writes below its own segment, it is itself or refused.
    #[test]
    fn a_pod_cannot_become_another(tail in proptest::collection::vec(0..10_usize, 0..6)) {
        let foreign = format!("pod{B}");
        let foreign_slice = format!("kubepods-pod{}.slice", slice(B));
        let own = format!("pod{A}");
        let words = [
            "c", "x.scope", "kubepods", "besteffort", "kubepods.slice", "kubepods-besteffort.slice", "..",
            &foreign, &foreign_slice, &own,
        ];
        let tail: Vec<_> = tail.into_iter().map(|word| words[word]).collect();
        let tail = tail.join("/");
        let agent = format!("0::/kubepods/burstable/pod{B}/agent");
        let places = [(agent.as_str(), "/kubepods/besteffort"), ("0::/", "/../../.."), ("", "/x/kubepods")];
        for (agent, start) in places {
            let found = Roots::learn(agent).pod_uid(&format!("0::{start}/pod{A}/{tail}"));
            prop_assert!(matches!(found, Err(PodError::TwoPods(_))) || found == ok(), "{:?}", found);
        }
    }
}

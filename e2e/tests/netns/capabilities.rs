//! What a forwarder may do on its node, and that it needs no more: four capabilities, and the system calls that
//! container runtimes allow by default.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use nsm_e2e::{
    figures::figures,
    interface::interfaces,
    mesh::{Mesh, START, Signal, Who, program},
    netns::Netns,
    stream::Stream,
    wait::{may_run, until_true},
};

use crate::story::{IFNAME, LIFE, Story, assert_silent, assert_whole};

/// `CAP_NET_BROADCAST`, `CAP_NET_ADMIN`, `CAP_NET_RAW` and `CAP_SYS_ADMIN` (linux/capability.h).
const CAPABILITIES: [(&str, u32); 4] =
    [("net_broadcast", 11), ("net_admin", 12), ("net_raw", 13), ("sys_admin", 21)];

const FORWARDERS: [Who; 2] = [Who::Forwarder(1), Who::Forwarder(2)];

/// What runs a program under the runtimes' profile.
fn confined() -> PathBuf {
    program().unwrap().with_file_name("examples").join("confined")
}

/// As a container that is not privileged: these capabilities alone and none to be had, the system calls of the
/// runtimes' profile, a root that is read-only but for the mesh's own folder, and the kernel's settings read-only.
fn restricted(mesh: &Mesh) -> Vec<String> {
    let (folder, confined) = (mesh.folder().display(), confined());
    let confined = confined.display();
    let kept: Vec<_> = CAPABILITIES.iter().map(|(name, _)| format!("+{name}")).collect();
    let script = format!(
        "mount --bind {folder} {folder} && mount -o remount,bind,ro / && \
         mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys && \
         exec setpriv --bounding-set -all,{} --inh-caps -all --no-new-privs -- {confined} \"$@\"",
        kept.join(",")
    );
    ["unshare", "--mount", "--propagation", "private", "sh", "-c", &script, "sh"].map(str::to_owned).into()
}

fn status(mesh: &Mesh, who: Who, name: &str) -> String {
    let id = mesh.process(who).unwrap().id().unwrap();
    let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim_start_matches(':').trim().to_owned()
}

/// Starts these anew with these capabilities alone.
fn restrict(mesh: &mut Mesh, whom: &[Who]) {
    mesh.end(whom, Signal::SIGTERM).unwrap();
    let words = restricted(mesh);
    for who in whom {
        mesh.run_by(*who, &words).unwrap();
    }
    mesh.start_again(whom).unwrap();
}

fn assert_restricted(mesh: &Mesh, whom: &[Who]) {
    let mask = CAPABILITIES.iter().fold(0_u64, |mask, (_, number)| mask | 1 << number);
    for who in whom {
        for name in ["CapEff", "CapPrm", "CapBnd"] {
            assert_eq!(u64::from_str_radix(&status(mesh, *who, name), 16), Ok(mask), "{who} {name}");
        }
        assert_eq!(status(mesh, *who, "NoNewPrivs"), "1");
        // `SECCOMP_MODE_FILTER` of linux/seccomp.h.
        assert_eq!(status(mesh, *who, "Seccomp"), "2");
    }
}

#[test]
fn a_forwarder_with_four_capabilities_the_default_seccomp_profile_and_a_read_only_root_adopts_makes_repairs_and_removes()
 {
    if !may_run() {
        return;
    }
    let mut story = Story::begin();
    let before = story.interfaces();
    let streams = story.clients().map(|client| story.stream(client));
    let watched = story.watch();
    restrict(&mut story.mesh, &FORWARDERS);
    // Longer than anything lives that is not refreshed.
    streams[0].run_for(LIFE * 2).unwrap();
    assert_restricted(&story.mesh, &FORWARDERS);
    for stream in streams {
        assert_whole(stream);
    }
    assert_silent(watched);
    assert_eq!(story.interfaces(), before);

    // What is new is made on one node and between two, carries packets and is removed.
    let interface = format!("kernel://finance/{IFNAME}");
    let new = [1, 2].map(|node| story.mesh.client(node, &interface).unwrap());
    for client in new {
        story.interface(client);
        let stream = story.stream(client);
        stream.run_for(std::time::Duration::from_millis(200)).unwrap();
        assert_whole(stream);
    }
    // The kernel's settings are not to be had, and are told to be.
    let unavailable = |node| {
        let seen = figures(&story.mesh.metrics_socket(Who::Forwarder(node))).unwrap();
        seen["nsm_kernel_sysctls_unavailable_total"]
    };
    assert!(unavailable(1) > 0 && unavailable(2) > 0);
    // Somebody breaks a link; the next refresh repairs it.
    let index = story.interface(new[1]).index;
    story.mesh.pod_of(new[1]).unwrap().ip(&format!("link set {IFNAME} down")).unwrap();
    assert_eq!(story.interface(new[1]).index, index);
    let all = [story.remote, story.local, new[0], new[1]];
    story.mesh.end(&all, Signal::SIGTERM).unwrap();
    story.mesh.is_clean(LIFE).unwrap();
}

/// `chroot` is allowed with a capability that the profile's container does not have: it says what the process would
/// not say by itself.
#[test]
fn what_the_default_seccomp_profile_does_not_allow_fails() {
    if !may_run() {
        return;
    }
    let words = ["chroot", "/", "true"];
    assert!(Command::new(words[0]).args(&words[1..]).status().unwrap().success(), "this process may");
    let refused = Command::new(confined()).args(words).output().unwrap();
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success() && said.contains("Operation not permitted"), "{said}");
}

/// No refresh comes while a test with this life runs.
const LONG: Duration = Duration::from_mins(2);

/// What a repair may take that waits for no refresh, on a machine with many tests side by side.
const AT_ONCE: Duration = Duration::from_secs(10);

/// A hardware address that nobody has.
const NOBODY: &str = "02:00:00:00:00:99";

/// The kernel's entries for these addresses.
fn neighbours(netns: &Netns, device: &str, addresses: &[String]) -> Vec<String> {
    let show = |address: &String| netns.ip(&format!("neigh show {address} dev {device}")).unwrap();
    addresses.iter().map(show).collect()
}

#[test]
fn a_forwarder_with_four_capabilities_hears_of_deleted_links_and_tells_neighbours_of_new_ones() {
    if !may_run() {
        return;
    }
    let mut mesh = Mesh::start(LONG).unwrap();
    let both = [("NSM_CIDR_PREFIX", "172.16.1.0/24,fd00:1::/64")];
    let endpoint = mesh.endpoint(2, "finance", &both).unwrap();
    // It hears of nothing by itself, and sends nothing that would tell where it is.
    let silent = [("NSM_LIVENESS_CHECK_ENABLED", "false")];
    restrict(&mut mesh, &FORWARDERS);
    let client = mesh.client_with(1, &format!("kernel://finance/{IFNAME}"), &silent).unwrap();
    let before = mesh.connected(client, IFNAME).unwrap();
    assert_restricted(&mesh, &FORWARDERS);
    let (pod, there) = (mesh.pod_of(client).unwrap(), mesh.pod_of(endpoint).unwrap());
    let device = interfaces(there).unwrap().remove(0).name;
    let shown = pod.list(&format!("address show dev {IFNAME} scope global")).unwrap();
    let shown = shown[0]["addr_info"].as_array().unwrap().iter();
    let addresses: Vec<_> = shown.filter_map(|one| one["local"].as_str()).map(str::to_owned).collect();
    assert_eq!(addresses.len(), 2, "{addresses:?}");
    for address in &addresses {
        there.ip(&format!("neigh replace {address} lladdr {NOBODY} dev {device} nud stale")).unwrap();
    }
    pod.ip(&format!("link delete {IFNAME}")).unwrap();
    let up = |netns: &Netns| interfaces(netns).unwrap().iter().any(|found| found.up);
    until_true("the client has its interface again", AT_ONCE, || up(pod)).unwrap();
    mesh.says(Who::Forwarder(1), "a link is broken", START).unwrap();
    let known = || neighbours(there, &device, &addresses).iter().all(|entry| !entry.contains(NOBODY));
    until_true("its peer knows where it is", AT_ONCE, known)
        .unwrap_or_else(|error| panic!("{error}: {:?}", neighbours(there, &device, &addresses)));
    // The other node hears of its own links as well.
    there.ip(&format!("link delete {device}")).unwrap();
    until_true("the endpoint has its interface again", AT_ONCE, || up(there)).unwrap();
    let from = (pod, before.address.unwrap().0);
    let stream = Stream::start(from, (there, before.peer.unwrap())).unwrap();
    stream.run_for(Duration::from_millis(200)).unwrap();
    assert_whole(stream);
}

#[test]
fn a_dead_endpoint_is_noticed_with_four_capabilities() {
    if !may_run() {
        return;
    }
    let mut mesh = Mesh::start(LONG).unwrap();
    mesh.endpoint(2, "finance", &[]).unwrap();
    restrict(&mut mesh, &FORWARDERS);
    let client = mesh.client(1, &format!("kernel://finance/{IFNAME}")).unwrap();
    mesh.connected(client, IFNAME).unwrap();
    restrict(&mut mesh, &[client]);
    let before = mesh.connected(client, IFNAME).unwrap();
    assert_restricted(&mesh, &[FORWARDERS[0], FORWARDERS[1], client]);
    // An echo was answered: silence means something from here on.
    mesh.says(client, r#""data":"Up""#, START).unwrap();
    let second = mesh.endpoint(1, "finance", &[]).unwrap();
    mesh.says(second, "registered", START).unwrap();
    // A node that vanishes says nothing.
    mesh.nodes()[1].ip("link set wire down").unwrap();
    let moved = || {
        let found = interfaces(mesh.pod_of(client).unwrap()).unwrap();
        found.iter().any(|found| found.up && found.peer.is_some() && found.peer != before.peer)
    };
    until_true("it is connected to the other endpoint", AT_ONCE, moved).unwrap();
    // What TCP has sent on a wire that is cut holds the namespaces.
    mesh.nodes()[1].ip("link set wire up").unwrap();
}

/// Where the kernel's settings are read-only, a pod in which IPv6 is off by default cannot have IPv6 addresses:
/// its client is told which setting it takes.
#[test]
fn what_has_only_a_file_under_proc_sys_is_reported_as_not_available_with_what_to_do() {
    if !may_run() {
        return;
    }
    let mut mesh = Mesh::start(LIFE).unwrap();
    mesh.endpoint(1, "finance", &[("NSM_CIDR_PREFIX", "fd00:1::/64")]).unwrap();
    restrict(&mut mesh, &FORWARDERS[..1]);
    let pod = mesh.empty_pod(1).unwrap();
    let off = ["-qw", "net.ipv6.conf.default.disable_ipv6=1"];
    let mut sysctl: Command = mesh.pod_of(pod).unwrap().command("sysctl");
    assert!(sysctl.args(off).status().unwrap().success());
    let client = mesh.client_beside(pod, 1, &format!("kernel://finance/{IFNAME}")).unwrap();
    let reason = format!("/proc/sys/net/ipv6/conf/{IFNAME}/disable_ipv6 is read-only here");
    mesh.says(client, &reason, START).unwrap();
    assert_eq!(interfaces(mesh.pod_of(client).unwrap()).unwrap(), [], "what was half built is gone");
}

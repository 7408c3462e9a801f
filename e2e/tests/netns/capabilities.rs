//! What a forwarder may do on its node, and that it needs no more.

use std::fs;

use nsm_e2e::{
    figures::figures,
    mesh::{Mesh, Signal, Who},
    wait::may_run,
};

use crate::story::{IFNAME, LIFE, Story, assert_silent, assert_whole};

/// `CAP_NET_BROADCAST`, `CAP_NET_ADMIN`, `CAP_NET_RAW` and `CAP_SYS_ADMIN` (linux/capability.h).
const CAPABILITIES: [(&str, u32); 4] =
    [("net_broadcast", 11), ("net_admin", 12), ("net_raw", 13), ("sys_admin", 21)];

const FORWARDERS: [Who; 2] = [Who::Forwarder(1), Who::Forwarder(2)];

/// As a container that is not privileged: these capabilities alone and none to be had, a root that is
/// read-only but for the mesh's own folder, and the kernel's settings read-only.
fn restricted(mesh: &Mesh) -> Vec<String> {
    let folder = mesh.folder().display();
    let kept: Vec<_> = CAPABILITIES.iter().map(|(name, _)| format!("+{name}")).collect();
    let script = format!(
        "mount --bind {folder} {folder} && mount -o remount,bind,ro / && \
         mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys && \
         exec setpriv --bounding-set -all,{} --inh-caps -all --no-new-privs -- \"$@\"",
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

#[test]
fn a_forwarder_with_four_capabilities_and_a_read_only_root_adopts_makes_repairs_and_removes() {
    if !may_run() {
        return;
    }
    let mut story = Story::begin();
    let before = story.interfaces();
    let streams = story.clients().map(|client| story.stream(client));
    let watched = story.watch();
    story.mesh.end(&FORWARDERS, Signal::SIGTERM).unwrap();
    let words = restricted(&story.mesh);
    for who in FORWARDERS {
        story.mesh.run_by(who, &words).unwrap();
    }
    story.mesh.start_again(&FORWARDERS).unwrap();
    // Longer than anything lives that is not refreshed.
    streams[0].run_for(LIFE * 2).unwrap();
    let mask = CAPABILITIES.iter().fold(0_u64, |mask, (_, number)| mask | 1 << number);
    for who in FORWARDERS {
        for name in ["CapEff", "CapPrm", "CapBnd"] {
            assert_eq!(u64::from_str_radix(&status(&story.mesh, who, name), 16), Ok(mask), "{who} {name}");
        }
        assert_eq!(status(&story.mesh, who, "NoNewPrivs"), "1");
    }
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

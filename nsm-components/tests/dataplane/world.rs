//! Namespaces, commands and connections for the tests. Everything is anonymous and ends with the
//! test that made it.

use std::{
    io::Write,
    os::fd::{AsFd, AsRawFd},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, SystemTime},
};

use nix::sched::{CloneFlags, unshare};
use nsm_components::{
    api::{
        Connection,
        connectioncontext::{ConnectionContext, IpContext, Route},
    },
    dataplane::{Counters, Dataplane, ForwarderId, Namespaces, Netlink, Netns, Side, VxlanLink},
};

/// Whether the test may run; says why not. CI demands it by `NSM_REQUIRE_ROOT=1`.
pub(crate) fn may_run() -> bool {
    if nix::unistd::geteuid().is_root() {
        return true;
    }
    let reason = "skipped: needs root to make network namespaces";
    assert!(std::env::var_os("NSM_REQUIRE_ROOT").is_none_or(|v| v != "1"), "{reason}");
    // Not through the test harness, which shows output of failed tests only.
    std::io::stderr().write_all(format!("{reason}\n").as_bytes()).unwrap();
    false
}

/// A namespace with nothing but a loopback that is up.
pub(crate) fn netns() -> Netns {
    let make = || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        Netns::current().unwrap()
    };
    let netns = std::thread::spawn(make).join().unwrap();
    ip(&netns, "link set lo up");
    netns
}

/// A command inside of a namespace.
pub(crate) fn inside(netns: &Netns, program: &str) -> Command {
    let mut command = Command::new("nsenter");
    let path = format!("/proc/{}/fd/{}", std::process::id(), netns.as_fd().as_raw_fd());
    command.arg(format!("--net={path}")).arg("--").arg(program);
    command
}

/// What `ip <arguments>` prints in a namespace. It has to succeed.
pub(crate) fn ip(netns: &Netns, arguments: &str) -> String {
    let output = inside(netns, "ip").args(arguments.split_whitespace()).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "ip {arguments}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// What a setting reads as inside of a namespace.
pub(crate) fn sysctl(netns: &Netns, path: &str) -> String {
    let output = inside(netns, "cat").arg(format!("/proc/sys/{path}")).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().replace('\t', " ")
}

/// Pings until one answer comes.
pub(crate) fn ping(netns: &Netns, address: &str, bytes: u32) {
    let deadline = SystemTime::now() + Duration::from_secs(10);
    loop {
        let size = bytes.to_string();
        let mut command = inside(netns, "ping");
        command.args(["-n", "-q", "-c", "1", "-W", "1", "-M", "do", "-s", &size, address]);
        let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
        if status.success() {
            return;
        }
        assert!(SystemTime::now() < deadline, "no answer from {address}: {}", ip(netns, "addr"));
    }
}

/// Names of the links besides the loopback.
pub(crate) fn links(netns: &Netns) -> Vec<String> {
    let listed = ip(netns, "-o link");
    let name = |line: &str| line.split(':').nth(1).unwrap().trim().split('@').next().unwrap().to_owned();
    listed.lines().map(name).filter(|name| name != "lo").collect()
}

/// Namespaces for one call.
pub(crate) fn namespaces(all: &[&Netns]) -> Namespaces {
    all.iter().map(|netns| (*netns).clone()).collect()
}

/// The interface of a pod.
pub(crate) fn pod(netns: &Netns, ifname: &str) -> Side {
    Side::Kernel { netns: netns.key(), ifname: ifname.into() }
}

/// A tunnel whose MTU is that of the wire less the overhead.
pub(crate) fn tunnel(local: &str, remote: &str, vni: u32) -> Side {
    let tunnel =
        VxlanLink { local: local.parse().unwrap(), remote: remote.parse().unwrap(), vni, port: 4789 };
    Side::Vxlan { tunnel, mtu: 0 }
}

/// A connection as a point to point IPAM gives it: the client .1, the endpoint .0, both families.
pub(crate) fn connection(id: &str) -> Connection {
    let route = |prefix: &str| Route { prefix: prefix.into(), next_hop: String::new() };
    let ip_context = IpContext {
        src_ip_addrs: vec!["172.16.1.101/32".into(), "fd00:9::101/128".into()],
        dst_ip_addrs: vec!["172.16.1.100/32".into(), "fd00:9::100/128".into()],
        src_routes: vec![route("172.16.1.100/32"), route("192.168.99.0/24")],
        dst_routes: vec![route("172.16.1.101/32")],
        ..IpContext::default()
    };
    let context = ConnectionContext { ip_context: Some(ip_context), ..ConnectionContext::default() };
    Connection { id: id.into(), context: Some(context), ..Connection::default() }
}

/// The IP part of a connection's context.
pub(crate) fn ip_context(connection: &mut Connection) -> &mut IpContext {
    connection.context.as_mut().unwrap().ip_context.as_mut().unwrap()
}

/// Two nodes, 10.250.0.1 and 10.250.0.2 (and fd00:250::1, ::2), with a wire between them.
pub(crate) fn two_nodes() -> (Netns, Netns) {
    let (a, b) = (netns(), netns());
    let target = format!("/proc/{}/fd/{}", std::process::id(), b.as_fd().as_raw_fd());
    ip(&a, &format!("link add wire type veth peer name wire netns {target}"));
    for (node, host) in [(&a, 1), (&b, 2)] {
        ip(node, "link set wire up");
        ip(node, &format!("address add 10.250.0.{host}/24 dev wire"));
        ip(node, &format!("address add fd00:250::{host}/64 dev wire nodad"));
    }
    (a, b)
}

/// The data plane of a forwarder in `underlay`, from which its tunnels leave. Another folder is another
/// forwarder.
pub(crate) fn dataplane_of(folder: &str, underlay: &Netns) -> Dataplane<Netlink> {
    let forwarder = ForwarderId::new("forwarder-1", underlay.key(), Path::new(folder));
    Dataplane::new(Netlink::with_underlay(underlay.clone())).with_forwarder(forwarder)
}

/// The same of the only one.
pub(crate) fn dataplane(underlay: &Netns) -> Dataplane<Netlink> {
    dataplane_of("/journal", underlay)
}

/// What was written between two readings.
pub(crate) fn written(before: Counters, after: Counters) -> (u64, u64, u64) {
    (after.writes - before.writes, after.write_sends - before.write_sends, after.sysctls - before.sysctls)
}

//! What breaks packets and is seen by liveness or the kernel's own word.

use std::{
    net::Ipv4Addr,
    time::{Duration, SystemTime},
};

use nsm_e2e::{
    interface::{Interface, interfaces},
    knock::{Echo, Knock},
    mesh::{Mesh, START, Signal, Who},
    netns::Netns,
    wait::may_run,
};
use serde_json::Value;

use crate::story::{IFNAME, LIFE, Story};

/// Silence after which an endpoint is left, and one look: upstream's defaults.
const BUDGET: Duration = Duration::from_millis(1200);

/// No refresh comes while a test with this life runs: it would find as well what liveness is to find.
const LONG: Duration = Duration::from_mins(3);

/// What healing may take once it is known that there is something to heal.
const HEALING: Duration = Duration::from_millis(50);

/// What a machine with two processors and many tests side by side may add.
const BUSY: Duration = Duration::from_secs(4);

/// What a process that was killed needs to be back in its place.
const BACK: Duration = Duration::from_secs(8);

/// What the first client of the second endpoint finds there.
const SECOND_ADDRESS: Ipv4Addr = Ipv4Addr::new(172, 16, 2, 0);

/// A client says this when its packets do not pass.
const STUCK: &str = r#""cause":"packets""#;

/// And this when it has left an endpoint whose path could not be refreshed.
const MOVED: &str = r#""message":"moved to another endpoint""#;

/// One of them when its packets or its path have to be saved.
const DETECTED: [&str; 2] = [STUCK, MOVED];

/// And this when its endpoint has answered an echo.
const ALIVE: &str = r#""data":"Up""#;

/// When a line of a log was written.
fn time(line: &str) -> SystemTime {
    let line: Value = serde_json::from_str(line).unwrap();
    let time: jiff::Timestamp = line["timestamp"].as_str().unwrap().parse().unwrap();
    time.into()
}

/// Time from one moment to another.
fn since(later: SystemTime, earlier: SystemTime) -> Duration {
    later.duration_since(earlier).unwrap_or_default()
}

/// Addresses, routes and rules of a pod.
fn state(netns: &Netns) -> Vec<Value> {
    let list = |what: &str| netns.list(what).unwrap();
    // The kernel looks for other owners of its own IPv6 addresses anew, and their routes wait for that.
    ["-4 address show dev nsm-1", "-4 route show table all", "rule"].map(list).concat()
}

/// Breaks something of the client's interface and asserts that packets pass again and all is as before.
fn is_repaired(break_it: impl Fn(&Netns)) {
    if !may_run() {
        return;
    }
    // A repair on a machine with more to do than it can may take longer than upstream's patience, after which the
    // endpoint is left: that is what other tests are about.
    let patient = [("NSM_LIVENESS_CHECK_TIMEOUT", "4s")];
    let story = Story::begin_in(Mesh::start_with(LONG, &patient).unwrap());
    for client in story.clients() {
        let pod = story.mesh.pod_of(client).unwrap().clone();
        story.mesh.says(client, ALIVE, START).unwrap();
        let (before, interface) = (state(&pod), story.interface(client));
        let stream = story.stream(client);
        break_it(&pod);
        let received = stream.received();
        nsm_e2e::wait::until_true("packets come back", START, || stream.received() > received + 100).unwrap();
        let report = stream.report().unwrap();
        println!("{client}: {report:?}");
        assert!(report.longest_gap < BUDGET + HEALING + BUSY, "{client}: {report:?}");
        assert_eq!(state(&pod), before, "{client}");
        assert_eq!(story.interface(client).mtu, interface.mtu, "{client}");
    }
}

#[test]
fn an_interface_that_was_set_down_is_raised_again() {
    is_repaired(|pod| drop(pod.ip("link set nsm-1 down").unwrap()));
}

#[test]
fn an_address_or_route_that_was_removed_is_added_again() {
    is_repaired(|pod| drop(pod.ip("route flush dev nsm-1").unwrap()));
}

/// A client of an endpoint, and a second endpoint that nobody uses yet.
struct Pair {
    mesh: Mesh,
    client: Who,
    first: Who,
    second: Who,
}

impl Pair {
    /// The client on node 1, the endpoints on these.
    fn begin(nodes: [usize; 2]) -> Self {
        Self::begin_with(nodes, LONG)
    }

    /// The same with tokens of another life.
    fn begin_with(nodes: [usize; 2], life: Duration) -> Self {
        let mut mesh = Mesh::start(life).unwrap();
        let first = mesh.endpoint(nodes[0], "finance", &[]).unwrap();
        let client = mesh.client(1, &format!("kernel://finance/{IFNAME}")).unwrap();
        mesh.connected(client, IFNAME).unwrap();
        let second = mesh.endpoint(nodes[1], "finance", &[]).unwrap();
        mesh.says(second, "registered", START).unwrap();
        Self { mesh, client, first, second }
    }

    fn interface(&self) -> Interface {
        self.mesh.connected(self.client, IFNAME).unwrap()
    }

    /// Breaks what the client's path is refreshed by, and asserts that it is at the second endpoint before the
    /// connection ends: its packets have passed until then.
    fn moves_before_the_end(mut self, break_it: impl FnOnce(&mut Mesh, Who)) {
        self.mesh.says(self.client, ALIVE, START).unwrap();
        let before = self.interface();
        break_it(&mut self.mesh, self.first);
        self.mesh.says(self.client, MOVED, self.mesh.life()).unwrap();
        let log = self.mesh.process(self.client).unwrap().log();
        // A busy machine may be in doubt for a moment.
        let left = |line: &&str| line.contains(STUCK) && line.contains(r#""cure":"Leave""#);
        let stuck: Vec<_> = log.lines().take_while(|line| !line.contains(MOVED)).filter(left).collect();
        assert!(stuck.is_empty(), "it ended before: {stuck:#?}");
        let after = || self.interface().peer != before.peer;
        nsm_e2e::wait::until_true("it has what the second endpoint gave it", BACK, after).unwrap();
        let after = self.interface();
        assert_eq!((&after.alias, &after.name), (&before.alias, &before.name));
        assert_eq!(interfaces(self.mesh.pod_of(self.client).unwrap()).unwrap().len(), 1);
    }

    /// Breaks what the client's packets go by, and asserts that they reach the second endpoint in time: so
    /// long after it broke at most it is known, and so much later it is healed.
    fn moves(mut self, known: Duration, healed: Duration, break_it: impl FnOnce(&mut Mesh, Who)) {
        self.mesh.says(self.client, ALIVE, START).unwrap();
        let before = self.interface();
        let pod = self.mesh.pod_of(self.client).unwrap().clone();
        let _echo = Echo::start(self.mesh.pod_of(self.second).unwrap()).unwrap();
        let knock = Knock::start(&pod, SECOND_ADDRESS, START).unwrap();
        let broken = SystemTime::now();
        break_it(&mut self.mesh, self.first);
        let passed = knock.answered().unwrap();
        let log = self.mesh.process(self.client).unwrap().log();
        let found = log.lines().filter(|line| DETECTED.iter().any(|said| line.contains(said))).map(time);
        let found = found.min().unwrap();
        let (detection, healing) = (since(found, broken), since(passed, found));
        println!("detected after {detection:?}, healed {healing:?} later");
        assert!(detection < known, "detected after {detection:?}");
        assert!(healing < healed, "healed {healing:?} after it was detected");
        // The connection is the same, and nothing is left of the old path.
        let after = self.interface();
        assert_eq!((&after.alias, &after.name), (&before.alias, &before.name));
        let addresses = pod.ip("address show").unwrap();
        let old = before.address.unwrap().0.to_string();
        assert!(!addresses.contains(&format!("{old}/")), "{addresses}");
        assert_eq!(interfaces(&pod).unwrap().len(), 1);
        // What TCP has sent on a wire that is cut holds the namespaces.
        self.mesh.nodes()[1].ip("link set wire up").unwrap();
    }
}

/// 2 `local-nse-death`.
#[test]
fn an_endpoint_whose_pod_dies_on_the_same_node_is_left_for_another() {
    if may_run() {
        let die = |mesh: &mut Mesh, first| mesh.delete_pod(first, START).unwrap();
        Pair::begin([1, 1]).moves(BUDGET + BUSY, HEALING + BUSY, die);
    }
}

/// 3 `remote-nse-death`.
#[test]
fn an_endpoint_whose_pod_dies_on_another_node_is_left_for_another() {
    if may_run() {
        let die = |mesh: &mut Mesh, first| mesh.delete_pod(first, START).unwrap();
        Pair::begin([2, 2]).moves(BUDGET + BUSY, HEALING + BUSY, die);
    }
}

/// 16 `registry-local-endpoint`.
#[test]
fn an_endpoint_that_dies_together_with_the_registry_is_left_for_another() {
    if may_run() {
        Pair::begin([1, 1]).moves(BUDGET + BUSY, HEALING + BUSY, |mesh, first| {
            mesh.end(&[Who::Registry], Signal::SIGKILL).unwrap();
            mesh.delete_pod(first, START).unwrap();
            mesh.start_again(&[Who::Registry]).unwrap();
        });
    }
}

/// 19 `remote-nsmgr-remote-endpoint` and 20 `local-nsmgr-local-nse`: it heals once the nsmgr is back.
#[test]
fn an_endpoint_that_dies_together_with_its_nsmgr_is_left_for_another() {
    if may_run() {
        for node in [1, 2] {
            Pair::begin([node, node]).moves(BUDGET + BUSY, BACK, |mesh, first| {
                mesh.end(&[Who::Nsmgr(node)], Signal::SIGKILL).unwrap();
                mesh.delete_pod(first, START).unwrap();
                mesh.start_again(&[Who::Nsmgr(node)]).unwrap();
            });
        }
    }
}

/// A node that vanishes says nothing: only silence tells.
#[test]
fn an_endpoint_whose_node_vanishes_is_left_for_another() {
    if may_run() {
        Pair::begin([2, 1]).moves(BUDGET + BUSY, LIFE, |mesh, _| {
            mesh.nodes()[1].ip("link set wire down").unwrap();
        });
    }
}

/// 8 `remote-nsmgr-death`: packets still pass, but the path cannot be refreshed.
#[test]
fn an_endpoint_whose_nsmgr_is_gone_for_good_is_left_before_the_connection_ends() {
    if may_run() {
        let die = |mesh: &mut Mesh, _| mesh.end(&[Who::Nsmgr(2)], Signal::SIGKILL).unwrap();
        Pair::begin_with([2, 1], LIFE * 2).moves_before_the_end(die);
    }
}

/// One that hangs is as good as gone once it could not be asked for half of the life.
#[test]
fn an_endpoint_that_hangs_is_left_before_the_connection_ends() {
    if may_run() {
        let hang = |mesh: &mut Mesh, first| mesh.process(first).unwrap().signal(Signal::SIGSTOP).unwrap();
        Pair::begin_with([1, 1], LIFE * 2).moves_before_the_end(hang);
    }
}

/// The new link of a client has the addresses that others knew behind the old one. Nobody sends a packet here
/// that would tell them.
#[test]
fn peers_learn_at_once_where_a_link_that_was_made_anew_is() {
    if !may_run() {
        return;
    }
    let mut mesh = Mesh::start(LIFE).unwrap();
    let endpoint = mesh.endpoint(2, "finance", &[]).unwrap();
    let silent = [("NSM_LIVENESS_CHECK_ENABLED", "false")];
    let client = mesh.client_with(1, &format!("kernel://finance/{IFNAME}"), &silent).unwrap();
    let before = mesh.connected(client, IFNAME).unwrap();
    let (pod, there) = (mesh.pod_of(client).unwrap(), mesh.pod_of(endpoint).unwrap());
    let device = interfaces(there).unwrap().remove(0).name;
    let address = before.address.unwrap().0;
    let entry = || there.ip(&format!("neigh show {address} dev {device}")).unwrap();
    there.ip(&format!("neigh replace {address} lladdr 02:00:00:00:00:99 dev {device} nud stale")).unwrap();
    pod.ip(&format!("link delete {IFNAME}")).unwrap();
    // The next refresh finds it missing.
    let after = mesh.connected(client, IFNAME).unwrap();
    assert_eq!(after.address, before.address);
    nsm_e2e::wait::until_true("the peer knows the new link", BUSY, || !entry().contains("02:00:00:00:00:99"))
        .unwrap();
    assert!(entry().contains("lladdr"), "{}", entry());
}

/// Less than what is left of the life in which the endpoint dies: no refresh finds it.
const TOGETHER: Duration = Duration::from_secs(5);

fn heal_together(settings: &[(&str, &str)]) {
    if may_run() {
        let healed = nsm_e2e::healing::all_at_once(20, settings).unwrap();
        println!("20 connections healed in {healed:?}");
        assert!(healed < TOGETHER, "{healed:?}");
    }
}

/// All connections of an endpoint heal together; the figure P9 has a thousand. Both their packets and their path
/// say that it is dead, and either is enough.
#[test]
fn connections_of_one_dead_endpoint_heal_together() {
    heal_together(&[]);
}

/// What packets say alone is enough where a node vanishes: nobody on the path is left to say anything.
#[test]
fn connections_of_one_dead_endpoint_heal_together_by_what_their_path_says_alone() {
    heal_together(&[("NSM_LIVENESS_CHECK_ENABLED", "false")]);
}

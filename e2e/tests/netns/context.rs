//! What of a connection's context is in the pods: links, addresses, routes, neighbours and rules as
//! written down in `context.txt`, and packets of every kind that pass.

use std::{
    fmt::Write as _,
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

use nsm_e2e::{
    interface::interfaces,
    mesh::{Mesh, START, Signal, Who},
    monitor::IpMonitor,
    netns::Netns,
    stream::Stream,
    wait::{may_run, until, until_true},
};
use serde_json::Value;

use crate::story::{IFNAME, LIFE, assert_silent, assert_whole};

/// Longer than a test: nothing is refreshed unless somebody asks for it.
const LONG: Duration = Duration::from_mins(10);

/// Longest time a packet may be on its way.
const PATIENCE: Duration = Duration::from_secs(5);

/// Services by the clients' interfaces: payload and prefixes.
const SERVICES: [(&str, &str, &str); 6] = [
    ("eth-4", "ETHERNET", "172.16.1.0/24"),
    ("eth-6", "ETHERNET", "fd00:2::/64"),
    ("eth-46", "ETHERNET", "172.16.3.0/24,fd00:3::/64"),
    ("ip-4", "IP", "172.16.4.0/24"),
    ("ip-6", "IP", "fd00:5::/64"),
    ("ip-46", "IP", "172.16.6.0/24,fd00:6::/64"),
];

/// A mesh with an endpoint of each service on node 2, and a client of all of them on each node.
struct Services {
    mesh: Mesh,
    endpoints: Vec<Who>,
    clients: [Who; 2],
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// Addresses of an interface but those of link scope.
fn addresses(netns: &Netns, name: &str) -> Vec<String> {
    let Ok(links) = netns.list(&format!("address show dev {name}")) else { return Vec::new() };
    let all = links.iter().flat_map(|link| link["addr_info"].as_array().cloned().unwrap_or_default());
    let global = all.filter(|address| text(address, "scope") == "global");
    global.map(|address| format!("{}/{}", text(&address, "local"), address["prefixlen"])).collect()
}

/// What `ip` shows of an interface, without what differs from run to run.
fn describe(netns: &Netns, name: &str) -> String {
    let link = &netns.list(&format!("-details link show dev {name}")).unwrap()[0];
    let data = &link["linkinfo"]["info_data"];
    let mut out = format!(
        "  link {} mtu {} group {}",
        text(&link["linkinfo"], "info_kind"),
        link["mtu"],
        text(link, "group")
    );
    if text(&link["linkinfo"], "info_kind") == "vxlan" {
        let (local, remote) =
            if data["local6"].is_string() { ("local6", "remote6") } else { ("local", "remote") };
        write!(
            out,
            " local {} remote {} port {} learning {}",
            text(data, local),
            text(data, remote),
            data["port"],
            data["learning"]
        )
        .unwrap();
    }
    let alias = text(link, "ifalias").strip_prefix("nsm:").expect("the alias says whose it is");
    let (id, forwarder) = alias.split_once(" of ").expect("and who made it");
    let (forwarder, _) = forwarder.rsplit_once('#').expect("it is told from others of its name");
    let other = link["altnames"][0].as_str().unwrap().strip_suffix(id).expect("so does the second name");
    let flags: Vec<&str> = link["flags"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    writeln!(
        out,
        " alias nsm:ID of {forwarder} altname {other}ID up {}",
        flags.contains(&"UP") && flags.contains(&"LOWER_UP")
    )
    .unwrap();
    for address in addresses(netns, name) {
        writeln!(out, "  address {address}").unwrap();
    }
    for family in ["-4", "-6"] {
        for route in netns.list(&format!("{family} route show dev {name}")).unwrap() {
            if text(&route, "protocol") != "kernel" {
                let via = route["gateway"].as_str().map(|via| format!(" via {via}")).unwrap_or_default();
                writeln!(out, "  route {}{via} protocol {}", text(&route, "dst"), text(&route, "protocol"))
                    .unwrap();
            }
        }
        let neighbours = netns.list(&format!("{family} neighbour show dev {name} nud permanent")).unwrap();
        // The program shows what was learned beside it, whatever is asked for.
        let lasts = |neighbour: &&Value| neighbour["state"][0] == "PERMANENT";
        for neighbour in neighbours.iter().filter(lasts) {
            writeln!(out, "  neighbour {} permanent", text(neighbour, "dst")).unwrap();
        }
    }
    out
}

/// Rules of both families but the kernel's own.
fn rules(netns: &Netns) -> Vec<String> {
    let all = format!("{}{}", netns.ip("rule").unwrap(), netns.ip("-6 rule").unwrap());
    let all = all.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    all.filter(|line| !["local", "main", "default"].iter().any(|table| line.ends_with(table))).collect()
}

/// A request and its answer over TCP and over UDP, and a ping.
fn carries(client: &Netns, from: IpAddr, endpoint: &Netns, to: IpAddr) {
    let any = |ip| SocketAddr::new(ip, 0);
    let tcp = endpoint.inside(move || TcpListener::bind(any(to)).unwrap()).unwrap();
    let udp = endpoint.inside(move || UdpSocket::bind(any(to)).unwrap()).unwrap();
    let (tcp_at, udp_at) = (tcp.local_addr().unwrap(), udp.local_addr().unwrap());
    let answering = std::thread::spawn(move || {
        udp.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut bytes = [0; 1000];
        let (length, asking) = udp.recv_from(&mut bytes).unwrap();
        udp.send_to(&bytes[..length], asking).unwrap();
        let (mut stream, _) = tcp.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.read_exact(&mut bytes).unwrap();
        stream.write_all(&bytes).unwrap();
    });
    let asking = client.inside(move || -> std::io::Result<()> {
        let udp = UdpSocket::bind(any(from))?;
        udp.set_read_timeout(Some(PATIENCE))?;
        let mut bytes = [0; 1000];
        udp.send_to(&[7; 1000], udp_at)?;
        assert_eq!(udp.recv_from(&mut bytes)?, (1000, udp_at));
        let mut stream = TcpStream::connect_timeout(&tcp_at, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(&bytes)?;
        stream.read_exact(&mut bytes)
    });
    asking.unwrap().unwrap_or_else(|error| panic!("{from} to {to}: {error}"));
    answering.join().unwrap();
    let ping = client
        .command("ping")
        .args(["-n", "-c", "1", "-W", "2", "-I", &from.to_string(), &to.to_string()])
        .output();
    assert!(ping.unwrap().status.success(), "{to} does not answer a ping from {from}");
}

fn ip(address: &str) -> IpAddr {
    address.split('/').next().unwrap().parse().unwrap()
}

// === impl Services ===

impl Services {
    fn begin(mut mesh: Mesh) -> Self {
        let endpoints = SERVICES.map(|(name, payload, prefixes)| {
            mesh.endpoint(2, name, &[("NSM_PAYLOAD", payload), ("NSM_CIDR_PREFIX", prefixes)]).unwrap()
        });
        let all = SERVICES.map(|(name, ..)| format!("kernel://{name}/{name}")).join(",");
        // One after the other, so that each gets the same addresses every time.
        let clients = [2, 1].map(|node| {
            let client = mesh.client(node, &all).unwrap();
            let pod = mesh.pod_of(client).unwrap();
            for (name, _, prefixes) in SERVICES {
                until_true(&format!("{client} has all of {name}"), START, || {
                    let up = interfaces(pod).is_ok_and(|all| all.iter().any(|it| it.name == name && it.up));
                    up && addresses(pod, name).len() == prefixes.split(',').count()
                })
                .unwrap();
            }
            client
        });
        Self { mesh, endpoints: endpoints.into(), clients }
    }

    /// All interfaces, those of an endpoint after the client's that they lead to.
    fn description(&self) -> String {
        let mut out = String::new();
        for (client, place) in self.clients.iter().zip(["same node", "two nodes"]) {
            let kind = if place == "same node" { "veth" } else { "vxlan" };
            for ((name, payload, _), endpoint) in SERVICES.iter().zip(&self.endpoints) {
                writeln!(out, "{place}, {name}, payload {payload}\n client").unwrap();
                out += &describe(self.mesh.pod_of(*client).unwrap(), name);
                out += " endpoint\n";
                let pod = self.mesh.pod_of(*endpoint).unwrap();
                let own = interfaces(pod).unwrap().into_iter().find(|it| it.kind == kind).unwrap();
                out += &describe(pod, &own.name);
            }
        }
        for who in self.clients.iter().chain(&self.endpoints) {
            assert_eq!(rules(self.mesh.pod_of(*who).unwrap()), [""; 0], "{who} has no rules");
        }
        out
    }

    /// Every pair of addresses of every interface.
    fn carry(&self) {
        for client in self.clients {
            let pod = self.mesh.pod_of(client).unwrap();
            for ((name, ..), endpoint) in SERVICES.iter().zip(&self.endpoints) {
                let there = self.mesh.pod_of(*endpoint).unwrap();
                for from in addresses(pod, name).iter().map(|address| ip(address)) {
                    let family = if from.is_ipv4() { "-4" } else { "-6" };
                    let routes = pod.list(&format!("{family} route show dev {name}")).unwrap();
                    let to = routes.iter().find_map(|route| text(route, "dst").parse().ok()).unwrap();
                    carries(pod, from, there, to);
                }
            }
        }
    }
}

#[test]
fn six_services_of_one_pod_look_as_written_down_on_one_node_and_on_two_and_carry_everything() {
    if !may_run() {
        return;
    }
    let services = Services::begin(Mesh::start(LONG).unwrap());
    let found = services.description();
    assert_eq!(found, include_str!("context.txt"), "found:\n{found}");
    services.carry();
    let Services { mut mesh, clients, .. } = services;
    mesh.end(&clients, Signal::SIGTERM).unwrap();
    mesh.is_clean(START).unwrap();
}

#[test]
fn tunnels_over_ipv6_carry_everything_that_those_over_ipv4_carry() {
    if !may_run() {
        return;
    }
    let services = Services::begin(Mesh::start_over_ipv6(LONG).unwrap());
    let to_ipv6 = include_str!("context.txt")
        .replace("mtu 1446", "mtu 1426")
        .replace("local 10.77.0.", "local fd00:77::")
        .replace("remote 10.77.0.", "remote fd00:77::");
    let found = services.description();
    assert_eq!(found, to_ipv6, "found:\n{found}");
    services.carry();
}

/// Policy routes of one family each, as an endpoint reads them from its file.
const POLICIES: &str = "
- from: 172.16.2.201/24
  proto: 6
  dstport: 6666
  routes:
  - prefix: 172.16.3.0/24
    nexthop: 172.16.2.200
- proto: 17
  dstport: 6666
- from: 2004::3/120
  proto: 17
  dstport: 5555
";

/// An endpoint with policy routes and a client on the same node and on the other.
pub(crate) fn with_policies(mesh: &mut Mesh) -> (Who, [Who; 2]) {
    let file = mesh.workload_api().with_file_name("policies.yaml");
    std::fs::write(&file, POLICIES).unwrap();
    let settings = [("NSM_PBR_CONFIG_PATH", file.to_str().unwrap())];
    let endpoint = mesh.endpoint(2, "finance", &settings).unwrap();
    let clients = [1, 2].map(|node| mesh.client(node, &format!("kernel://finance/{IFNAME}")).unwrap());
    for client in clients {
        until(&format!("{client} has its policy routes"), START, || {
            (rules(mesh.pod_of(client).unwrap()).len() == 3).then_some(())
        })
        .unwrap();
        mesh.connected(client, IFNAME).unwrap();
    }
    (endpoint, clients)
}

#[test]
fn policy_routes_of_an_endpoint_lead_packets_on_both_nodes_and_outlive_the_forwarder_unchanged() {
    if !may_run() {
        return;
    }
    let mut mesh = Mesh::start(LIFE).unwrap();
    let (endpoint, clients) = with_policies(&mut mesh);
    let check = |mesh: &Mesh| {
        for client in clients {
            let pod = mesh.pod_of(client).unwrap();
            for (asked, answered) in [
                ("172.16.3.1 from 172.16.2.201 ipproto tcp dport 6666", "via 172.16.2.200 dev nsm-1 table 1"),
                ("172.16.4.1 ipproto udp dport 6666", "dev nsm-1 table 2"),
                ("2001:db8::1 from 2004::3 ipproto udp dport 5555", "dev nsm-1 table 3"),
            ] {
                let route = pod.ip(&format!("route get {asked}")).unwrap();
                assert!(route.contains(answered), "{client}: {asked}: {route}");
            }
        }
    };
    check(&mesh);
    let before = clients.map(|client| rules(mesh.pod_of(client).unwrap()));
    let streams = clients.map(|client| {
        let interface = mesh.connected(client, IFNAME).unwrap();
        let from = (mesh.pod_of(client).unwrap(), interface.address.unwrap().0);
        Stream::start(from, (mesh.pod_of(endpoint).unwrap(), interface.peer.unwrap())).unwrap()
    });
    let watch = |client: Who| (client, IpMonitor::start(mesh.pod_of(client).unwrap()).unwrap());
    let watched = clients.map(watch);
    let forwarders = [Who::Forwarder(1), Who::Forwarder(2)];
    mesh.end(&forwarders, Signal::SIGKILL).unwrap();
    mesh.start_again(&forwarders).unwrap();
    // What is not refreshed expires one life after the start at the latest.
    streams[0].run_for(LIFE + Duration::from_secs(2)).unwrap();
    for stream in streams {
        assert_whole(stream);
    }
    assert_silent(watched.into());
    assert_eq!(clients.map(|client| rules(mesh.pod_of(client).unwrap())), before);
    check(&mesh);
    mesh.end(&clients, Signal::SIGTERM).unwrap();
    mesh.is_clean(START).unwrap();
    for client in clients {
        assert_eq!(rules(mesh.pod_of(client).unwrap()), [""; 0]);
    }
}

#[test]
fn a_policy_rule_of_a_connection_that_ended_while_the_forwarder_was_away_is_gone_after_it_came_back() {
    if !may_run() {
        return;
    }
    let mut mesh = Mesh::start(LIFE).unwrap();
    let (endpoint, clients) = with_policies(&mut mesh);
    let forwarders = [Who::Forwarder(1), Who::Forwarder(2)];
    mesh.end(&forwarders, Signal::SIGKILL).unwrap();
    // The clients end without a word, and the endpoint's pod with its end of the pair.
    mesh.end(&clients, Signal::SIGKILL).unwrap();
    mesh.delete_pod(endpoint, START).unwrap();
    let local = mesh.pod_of(clients[1]).unwrap();
    until_true("the pair is gone", START, || interfaces(local).is_ok_and(|all| all.is_empty())).unwrap();
    for client in clients {
        assert_eq!(rules(mesh.pod_of(client).unwrap()).len(), 3, "nobody is there to remove them");
    }
    mesh.start_again(&forwarders).unwrap();
    for client in clients {
        let pod = mesh.pod_of(client).unwrap();
        until_true(&format!("the rules of {client} are gone"), LIFE * 3, || rules(pod).is_empty()).unwrap();
    }
    mesh.is_clean(START).unwrap();
}

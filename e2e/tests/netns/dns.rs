//! Names that an endpoint knows are resolved in its client's pod.

use std::{
    fs,
    net::UdpSocket,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use nsm_e2e::{
    mesh::{Mesh, START, Signal},
    netns::Netns,
    wait::{may_run, until, until_true},
};

use crate::story::{IFNAME, LIFE};

const BEFORE: &str = "search cluster.local\nnameserver 192.0.2.53\noptions ndots:5\n";

/// `x.` of type A, in class IN.
const QUESTION: &[u8] = &[0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, b'x', 0, 0, 1, 0, 1];

const TICK: Duration = Duration::from_millis(200);

/// Answers everything, in a pod.
struct Server {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(pod: &Netns) -> Self {
        let socket = pod.inside(|| UdpSocket::bind("0.0.0.0:53")).unwrap().unwrap();
        socket.set_read_timeout(Some(TICK)).unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let ended = over.clone();
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 512];
            while !ended.load(Ordering::Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
                // An answer, and one record: whoever reads on finds none.
                (buffer[2], buffer[7]) = (buffer[2] | 0x80, 1);
                let _ = socket.send_to(&buffer[..length], from);
            }
        });
        Self { over, thread: Some(thread) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Asks what the pod's `resolv.conf` leads to, until there is an answer with a record.
fn resolves(pod: &Netns) {
    let socket = pod.inside(|| UdpSocket::bind("127.0.0.1:0")).unwrap().unwrap();
    socket.set_read_timeout(Some(TICK)).unwrap();
    until("an answer to a DNS question", START, || {
        socket.send_to(QUESTION, "127.0.0.1:53").ok()?;
        let mut buffer = [0; 512];
        let length = socket.recv(&mut buffer).ok()?;
        (length == QUESTION.len() && buffer[..2] == QUESTION[..2] && buffer[7] == 1).then_some(())
    })
    .unwrap();
}

#[test]
fn a_pod_resolves_what_its_endpoint_knows_and_has_its_own_servers_back_afterwards() {
    if !may_run() {
        return;
    }
    let mut mesh = Mesh::start(LIFE).unwrap();
    let settings =
        [("NSM_DNS_CONFIGS", r#"[{"dns_server_ips":["172.16.1.0"],"search_domains":["finance.corp"]}]"#)];
    let endpoint = mesh.endpoint(2, "finance", &settings).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("resolv.conf");
    fs::write(&file, BEFORE).unwrap();
    let client = mesh.client_with_resolv_conf(1, &format!("kernel://finance/{IFNAME}"), &file).unwrap();
    mesh.connected(client, IFNAME).unwrap();
    let _server = Server::start(mesh.pod_of(endpoint).unwrap());
    let led = || {
        let text = fs::read_to_string(&file).unwrap();
        let active: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
        active == ["search cluster.local finance.corp", "options ndots:5", "nameserver 127.0.0.1"]
    };
    until_true("the pod is led to its client", START, led).unwrap();
    resolves(mesh.pod_of(client).unwrap());
    mesh.end(&[client], Signal::SIGKILL).unwrap();
    assert!(led(), "nobody was there to restore it");
    mesh.start_again(&[client]).unwrap();
    resolves(mesh.pod_of(client).unwrap());
    until_true("the pod is led to its client again", START, led).unwrap();
    mesh.end(&[client], Signal::SIGTERM).unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap(), BEFORE);
}

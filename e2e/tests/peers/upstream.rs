//! A process of upstream in the place of one of ours.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use nsm_e2e::{
    interface::Interface,
    mesh::{Mesh, Signal, Who, program},
    netns::Netns,
    process::{Process, Recipe},
    stream::Stream,
    wait::until,
};

/// Life of tokens. Upstream ends a connection before that by the time a Request may take, which is
/// 15 s; a fifth of it is over when a connection is refreshed.
pub(crate) const LIFE: Duration = Duration::from_secs(30);

/// How much later than a token's end something may be gone.
pub(crate) const LATE: Duration = Duration::from_secs(10);

/// The interface that clients ask for.
pub(crate) const IFNAME: &str = "nsm-1";

/// Lines of its log that a failed test shows.
const TAIL: usize = 40;

/// See the module. It is to end before the mesh does.
pub(crate) struct Upstream {
    role: &'static str,
    /// `None` once it is over.
    process: Option<Process>,
    /// The program under the name of its role, from which its identity is made, and its log.
    folder: PathBuf,
}

/// The program of `e2e/peers`: `NSM_PEERS_BIN`, or what was built there.
pub(crate) fn peers() -> PathBuf {
    let built = || Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/bin/peers");
    let path = std::env::var_os("NSM_PEERS_BIN").map_or_else(built, PathBuf::from);
    assert!(path.is_file(), "{} is missing: run `go build -o bin/peers .` in e2e/peers", path.display());
    path
}

// === impl Upstream ===

impl Upstream {
    /// In a namespace, with the settings that our process would have had; later settings count.
    fn start(mesh: &Mesh, role: &'static str, of: Who, netns: &Netns, settings: &[(&str, &str)]) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(1);
        // The harness removes such folders of tests that were killed.
        let name = format!("nsm-e2e-{}-peers-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = program().unwrap().parent().unwrap().join(name);
        fs::create_dir_all(&folder).unwrap();
        let program = folder.join(format!("upstream-{role}"));
        fs::copy(peers(), &program).unwrap();
        let mut environment = mesh.environment(of).unwrap();
        environment.extend(settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        // `e2e/peers/record.sh` asks for it.
        environment.extend(std::env::var("NSM_RECORD").map(|file| ("NSM_RECORD".to_owned(), file)));
        let recipe = Recipe {
            name: format!("upstream's {role}"),
            netns: netns.clone(),
            program,
            arguments: vec![role.to_owned()],
            environment,
            log: folder.join("log"),
        };
        Self { role, process: Some(Process::start(recipe).unwrap()), folder }
    }

    /// Instead of ours.
    pub(crate) fn registry(mesh: &mut Mesh) -> Self {
        mesh.end(&[Who::Registry], Signal::SIGKILL).unwrap();
        Self::start(mesh, "registry", Who::Registry, &mesh.nodes()[0], &[])
    }

    /// Instead of ours on a node.
    pub(crate) fn nsmgr(mesh: &mut Mesh, node: usize) -> Self {
        mesh.end(&[Who::Nsmgr(node)], Signal::SIGKILL).unwrap();
        Self::start(mesh, "nsmgr", Who::Nsmgr(node), &mesh.nodes()[node - 1], &[])
    }

    /// Instead of ours on a node; it makes no links.
    pub(crate) fn forwarder(mesh: &mut Mesh, node: usize) -> Self {
        mesh.end(&[Who::Forwarder(node)], Signal::SIGKILL).unwrap();
        Self::start(mesh, "forwarder", Who::Forwarder(node), &mesh.nodes()[node - 1], &[])
    }

    /// In an empty pod on a node.
    pub(crate) fn client(mesh: &Mesh, pod: Who, node: usize, services: &str) -> Self {
        Self::client_with(mesh, pod, node, services, &[])
    }

    /// [`Self::client`] with settings beside those that all have.
    pub(crate) fn client_with(
        mesh: &Mesh,
        pod: Who,
        node: usize,
        services: &str,
        more: &[(&str, &str)],
    ) -> Self {
        let socket = format!("unix://{}", mesh.nsmgr_socket(node).display());
        let settings = [("NSM_CONNECT_TO", socket.as_str()), ("NSM_NETWORK_SERVICES", services)];
        Self::start(mesh, "nsc", pod, mesh.pod_of(pod).unwrap(), &[&settings, more].concat())
    }

    /// In an empty pod on a node; answers with the name of the endpoint as well.
    pub(crate) fn endpoint(mesh: &Mesh, pod: Who, node: usize, services: &str) -> (Self, String) {
        Self::endpoint_with(mesh, pod, node, services, &[])
    }

    /// [`Self::endpoint`] with settings beside those that all have.
    pub(crate) fn endpoint_with(
        mesh: &Mesh,
        pod: Who,
        node: usize,
        services: &str,
        more: &[(&str, &str)],
    ) -> (Self, String) {
        let nsmgr = mesh.nsmgr_socket(node);
        let name = format!("upstream-nse-of-{pod}");
        let own = format!("unix://{}", nsmgr.with_file_name(format!("{name}.sock")).display());
        let settings = [
            ("NSM_NAME", name.as_str()),
            ("NSM_CONNECT_TO", &format!("unix://{}", nsmgr.display())),
            ("NSM_LISTEN_ON", &own),
            ("NSM_SERVICE_NAMES", services),
            ("NSM_LABELS", "made-by:upstream"),
            ("NSM_CIDR_PREFIX", "172.16.9.0/24"),
        ];
        let endpoint = Self::start(mesh, "nse", pod, mesh.pod_of(pod).unwrap(), &[&settings, more].concat());
        (endpoint, name)
    }

    /// Somebody on node 1 who looks for endpoints at a URL.
    pub(crate) fn finder(mesh: &Mesh, url: &str, queries: &str) -> Self {
        let settings = [("NSM_CONNECT_TO", url), ("NSM_QUERIES", queries)];
        Self::start(mesh, "find", Who::Nsmgr(1), &mesh.nodes()[0], &settings)
    }

    /// Somebody on a node who watches its nsmgr for the endpoints of a service.
    pub(crate) fn watcher(mesh: &Mesh, node: usize, service: &str) -> Self {
        let socket = format!("unix://{}", mesh.nsmgr_socket(node).display());
        let settings = [("NSM_CONNECT_TO", socket.as_str()), ("NSM_SERVICE_NAMES", service)];
        Self::start(mesh, "watch", Who::Nsmgr(node), &mesh.nodes()[node - 1], &settings)
    }

    fn process(&mut self) -> &mut Process {
        self.process.as_mut().unwrap()
    }

    /// All it has said.
    pub(crate) fn log(&self) -> String {
        self.process.as_ref().unwrap().log()
    }

    /// Waits until it has said this, and answers the line.
    pub(crate) fn says(&self, text: &str, limit: Duration) -> String {
        let said = || self.log().lines().find(|line| line.contains(text)).map(str::to_owned);
        until(&format!("upstream's {} says {text:?}", self.role), limit, said).unwrap()
    }

    /// Ids on the way of each Request that was answered, in their order.
    pub(crate) fn answered(&self) -> Vec<String> {
        let log = self.log();
        let ids = log.lines().filter_map(|line| line.split_once(" answered: ").map(|(_, ids)| ids.trim()));
        ids.map(str::to_owned).collect()
    }

    /// Waits for this many more Requests that are answered.
    pub(crate) fn answers(&self, more: usize) {
        let before = self.answered().len();
        let what = format!("{more} more Requests of upstream's {} after {before}", self.role);
        until(&what, LIFE, || (self.answered().len() >= before + more).then_some(())).unwrap();
    }

    /// Ends it by a signal and starts it again.
    pub(crate) fn restart(&mut self, signal: Signal) {
        self.process().signal(signal).unwrap();
        self.process().ended().unwrap();
        self.process().start_again().unwrap();
    }

    /// Asks it to stop and waits for a good end.
    pub(crate) fn stop(&mut self) {
        self.process().signal(Signal::SIGTERM).unwrap();
        let status = self.process().ended().unwrap();
        assert!(status.success(), "upstream's {}: {status}", self.role);
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        if let Some(process) = self.process.take()
            && std::thread::panicking()
        {
            eprintln!("--- upstream's {}, its last words\n{}", self.role, process.log_tail(TAIL));
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A thousand packets a second between a client and its endpoint.
pub(crate) fn stream(mesh: &Mesh, client: Who, endpoint: Who) -> (Interface, Stream) {
    let interface = mesh.connected(client, IFNAME).unwrap();
    let from = (mesh.pod_of(client).unwrap(), interface.address.unwrap().0);
    let to = (mesh.pod_of(endpoint).unwrap(), interface.peer.unwrap());
    // The kernel looks for the neighbour first, for up to a second: the stream that counts comes after.
    println!("at first: {:?}", Stream::start(from, to).unwrap().report().unwrap());
    let stream = Stream::start(from, to).unwrap();
    (interface, stream)
}

/// No packet was lost.
pub(crate) fn assert_whole(stream: Stream) {
    let report = stream.report().unwrap();
    println!("{report:?}");
    assert!(report.sent > 0 && report.lost == 0 && report.duplicated == 0, "{report:?}");
}

/// Ends an nsmgr of ours and starts it again.
pub(crate) fn restart_nsmgrs(mesh: &mut Mesh, nodes: &[usize]) {
    let nsmgrs: Vec<_> = nodes.iter().map(|node| Who::Nsmgr(*node)).collect();
    mesh.end(&nsmgrs, Signal::SIGKILL).unwrap();
    mesh.start_again(&nsmgrs).unwrap();
}

//! Requests through the element, over a kernel in memory that fails where it is told to.

use std::{fs, os::fd::OwnedFd, sync::atomic::AtomicU32};

use nix::errno::Errno;

use super::*;
use crate::{
    api::{
        Mechanism, Path, PathSegment,
        connectioncontext::{ConnectionContext, IpContext, PolicyRoute, Route},
        mechanism::{INODE_URL, NAME},
        peer::FileKey,
    },
    chain::Chain,
    dataplane::{Dataplane, ForwarderId, Memory, Netns, Place},
};

/// What stands behind: it grants addresses, and counts what it was asked.
#[derive(Default)]
struct Endpoint {
    open: AtomicU32,
    closes: AtomicU32,
}

#[async_trait]
impl Element for Arc<Endpoint> {
    fn name(&self) -> &'static str {
        "endpoint"
    }

    async fn request(&self, cx: &Cx, mut request: Request, _: Next<'_>) -> Result<Reply> {
        use std::sync::atomic::Ordering::Relaxed;
        self.open.store(1, Relaxed);
        let connection = &mut request.connection;
        let route = |prefix: &str| Route { prefix: prefix.into(), next_hop: String::new() };
        let ip = IpContext {
            src_ip_addrs: vec!["172.16.0.1/32".into()],
            dst_ip_addrs: vec!["172.16.0.0/32".into()],
            src_routes: vec![route("172.16.0.0/32"), route("10.0.0.0/8")],
            dst_routes: vec![route("172.16.0.1/32")],
            policies: vec![PolicyRoute { proto: "6".into(), ..PolicyRoute::default() }],
            ..IpContext::default()
        };
        connection.context =
            Some(ConnectionContext { ip_context: Some(ip), mtu: 1400, ..Default::default() });
        cx.memory.with(|memory| memory.downstream = Some(kernel("nse-1")));
        Ok(Reply { connection: request.connection, files: request.files })
    }

    async fn close(&self, _: &Cx, _: Request, _: Next<'_>) -> Result<()> {
        use std::sync::atomic::Ordering::Relaxed;
        self.open.store(0, Relaxed);
        self.closes.fetch_add(1, Relaxed);
        Ok(())
    }
}

fn here() -> Netns {
    Netns::current().unwrap()
}

/// An interface of this name in this namespace.
fn kernel(name: &str) -> Mechanism {
    let key = here().key();
    let mut mechanism = Mechanism::kernel();
    mechanism.set(INODE_URL, FileKey { dev: key.dev, ino: key.ino });
    mechanism.set(NAME, name);
    mechanism
}

/// A forwarder over a kernel in memory; the pods of both sides are the namespace of the test.
struct World {
    kernel: Arc<Memory>,
    endpoint: Arc<Endpoint>,
    folder: tempfile::TempDir,
    xconnect: Xconnect<Memory>,
    chain: Chain,
}

impl World {
    fn new() -> Self {
        Self::start(Arc::new(Memory::new()), tempfile::tempdir().unwrap())
    }

    /// The next process, over this kernel.
    fn restart(self, kernel: Arc<Memory>) -> Self {
        Self::start(kernel, self.folder)
    }

    fn start(kernel: Arc<Memory>, folder: tempfile::TempDir) -> Self {
        let endpoint = Arc::new(Endpoint::default());
        let (journal, left) = Journal::open(folder.path()).unwrap();
        let host = NetnsKey { dev: 0, ino: 0 };
        let dataplane = Dataplane::new(kernel.clone());
        let dataplane = dataplane.with_forwarder(ForwarderId::new("f", host, folder.path()));
        let xconnect = Xconnect::new(dataplane, journal, left, host);
        let chain = Chain::new([
            Arc::new(xconnect.clone()) as Arc<dyn Element>,
            Arc::new(endpoint.clone()) as Arc<dyn Element>,
        ]);
        Self { kernel, endpoint, folder, xconnect, chain }
    }

    async fn request(&self) -> Result<Reply> {
        self.chain.start().request(&Cx::within(Duration::from_secs(5)), Self::asked()).await
    }

    async fn close(&self) -> Result<()> {
        self.chain.start().close(&Cx::within(Duration::from_secs(5)), Self::asked()).await
    }

    fn asked() -> Request {
        let segments = vec![PathSegment { id: "c1".into(), ..PathSegment::default() }];
        let connection = Connection {
            id: "c1".into(),
            mechanism: Some(kernel("nsm-1")),
            path: Some(Path { index: 0, path_segments: segments }),
            ..Connection::default()
        };
        let (file, key) = (OwnedFd::from(fs::File::open("/proc/self/ns/net").unwrap()), here().key());
        let mut files = Files::default();
        files.insert(FileKey { dev: key.dev, ino: key.ino }, Arc::new(file));
        Request { connection, files, ..Request::default() }
    }

    /// Everything that there is of connections.
    fn traces(&self) -> Vec<String> {
        let links = self.kernel.links().into_iter().map(|(_, name)| name);
        let rules = self.kernel.rules().into_iter().map(|(_, rule)| rule.to_string());
        let files = fs::read_dir(self.folder.path()).unwrap().flatten().map(|file| file.path());
        let entries = files.filter(|path| path.extension().is_some_and(|ending| ending == "json"));
        let entries = entries.map(|path| path.display().to_string());
        links.chain(rules).chain(entries).collect()
    }

    fn is_open(&self) -> bool {
        self.endpoint.open.load(std::sync::atomic::Ordering::Relaxed) == 1
    }

    fn assert_nothing_remains(&self, what: &str) {
        assert_eq!((self.traces(), self.xconnect.len()), (vec![], 0), "{what}");
        assert!(!self.is_open(), "{what}: the endpoint was not told");
    }
}

/// What the kernel may answer at any step, and whether a second look may make it good.
const ANSWERS: [(Errno, bool); 8] = [
    (Errno::EPERM, false),
    (Errno::ENOMEM, false),
    (Errno::ENOBUFS, false),
    (Errno::EINVAL, false),
    (Errno::ENOSPC, false),
    (Errno::EEXIST, true),
    (Errno::EBUSY, true),
    (Errno::ENODEV, true),
];

#[tokio::test]
async fn whatever_step_the_kernel_refuses_nothing_of_the_request_remains_or_the_retry_succeeds() {
    let probe = World::new();
    probe.request().await.unwrap();
    let steps = probe.kernel.operations();
    assert!(steps.len() > 15, "{steps:?}");
    for (nth, step) in steps.iter().enumerate() {
        for (errno, is_race) in ANSWERS {
            let world = World::new();
            world.kernel.fail_at(nth, errno);
            let what = format!("step {nth}, {step}: {errno}");
            match world.request().await {
                Ok(_) => assert!(is_race, "{what} is passed over"),
                Err(failed) => {
                    assert!(!is_race, "{what} is not tried again: {failed}");
                    assert!(failed.message.contains(&format!("{errno}")), "{what}: {failed}");
                    world.assert_nothing_remains(&what);
                    world.request().await.unwrap_or_else(|error| panic!("{what}, then {error}"));
                }
            }
            assert_eq!((world.traces().len(), world.is_open()), (4, true), "{what}");
        }
    }
}

#[tokio::test]
async fn whatever_the_kernel_does_not_tell_nothing_of_the_request_remains() {
    let world = World::new();
    world.kernel.fail_observe(Errno::ENOBUFS);
    let failed = world.request().await.unwrap_err();
    assert!(failed.message.contains("ENOBUFS") || failed.message.contains("buffer"), "{failed}");
    world.assert_nothing_remains("at the first look");
    world.request().await.unwrap();
}

#[tokio::test]
async fn a_refresh_that_fails_at_any_step_leaves_the_connection_as_it_was() {
    let world = World::new();
    world.request().await.unwrap();
    let before = world.traces();
    let netns = here().key();
    for nth in 0..3 {
        // Somebody takes what the refresh has to put back.
        world.kernel.strip(netns, "nsm-1");
        world.kernel.fail_at(nth, Errno::EPERM);
        world.request().await.unwrap_err();
        assert_eq!((world.traces(), world.is_open()), (before.clone(), true), "{nth}");
    }
    world.request().await.unwrap();
    assert_eq!(world.traces(), before);
}

#[tokio::test]
async fn a_namespace_that_ends_during_the_request_is_named_and_nothing_remains() {
    let world = World::new();
    world.kernel.end_netns(here().key());
    let failed = world.request().await.unwrap_err();
    assert!(failed.message.contains("is gone or cannot be entered"), "{failed}");
    assert!(!world.is_open());
    // It is looked for once more: the way in may only be hidden.
    world.xconnect.sweep(false).await;
    world.assert_nothing_remains("the pod is gone");
}

#[tokio::test]
async fn a_name_that_somebody_has_is_named_and_its_owner_keeps_it() {
    let world = World::new();
    world.kernel.add_foreign(here().key(), "nsm-1");
    let failed = world.request().await.unwrap_err();
    assert_eq!(failed.kind, Kind::Taken, "{failed}");
    assert!(failed.message.contains("nsm-1"), "{failed}");
    assert_eq!((world.traces(), world.is_open()), (vec!["nsm-1".to_owned()], false));
}

#[tokio::test]
async fn a_journal_that_cannot_be_written_fails_the_request_and_nothing_remains() {
    let world = World::new();
    // What is written first cannot be, as on a full disk.
    let temporary = world.folder.path().join("c1.json.tmp");
    fs::create_dir(&temporary).unwrap();
    let failed = world.request().await.unwrap_err();
    assert!(failed.message.contains("c1.json"), "{failed}");
    world.assert_nothing_remains("without a journal");
    fs::remove_dir(&temporary).unwrap();
    world.request().await.unwrap();
    assert_eq!(world.traces().len(), 4);
}

#[tokio::test]
async fn what_becomes_of_the_connections_that_were_left_is_told_and_adds_up() {
    let left = async || {
        let world = World::new();
        world.request().await.unwrap();
        assert_eq!(world.xconnect.adoption().report(), AdoptionReport::default());
        world
    };
    let report = |world: &World| {
        let report = world.xconnect.adoption().report();
        assert_eq!((report.baseline, report.pending()), (1, 0));
        let gap = report.longest_gap > Duration::ZERO;
        ([report.recovered, report.closed_by_client, report.lost], gap, report.quiesced)
    };

    let world = left().await;
    world.xconnect.quiesce().await;
    let kernel = world.kernel.clone();
    let world = world.restart(kernel);
    assert_eq!(world.xconnect.adoption().report().pending(), 1);
    for _ in 0..2 {
        world.request().await.unwrap();
        assert_eq!(report(&world), ([1, 0, 0], false, true), "found as it was");
    }
    // That one was killed, and somebody took what was on the link.
    let kernel = world.kernel.clone();
    kernel.strip(here().key(), "nsm-1");
    let world = world.restart(kernel);
    world.request().await.unwrap();
    assert_eq!(report(&world), ([1, 0, 0], true, false), "found, and made good");
    // Its links are gone.
    let world = world.restart(Arc::new(Memory::new()));
    world.request().await.unwrap();
    assert_eq!(report(&world), ([0, 0, 1], true, false), "made anew");

    let world = left().await;
    let kernel = world.kernel.clone();
    let world = world.restart(kernel);
    world.close().await.unwrap();
    assert_eq!(report(&world), ([0, 1, 0], false, false));
    world.assert_nothing_remains("closed by the client");

    let world = left().await;
    let kernel = world.kernel.clone();
    let world = world.restart(kernel);
    world.xconnect.sweep(true).await;
    assert_eq!(report(&world), ([0, 0, 1], false, false), "nobody asked in time");
}

fn footprint(netns: NetnsKey) -> Footprint {
    let id = ConnectionId::new("a").unwrap();
    let places = vec![Place { role: Role::Client, netns, name: "nsm-1".into() }];
    Footprint { id, places, has_policies: false }
}

#[test]
fn an_interface_is_made_only_where_a_descriptor_was_shown_and_never_in_the_hosts_namespace() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, left) = Journal::open(folder.path()).unwrap();
    let host = here();
    let shown: Namespaces = [host.clone()].into_iter().collect();
    let xconnect = |host| Xconnect::new(Dataplane::new(Memory::new()), journal.clone(), left.clone(), host);
    let elsewhere = NetnsKey { dev: 0, ino: 0 };
    xconnect(elsewhere).check_shown(&footprint(host.key()), &shown).unwrap();
    let refused =
        xconnect(elsewhere).check_shown(&footprint(host.key()), &Namespaces::default()).unwrap_err();
    assert!(refused.message.contains("did not come"), "{}", refused.message);
    let refused = xconnect(host.key()).check_shown(&footprint(host.key()), &shown).unwrap_err();
    assert_eq!(refused.kind, Kind::Denied);
    assert!(refused.message.contains("the host's own"), "{}", refused.message);
}

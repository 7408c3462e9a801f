use std::{path::Path, sync::Arc};

use tokio::sync::watch;

use super::*;
use crate::{
    chain::SystemClock,
    dataplane::{
        ConnectionId, Dataplane, Desired, Entry, ForwarderId, Journal, Memory, Namespaces, NetnsKey, Side,
        plan,
    },
};

const LIFE: Duration = Duration::from_mins(10);

fn netns(ino: u64) -> NetnsKey {
    NetnsKey { dev: 4, ino }
}

fn forwarder(folder: &str) -> ForwarderId {
    ForwarderId::new("forwarder-1", netns(9), Path::new(folder))
}

fn desired(id: &str, client: u64) -> Desired {
    let policy = crate::api::connectioncontext::PolicyRoute { proto: "6".into(), ..Default::default() };
    let ip = crate::api::connectioncontext::IpContext { policies: vec![policy], ..Default::default() };
    let context =
        Some(crate::api::connectioncontext::ConnectionContext { ip_context: Some(ip), ..Default::default() });
    let connection = crate::api::Connection { id: id.into(), context, ..Default::default() };
    let pod = |ino| Side::Kernel { netns: netns(ino), ifname: format!("nsm-{id}") };
    plan(&connection, &pod(client), &pod(client + 1)).unwrap()
}

/// A forwarder with a journal of its own over this kernel.
struct World {
    kernel: Arc<Memory>,
    folder: tempfile::TempDir,
    suspend: watch::Sender<Option<Instant>>,
    clock: Clock,
}

impl World {
    fn new() -> Self {
        let (suspend, _) = watch::channel(None);
        let (kernel, clock) = (Arc::new(Memory::new()), Arc::new(SystemClock));
        Self { kernel, folder: tempfile::tempdir().unwrap(), suspend, clock }
    }

    fn dataplane(&self, folder: &str) -> Dataplane<Memory> {
        Dataplane::new(self.kernel.clone()).with_forwarder(forwarder(folder))
    }

    /// The next process.
    fn start(&self) -> Xconnect<Memory> {
        let (journal, left) = Journal::open(self.folder.path()).unwrap();
        let xconnect = Xconnect::new(self.dataplane("/own"), journal, left, netns(9));
        let rules = Rules { life: LIFE, clock: self.clock.clone(), suspended: self.suspend.subscribe() };
        tokio::spawn(xconnect.clone().audit(rules));
        xconnect
    }

    /// Makes links as the forwarder with this folder does.
    async fn make(&self, folder: &str, desired: &Desired) {
        self.dataplane(folder).ensure(desired, &Namespaces::default()).await.unwrap();
    }

    async fn write(&self, desired: &Desired) {
        let (journal, _) = Journal::open(self.folder.path()).unwrap();
        journal.put(Entry::new(desired, std::time::SystemTime::now())).await.unwrap();
    }

    fn journal(&self) -> usize {
        Journal::open(self.folder.path()).unwrap().1.len()
    }
}

fn count(xconnect: &Xconnect<Memory>, kind: &str) -> u64 {
    xconnect.findings().orphans().into_iter().find(|(name, _)| *name == kind).unwrap().1
}

async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}

#[tokio::test(start_paused = true)]
async fn an_orphan_without_an_entry_is_counted_at_once_and_removed_after_a_life_with_its_rules() {
    let world = World::new();
    world.make("/own", &desired("lost", 1)).await;
    let xconnect = world.start();
    pass(LIFE / 100).await;
    assert_eq!((count(&xconnect, "link"), count(&xconnect, "rule")), (2, 1));
    pass(LIFE * 97 / 100).await;
    assert_eq!((world.kernel.links().len(), world.kernel.rules().len()), (2, 1), "not before a life is over");
    assert!(xconnect.findings().oldest() >= LIFE / 2);
    pass(LIFE / 2).await;
    assert_eq!((world.kernel.links(), world.kernel.rules()), (vec![], vec![]));
    assert_eq!((count(&xconnect, "link"), xconnect.findings().removed.get()), (0, 3));
}

#[tokio::test(start_paused = true)]
async fn what_another_forwarder_an_earlier_version_or_anybody_else_has_made_is_never_touched() {
    let world = World::new();
    world.make("/other", &desired("theirs", 1)).await;
    Dataplane::<Memory>::new(world.kernel.clone())
        .ensure(&desired("old", 3), &Namespaces::default())
        .await
        .unwrap();
    world.kernel.add_foreign(netns(5), "eth0");
    let before = (world.kernel.links(), world.kernel.rules());
    let xconnect = world.start();
    pass(LIFE * 3).await;
    assert_eq!((world.kernel.links(), world.kernel.rules()), before);
    assert_eq!((count(&xconnect, "link"), count(&xconnect, "rule"), count(&xconnect, "unnamed")), (0, 0, 3));
    assert_eq!(xconnect.findings().removed.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_left_and_not_asked_for_is_removed_after_a_life_and_an_entry_without_links_with_it() {
    let world = World::new();
    let (left, bare) = (desired("left", 1), desired("bare", 3));
    world.make("/own", &left).await;
    world.write(&left).await;
    world.write(&bare).await;
    let xconnect = world.start();
    pass(LIFE * 99 / 100).await;
    assert_eq!((world.kernel.links().len(), count(&xconnect, "entry"), count(&xconnect, "link")), (2, 1, 0));
    pass(LIFE / 2).await;
    assert_eq!((world.kernel.links(), world.kernel.rules(), world.journal()), (vec![], vec![], 0));
}

#[tokio::test(start_paused = true)]
async fn nothing_ends_while_nobody_can_refresh() {
    let world = World::new();
    let left = desired("left", 1);
    world.make("/own", &left).await;
    world.make("/own", &desired("orphan", 3)).await;
    world.write(&left).await;
    world.suspend.send_replace(Some(Instant::now() + LIFE * 10));
    let _running = world.start();
    pass(LIFE * 9).await;
    assert_eq!((world.kernel.links().len(), world.journal()), (4, 1));
    pass(LIFE * 2).await;
    assert_eq!((world.kernel.links().len(), world.journal()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn an_orphan_that_finds_its_connection_stays() {
    let world = World::new();
    let desired = desired("late", 1);
    world.make("/own", &desired).await;
    let xconnect = world.start();
    pass(LIFE / 2).await;
    assert_eq!(count(&xconnect, "link"), 2);
    xconnect.known.ask(desired.footprint());
    pass(LIFE * 3).await;
    assert_eq!((count(&xconnect, "link"), world.kernel.links().len()), (0, 2));
    assert_eq!(xconnect.known.standing(&ConnectionId::new("late").unwrap()), Some(Standing::Asked));
}

/// A wall clock that is an hour off, now this way and now that.
#[derive(Default)]
struct Jumping(std::sync::atomic::AtomicU32);

impl crate::chain::Now for Jumping {
    fn seconds(&self) -> f64 {
        let now = crate::chain::Now::seconds(&SystemClock);
        let jumps = self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        if jumps.is_multiple_of(2) { now + 3600.0 } else { now - 3600.0 }
    }
}

#[tokio::test(start_paused = true)]
async fn a_wall_clock_that_jumps_by_an_hour_removes_nothing() {
    let world = World { clock: Arc::new(Jumping::default()), ..World::new() };
    let left = desired("left", 1);
    world.make("/own", &left).await;
    let (journal, _) = Journal::open(world.folder.path()).unwrap();
    // By the wall clock it was over long ago.
    journal.put(Entry::new(&left, std::time::UNIX_EPOCH)).await.unwrap();
    let xconnect = world.start();
    pass(LIFE * 99 / 100).await;
    assert_eq!((world.kernel.links().len(), world.journal()), (2, 1));
    xconnect.known.ask(left.footprint());
    pass(LIFE * 10).await;
    assert_eq!((world.kernel.links().len(), world.journal()), (2, 1));
}

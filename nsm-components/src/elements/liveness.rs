//! Liveness: whether the packets of a client's connections pass (dataplane §10).
//!
//! It looks at the links' own counters first, and sends ICMP echoes only where nothing comes. All connections
//! of a process share one task. What becomes known is told to who heals each connection.

mod counters;
mod echo;
mod links;
mod paths;
mod pulse;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, OnceLock},
};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, mpsc, watch},
    time::{Instant, MissedTickBehavior},
};
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, warn};

pub use self::pulse::{Data, Pace};
use self::{
    echo::{Echo, has_no_way, is_not_allowed},
    links::Links,
    paths::{Paths, Route},
};
use crate::{
    api::{Connection, Mechanism, context::nets, mechanism::NAME},
    chain::{Cx, Element, Next, Reply, Request, Result},
};

/// Most pairs of addresses of a connection that are asked.
const PAIRS: usize = 8;

/// Answers that wait to be noted.
const ANSWERS: usize = 1024;

/// The liveness of all connections of a process. Clones share it.
#[derive(Clone)]
pub struct Liveness {
    paths: Arc<Mutex<Paths>>,
    changed: Arc<Notify>,
    /// Why echoes cannot be sent.
    off: Arc<OnceLock<String>>,
}

/// See the module. One for each connection, all with the same liveness.
#[derive(Clone)]
pub struct LivenessClient(Liveness);

/// A socket that asks, and the task that waits for what it answers.
struct Asking {
    echo: Arc<Echo>,
    _answers: AbortOnDropHandle<()>,
}

/// Connection and number of the pair.
type Pair = (String, usize);

/// What the task of a process holds.
struct Asker {
    liveness: Liveness,
    asking: HashMap<Pair, Asking>,
    answers: mpsc::Sender<Pair>,
}

/// Where the packets of a connection go, if that is by a kernel interface and between addresses.
fn route(connection: &Connection) -> Option<Route> {
    let mechanism = connection.mechanism.as_ref().filter(|mechanism| Mechanism::is_kernel(mechanism))?;
    let context = connection.context.as_ref()?.ip_context.as_ref()?;
    let others = nets(&context.dst_ip_addrs);
    let own = nets(&context.src_ip_addrs).into_iter().map(|net| net.addr());
    let pairs = own.flat_map(|own| others.iter().map(move |other| (own, other.addr())));
    let pairs: Vec<_> = pairs.filter(|(own, other)| own.is_ipv4() == other.is_ipv4()).take(PAIRS).collect();
    (!pairs.is_empty()).then_some(Route {
        endpoint: connection.network_service_endpoint_name.clone(),
        interface: mechanism.get(NAME)?.to_owned(),
        pairs,
    })
}

// === impl Liveness ===

impl Liveness {
    /// Looks at this pace once it [runs](Self::run).
    pub fn new(pace: Pace) -> Self {
        Self { paths: Arc::new(Mutex::new(Paths::new(pace))), changed: Arc::default(), off: Arc::default() }
    }

    /// What is known of a connection, now and whenever it changes.
    pub fn subscribe(&self, id: &str) -> watch::Receiver<Data> {
        self.paths.lock().subscribe(id)
    }

    /// Others say that the connection is down: it is looked at now.
    pub fn doubt(&self, id: &str) {
        self.paths.lock().doubt(id);
        self.changed.notify_one();
    }

    fn set(&self, id: &str, route: Option<Route>) {
        self.paths.lock().set(id, route);
        self.changed.notify_one();
    }

    /// Looks until dropped, in the network namespace of this process.
    pub async fn run(self, pace: Pace) {
        let (answers, mut answered) = mpsc::channel(ANSWERS);
        let mut links = Links::open().inspect_err(|error| warn!(%error, "cannot hear of broken links")).ok();
        let mut asker = Asker { liveness: self.clone(), asking: HashMap::new(), answers };
        let mut ticks = tokio::time::interval(pace.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let idle = self.paths.lock().is_empty();
            tokio::select! {
                _ = ticks.tick(), if !idle => asker.look(),
                () = self.changed.notified() => {
                    asker.look();
                    // Who is asked now is late one interval from now.
                    ticks.reset();
                }
                Some((id, pair)) = answered.recv() => {
                    self.paths.lock().answered(&id, pair, Instant::now());
                }
                broken = broken(&mut links) => {
                    for interface in broken {
                        self.paths.lock().broke(&interface, Instant::now());
                    }
                }
            }
        }
    }
}

/// Waits for links that break; for ever once the kernel does not tell.
async fn broken(links: &mut Option<Links>) -> Vec<String> {
    let Some(open) = links else { return std::future::pending().await };
    match open.broken().await {
        Ok(broken) => broken,
        // Messages were lost: the next look finds what is gone.
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NOBUFS.raw_os_error()) => Vec::new(),
        Err(error) => {
            warn!(%error, "cannot hear of broken links any more");
            *links = None;
            Vec::new()
        }
    }
}

// === impl Asker ===

impl Asker {
    fn look(&mut self) {
        let counted = match counters::received() {
            Ok(counted) => counted,
            Err(error) => return debug!(%error, "cannot read what the links have received"),
        };
        if self.liveness.off.get().is_some() {
            return;
        }
        let to_ask: Vec<_> = {
            let mut paths = self.liveness.paths.lock();
            let ids = paths.look(Instant::now(), &counted);
            ids.into_iter().filter_map(|id| paths.route(&id).cloned().map(|route| (id, route))).collect()
        };
        // Sockets of those who are not asked are not held.
        let asked: HashSet<&String> = to_ask.iter().map(|(id, _)| id).collect();
        self.asking.retain(|(id, _), _| asked.contains(id));
        for (id, route) in &to_ask {
            for number in 0..route.pairs.len() {
                self.ask(&(id.clone(), number), route);
            }
        }
    }

    /// One that cannot be asked is as silent as one that does not answer.
    fn ask(&mut self, pair: &Pair, route: &Route) {
        let asked = match self.asking.get(pair) {
            Some(asking) => asking.echo.ask(),
            None => self.open(pair, route).and_then(|asking| {
                let asked = asking.echo.ask();
                self.asking.insert(pair.clone(), asking);
                asked
            }),
        };
        match asked {
            Ok(()) => {}
            Err(error) if is_not_allowed(&error) => self.turn_off(&error),
            Err(error) => {
                debug!(connection.id = %pair.0, %error, "cannot ask the other side");
                self.asking.remove(pair);
                if has_no_way(&error) {
                    self.liveness.paths.lock().has_no_way(&pair.0, Instant::now());
                }
            }
        }
    }

    fn open(&self, pair: &Pair, route: &Route) -> std::io::Result<Asking> {
        let (own, other) = route.pairs[pair.1];
        let echo = Arc::new(Echo::open(own, other)?);
        let (answering, answers, pair) = (echo.clone(), self.answers.clone(), pair.clone());
        let wait = async move {
            // An error is that of one packet, such as "no route to host".
            loop {
                if answering.answer().await.is_ok() && answers.send(pair.clone()).await.is_err() {
                    return;
                }
            }
        };
        Ok(Asking { echo, _answers: AbortOnDropHandle::new(tokio::spawn(wait)) })
    }

    fn turn_off(&self, error: &std::io::Error) {
        if self.liveness.off.set(error.to_string()).is_ok() {
            warn!(
                %error,
                "liveness is off: this process may open no ICMP socket; it needs net.ipv4.ping_group_range, \
                 which the forwarder sets, or CAP_NET_RAW"
            );
        }
    }
}

#[async_trait]
impl Element for LivenessClient {
    fn name(&self) -> &'static str {
        "liveness"
    }

    async fn request(&self, cx: &Cx, request: Request, next: Next<'_>) -> Result<Reply> {
        let id = request.connection.origin_id().to_owned();
        let reply = next.request(cx, request).await?;
        self.0.set(&id, route(&reply.connection));
        Ok(reply)
    }

    async fn close(&self, cx: &Cx, request: Request, next: Next<'_>) -> Result<()> {
        let id = request.connection.origin_id().to_owned();
        self.0.set(&id, None);
        next.close(cx, request).await
    }
}

impl LivenessClient {
    /// Tells this liveness of the connection.
    pub fn new(liveness: Liveness) -> Self {
        Self(liveness)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::connectioncontext::{ConnectionContext, IpContext};

    #[test]
    fn every_pair_of_one_family_is_asked_of_kernel_interfaces_alone() {
        let ip = IpContext {
            src_ip_addrs: vec!["10.0.0.1/32".into(), "fd00::1/128".into()],
            dst_ip_addrs: vec!["10.0.0.0/32".into(), "fd00::/128".into(), "fd00::2/128".into()],
            ..Default::default()
        };
        let mut mechanism = Mechanism::kernel();
        mechanism.set(NAME, "nsm-1");
        let mut connection = Connection {
            mechanism: Some(mechanism),
            network_service_endpoint_name: "nse".into(),
            context: Some(ConnectionContext { ip_context: Some(ip), ..Default::default() }),
            ..Default::default()
        };
        let found = route(&connection).unwrap();
        assert_eq!((found.endpoint.as_str(), found.interface.as_str()), ("nse", "nsm-1"));
        let pairs: Vec<_> = found.pairs.iter().map(|(own, other)| format!("{own} {other}")).collect();
        assert_eq!(pairs, ["10.0.0.1 10.0.0.0", "fd00::1 fd00::", "fd00::1 fd00::2"]);
        connection.mechanism = Some(Mechanism { r#type: "MEMIF".into(), ..Mechanism::kernel() });
        assert_eq!(route(&connection), None);
    }
}

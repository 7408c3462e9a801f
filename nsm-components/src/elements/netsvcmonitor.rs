//! `netsvcmonitor`: closes a connection whose endpoint its network service lets the client use no
//! more, because the service's matches, the endpoint's labels or the service itself are gone or
//! others now (protocol §4.4). Its client is told, and asks for another endpoint.
//!
//! It stands beside the chain: no Request waits for it, and one watch of the index serves all
//! connections of a service. The nsmgr of the client's node alone closes: from there everything is.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use futures::StreamExt;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use super::{Found, Index, Monitor, MonitorEvent, Watched};
use crate::{
    api::{Connection, matching, mechanism},
    chain::Session,
};

/// Changes of this time are looked at together: a new endpoint and its connection come by two ways.
const GATHER: Duration = Duration::from_millis(100);

/// Pause before what could not be closed, or not followed, is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// See the module.
pub struct NetSvcMonitor {
    /// Tells of services and endpoints.
    pub index: Index,
    /// Tells of connections.
    pub monitor: Arc<Monitor>,
    /// Closes them.
    pub session: Arc<Session>,
}

/// What a service's matches look at: labels of the client, and the endpoint's name.
type Subject = (BTreeMap<String, String>, String);

/// The connections of one service, by id.
#[derive(Default)]
struct Subjects {
    all: Mutex<HashMap<String, Subject>>,
    changed: Notify,
}

struct Service {
    subjects: Arc<Subjects>,
    _task: AbortOnDropHandle<()>,
}

/// What is followed now.
#[derive(Default)]
struct Followed {
    services: HashMap<String, Service>,
    /// Service of each connection, by the connection's id.
    of: HashMap<String, String>,
}

/// Whether the service is known to let this client use this endpoint no more. What is not known is
/// no reason: the registry may just have been started anew.
fn is_over(found: &Found, (labels, endpoint): &Subject) -> bool {
    let Some(service) = &found.service else { return found.deleted };
    let known = found.endpoints.get(&**endpoint);
    known.is_some_and(|known| !matching::fits(labels, service, &known.0))
}

/// Whether the client sits on this node. Endpoints of upstream that make no interface answer without a
/// mechanism; other nodes' nsmgrs always bring one.
fn is_own(connection: &Connection) -> bool {
    connection.mechanism.as_ref().is_none_or(|mechanism| mechanism.cls != mechanism::REMOTE)
}

// === impl Followed ===

impl Followed {
    /// Takes the connection out, and its service with the last one.
    fn remove(&mut self, id: &str) {
        let Some(name) = self.of.remove(id) else { return };
        let last = self.services.get(&name).is_some_and(|service| {
            let mut all = service.subjects.all.lock();
            all.remove(id);
            all.is_empty()
        });
        if last {
            self.services.remove(&name);
        }
    }
}

// === impl NetSvcMonitor ===

impl NetSvcMonitor {
    /// Watches until dropped.
    pub async fn run(self) {
        loop {
            // Begins with every connection there is.
            let mut followed = Followed::default();
            let mut events = Box::pin(self.monitor.watch());
            while let Some(event) = events.next().await {
                self.take(&mut followed, event);
            }
        }
    }

    fn take(&self, followed: &mut Followed, MonitorEvent { connection, closed }: MonitorEvent) {
        let (id, name) = (&connection.id, &connection.network_service);
        if closed || !is_own(&connection) {
            return followed.remove(id);
        }
        // A client that was started anew may keep its ids and ask for another service.
        if followed.of.get(id).is_some_and(|before| before != name) {
            followed.remove(id);
        }
        followed.of.insert(id.clone(), name.clone());
        let service = followed.services.entry(name.clone()).or_insert_with(|| self.start(name));
        let subject = (connection.labels.clone(), connection.network_service_endpoint_name.clone());
        let before = service.subjects.all.lock().insert(id.clone(), subject.clone());
        if before.as_ref() != Some(&subject) {
            service.subjects.changed.notify_one();
        }
    }

    fn start(&self, name: &str) -> Service {
        let subjects = Arc::new(Subjects::default());
        let (index, session) = (self.index.clone(), self.session.clone());
        let (name, seen) = (name.to_owned(), subjects.clone());
        let task = tokio::spawn(async move {
            let watched = loop {
                match index.watch(&name) {
                    Ok(watched) => break watched,
                    Err(error) => warn!(service = %name, %error, "cannot follow the service; trying again"),
                }
                tokio::time::sleep(RETRY).await;
            };
            follow(&name, watched, &seen, &session).await;
        });
        Service { subjects, _task: AbortOnDropHandle::new(task) }
    }
}

/// Looks at the service's connections whenever it or they change.
async fn follow(name: &str, mut watched: Watched, subjects: &Subjects, session: &Session) {
    let mut again = false;
    loop {
        tokio::select! {
            () = watched.changed() => {}
            () = subjects.changed.notified() => {}
            () = tokio::time::sleep(RETRY), if again => {}
        }
        tokio::time::sleep(GATHER).await;
        let Some(found) = watched.now() else { continue };
        let all = subjects.all.lock();
        let over: Vec<_> = all.iter().filter(|(_, subject)| is_over(&found, subject)).collect();
        // Until they are closed: one may have been too busy to hear of it.
        again = !over.is_empty();
        for (id, (_, endpoint)) in over {
            info!(connection.id = %id, service = %name, %endpoint, "the service chooses this endpoint no more: closing");
            session.end(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::{
            Mechanism, Path, PathSegment,
            registry::{Destination, Match, NetworkService, NetworkServiceEndpoint, NetworkServiceLabels},
        },
        chain::{Chain, Clock, Cx, Element, Policy, RegistryChain, RegistryCx, Request, SystemClock},
        elements::registry::Store,
    };

    fn labels(colour: &str) -> BTreeMap<String, String> {
        [("colour".to_owned(), colour.to_owned())].into()
    }

    fn service(colour: &str) -> NetworkService {
        let route = Destination { destination_selector: labels(colour), ..Default::default() };
        let matches = vec![Match { routes: vec![route], ..Default::default() }];
        NetworkService { name: "finance".into(), matches, ..Default::default() }
    }

    fn endpoint(colour: &str) -> NetworkServiceEndpoint {
        let labels = NetworkServiceLabels { labels: labels(colour) };
        NetworkServiceEndpoint {
            name: "nse".into(),
            network_service_names: vec!["finance".into()],
            network_service_labels: [("finance".to_owned(), labels)].into(),
            url: "tcp://127.0.0.1:1".into(),
            ..Default::default()
        }
    }

    fn cx() -> RegistryCx {
        RegistryCx::within(Duration::from_secs(5))
    }

    /// Everything beside the chain of an nsmgr, with one connection to a blue endpoint.
    struct Stage {
        services: RegistryChain<NetworkService>,
        endpoints: RegistryChain<NetworkServiceEndpoint>,
        monitor: Arc<Monitor>,
        chain: Chain,
        request: Request,
        _task: AbortOnDropHandle<()>,
    }

    impl Stage {
        async fn begin(class: &str) -> Self {
            let services = RegistryChain::new([Store::in_memory() as _]);
            let endpoints = RegistryChain::new([Store::in_memory() as _]);
            services.start().register(&cx(), service("blue")).await.unwrap();
            endpoints.start().register(&cx(), endpoint("blue")).await.unwrap();
            let clock: Clock = Arc::new(SystemClock);
            let monitor = Arc::new(Monitor::default());
            let inner = Chain::new([Arc::new(monitor.clone()) as Arc<dyn Element>]);
            let session = Arc::new(Session::new(inner, Policy::Expire, clock.clone()));
            let index = Index::new(services.clone(), endpoints.clone(), clock, "d");
            let element = NetSvcMonitor { index, monitor: monitor.clone(), session: session.clone() };
            let task = AbortOnDropHandle::new(tokio::spawn(element.run()));
            let expires = Some(prost_types::Timestamp { seconds: i64::from(u32::MAX), nanos: 0 });
            let segments =
                ["nsc", "a"].map(|id| PathSegment { id: id.into(), expires, ..Default::default() });
            let connection = Connection {
                id: "a".into(),
                path: Some(Path { index: 1, path_segments: segments.into() }),
                network_service: "finance".into(),
                network_service_endpoint_name: "nse".into(),
                mechanism: (!class.is_empty())
                    .then(|| Mechanism { cls: class.into(), ..Mechanism::kernel() }),
                ..Default::default()
            };
            let request = Request { connection, ..Default::default() };
            let chain = Chain::new([session as Arc<dyn Element>]);
            chain.start().request(&Cx::within(Duration::from_secs(5)), request.clone()).await.unwrap();
            let stage = Self { services, endpoints, monitor, chain, request, _task: task };
            assert!(stage.stands().await);
            stage
        }

        async fn stands(&self) -> bool {
            tokio::time::sleep(5 * GATHER).await;
            !self.monitor.connections().is_empty()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_edit_of_the_service_that_chooses_others_closes_the_connection() {
        let stage = Stage::begin(mechanism::LOCAL).await;
        stage.services.start().register(&cx(), service("green")).await.unwrap();
        assert!(!stage.stands().await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_without_an_interface_is_closed_as_any_other() {
        let stage = Stage::begin("").await;
        stage.services.start().register(&cx(), service("green")).await.unwrap();
        assert!(!stage.stands().await);
    }

    #[tokio::test(start_paused = true)]
    async fn an_edit_that_chooses_the_same_endpoint_changes_nothing() {
        let stage = Stage::begin(mechanism::LOCAL).await;
        let edited = NetworkService { payload: "IP".into(), ..service("blue") };
        stage.services.start().register(&cx(), edited).await.unwrap();
        assert!(stage.stands().await);
    }

    #[tokio::test(start_paused = true)]
    async fn other_labels_of_the_endpoint_close_the_connection() {
        let stage = Stage::begin(mechanism::LOCAL).await;
        stage.endpoints.start().register(&cx(), endpoint("green")).await.unwrap();
        assert!(!stage.stands().await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_is_deleted_closes_the_connection() {
        let stage = Stage::begin(mechanism::LOCAL).await;
        stage.services.start().unregister(&cx(), service("blue")).await.unwrap();
        assert!(!stage.stands().await);
    }

    #[tokio::test(start_paused = true)]
    async fn an_endpoint_that_is_unknown_is_no_reason_to_close() {
        let stage = Stage::begin(mechanism::LOCAL).await;
        stage.endpoints.start().unregister(&cx(), endpoint("blue")).await.unwrap();
        assert!(stage.stands().await);
        let unknown = (BTreeMap::new(), "nse".to_owned());
        assert!(!is_over(&Found::default(), &unknown), "nor is a registry that knows nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_from_another_node_is_left_to_that_node() {
        let stage = Stage::begin(mechanism::REMOTE).await;
        stage.services.start().register(&cx(), service("green")).await.unwrap();
        assert!(stage.stands().await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_went_to_another_service_is_no_more_a_matter_of_the_first() {
        let stage = Stage::begin(mechanism::LOCAL).await;
        let other = NetworkService { name: "other".into(), ..Default::default() };
        stage.services.start().register(&cx(), other).await.unwrap();
        let mut request = stage.request.clone();
        request.connection.network_service = "other".into();
        stage.chain.start().request(&Cx::within(Duration::from_secs(5)), request).await.unwrap();
        assert!(stage.stands().await);
        stage.services.start().register(&cx(), service("green")).await.unwrap();
        assert!(stage.stands().await);
    }
}

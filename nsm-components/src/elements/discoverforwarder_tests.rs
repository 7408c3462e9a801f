//! Which of several forwarders on a node carries a connection.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;

use super::*;
use crate::{
    api::{
        Mechanism, Path, PathSegment,
        registry::{Destination, Match, Metadata, NetworkServiceLabels},
    },
    chain::{Chain, RegistryChain, RegistryCx, SystemClock},
    elements::registry::Store,
};

/// Notes who was asked; one of them refuses, one is dead.
#[derive(Default)]
struct Forwarders {
    asked: Mutex<Vec<String>>,
    refusing: Mutex<Option<String>>,
    dead: Mutex<Option<String>>,
}

#[async_trait]
impl Element for Arc<Forwarders> {
    fn name(&self) -> &'static str {
        "forwarders"
    }

    async fn request(&self, cx: &Cx, request: Request, next: Next<'_>) -> Result<Reply> {
        let name = cx.next_hop.as_ref().unwrap().to_string().replace("unix:///", "");
        self.asked.lock().push(name.clone());
        // As `connect` does.
        let dead = self.dead.lock().as_ref() == Some(&name);
        cx.memory.with(|memory| memory.refused = dead);
        if dead {
            return Err(Error::new(Kind::Unavailable, "nobody listens"));
        }
        if self.refusing.lock().as_ref() == Some(&name) {
            return Err(Error::new(Kind::Unavailable, "told to refuse"));
        }
        next.request(cx, request).await
    }
}

fn labels(pairs: &[(&str, &str)]) -> std::collections::BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// An entry that offers `service` under these labels.
fn entry(name: &str, service: &str, pairs: &[(&str, &str)], url: &str) -> NetworkServiceEndpoint {
    NetworkServiceEndpoint {
        name: name.into(),
        network_service_names: vec![service.into()],
        network_service_labels: [(service.to_owned(), NetworkServiceLabels { labels: labels(pairs) })].into(),
        url: url.into(),
        ..Default::default()
    }
}

struct Stage {
    chain: Chain,
    forwarders: Arc<Forwarders>,
    local: LocalEntries,
}

impl Stage {
    /// Two forwarders that do point to point, `a` and `b`, and `fast`; the service as given.
    async fn new(matches: Vec<Match>) -> Self {
        let cx = RegistryCx::within(Duration::from_secs(5));
        let services = RegistryChain::new([Store::in_memory() as _]);
        let endpoints = RegistryChain::new([Store::in_memory() as _]);
        let service = NetworkService { name: "finance".into(), matches, ..Default::default() };
        services.start().register(&cx, service).await.unwrap();
        let blue = entry("blue", "finance", &[("colour", "blue")], "tcp://10.0.0.1:1");
        endpoints.start().register(&cx, blue).await.unwrap();
        // What other nodes' forwarders are to the registry plays no part.
        let foreign = entry("0", "forwarder", &[("p2p", "true")], "tcp://10.0.0.2:1");
        endpoints.start().register(&cx, foreign).await.unwrap();
        let index = Index::new(services, endpoints, Arc::new(SystemClock), "");
        let local = LocalEntries::default();
        for (name, pairs) in
            [("a", [("p2p", "true")]), ("b", [("p2p", "true")]), ("fast", [("speed", "high")])]
        {
            let entry = entry(name, "forwarder", &pairs, "");
            local.insert(entry, Address::Unix(format!("/{name}").into()));
        }
        let forwarders = Arc::new(Forwarders::default());
        let discover = DiscoverForwarder::new(index, local.clone(), "forwarder");
        let chain = Chain::new([Arc::new(discover) as Arc<dyn Element>, Arc::new(forwarders.clone())]);
        Self { chain, forwarders, local }
    }

    /// Who was asked for this connection, and what came of it.
    async fn ask(&self, cx: &Cx, connection: Connection) -> (Vec<String>, Result<Reply>) {
        let request = Request { connection, preferences: vec![Mechanism::kernel()], ..Default::default() };
        let reply = self.chain.start().request(cx, request).await;
        (std::mem::take(&mut *self.forwarders.asked.lock()), reply)
    }
}

fn cx() -> Cx {
    Cx::within(Duration::from_secs(5))
}

fn connection() -> Connection {
    Connection { network_service: "finance".into(), ..Default::default() }
}

/// With a path that leads on to this forwarder.
fn through(forwarder: &str) -> Connection {
    let segment = |name: &str| PathSegment { name: name.into(), ..Default::default() };
    let path_segments = ["nsc", "nsmgr", forwarder].map(segment).into();
    Connection { path: Some(Path { index: 1, path_segments }), ..connection() }
}

fn chosen_by(pairs: &[(&str, &str)]) -> Match {
    Match { metadata: Some(Metadata { labels: labels(pairs) }), ..Default::default() }
}

#[tokio::test]
async fn a_services_metadata_say_which_forwarder_carries_it_and_point_to_point_ones_do_otherwise() {
    let stage = Stage::new(vec![chosen_by(&[("speed", "high")])]).await;
    assert_eq!(stage.ask(&cx(), connection()).await.0, ["fast"]);
    let stage = Stage::new(vec![chosen_by(&[])]).await;
    assert_eq!(stage.ask(&cx(), connection()).await.0, ["a"]);
    let stage = Stage::new(vec![chosen_by(&[("speed", "none")])]).await;
    let (asked, reply) = stage.ask(&cx(), connection()).await;
    assert!(asked.is_empty() && reply.unwrap_err().message.contains("no forwarder for finance"));
}

#[tokio::test]
async fn the_next_forwarder_is_asked_when_one_refuses_but_a_refresh_stays_with_its_own() {
    let stage = Stage::new(vec![]).await;
    *stage.forwarders.refusing.lock() = Some("a".into());
    let cx = cx();
    assert_eq!(stage.ask(&cx, connection()).await.0, ["a", "b"]);
    *stage.forwarders.refusing.lock() = Some("b".into());
    let (asked, reply) = stage.ask(&cx, connection()).await;
    assert!(reply.is_err());
    assert_eq!(asked, ["b"], "the good connection is not torn down for another forwarder");
    let anew = Connection { state: State::ReselectRequested.into(), ..connection() };
    assert_eq!(stage.ask(&cx, anew).await.0, ["a"]);
}

#[tokio::test]
async fn a_connection_leaves_a_forwarder_that_is_gone_for_some_time_and_no_other() {
    let stage = Stage::new(vec![]).await;
    let cx = cx();
    stage.ask(&cx, connection()).await.1.unwrap();
    let later = || tokio::time::sleep(MOVE_AFTER + Duration::from_millis(20));
    tokio::time::pause();
    *stage.forwarders.dead.lock() = Some("a".into());
    assert_eq!(stage.ask(&cx, connection()).await.0, ["a"], "it may just be started anew");
    *stage.forwarders.dead.lock() = None;
    later().await;
    assert_eq!(stage.ask(&cx, connection()).await.0, ["a"], "and it was");
    *stage.forwarders.dead.lock() = Some("a".into());
    assert!(stage.ask(&cx, connection()).await.1.is_err());
    later().await;
    assert_eq!(stage.ask(&cx, connection()).await.0, ["a", "b"]);
    assert_eq!(stage.ask(&cx, connection()).await.0, ["b"]);
    stage.local.remove("b");
    assert!(stage.ask(&cx, connection()).await.1.is_err(), "an nsmgr that was started anew knows none yet");
    later().await;
    assert!(stage.ask(&cx, connection()).await.0.starts_with(&["a".into()]));
}

#[tokio::test]
async fn after_a_restart_the_path_says_which_forwarder_it_was() {
    let stage = Stage::new(vec![]).await;
    assert_eq!(stage.ask(&cx(), through("b")).await.0, ["b"]);
    stage.local.remove("b");
    assert_eq!(stage.ask(&cx(), through("b")).await.0, ["a"], "one that is gone is no reason to fail");
}

#[tokio::test]
async fn an_endpoint_that_the_service_does_not_choose_is_refused_to_the_clients_of_this_node() {
    let route =
        |colour| Destination { destination_selector: labels(&[("colour", colour)]), ..Default::default() };
    let service = |colour| vec![Match { routes: vec![route(colour)], ..Default::default() }];
    let blue = || Connection { network_service_endpoint_name: "blue".into(), ..connection() };
    assert!(Stage::new(service("blue")).await.ask(&cx(), blue()).await.1.is_ok());
    let stage = Stage::new(service("green")).await;
    assert_eq!(stage.ask(&cx(), blue()).await.1.unwrap_err().kind, Kind::Gone);
    let unknown = Connection { network_service_endpoint_name: "unknown".into(), ..connection() };
    assert!(stage.ask(&cx(), unknown).await.1.is_ok(), "the forwarder may know more");
}

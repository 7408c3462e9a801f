//! Serves `/livez`, `/readyz` and `/metrics`.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::{Method, Request, Response, StatusCode};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use kube::runtime::reflector::Store;
use tokio::{net::TcpListener, sync::Semaphore};
use tracing::info;

use crate::{
    collect::Stores,
    metrics::{self, Metrics},
    status,
};

/// Most connections at a time; more wait.
const CONNECTIONS: usize = 16;

/// How long a request may take to come.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is told of.
pub struct Health {
    /// What the watches know.
    pub stores: Stores,
    /// What was counted.
    pub metrics: Metrics,
    /// Whether all watches are up.
    pub ready: AtomicBool,
}

/// Listens; the port 0 is any that is free.
pub async fn listen(on: &str) -> std::io::Result<TcpListener> {
    let listener = TcpListener::bind(on).await?;
    let address: SocketAddr = listener.local_addr()?;
    info!(%address, "serves /livez, /readyz and /metrics");
    Ok(listener)
}

/// Serves until it is dropped.
pub async fn serve(listener: TcpListener, health: Arc<Health>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, or the caller is gone again.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let health = Arc::clone(&health);
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let answer = health.answer(&request);
                async move { Ok::<_, Infallible>(answer) }
            });
            let mut server = http1::Builder::new();
            server.timer(TokioTimer::new()).header_read_timeout(PATIENCE);
            // Who asks sees it when the connection breaks.
            let _ = server.serve_connection(TokioIo::new(stream), service).await;
            drop(place);
        });
    }
}

impl Health {
    fn answer(&self, request: &Request<Incoming>) -> Response<String> {
        let (code, text) = match (request.method(), request.uri().path()) {
            (&Method::GET, "/livez") => (StatusCode::OK, "ok\n".to_owned()),
            // One that stands by is ready, too: it can take over at once.
            (&Method::GET, "/readyz") if self.ready.load(Ordering::Relaxed) => {
                (StatusCode::OK, "ok\n".to_owned())
            }
            (&Method::GET, "/readyz") => {
                (StatusCode::SERVICE_UNAVAILABLE, "the watches are not up yet\n".to_owned())
            }
            (&Method::GET, "/metrics") => (StatusCode::OK, self.figures()),
            _ => (StatusCode::NOT_FOUND, "there are /livez, /readyz and /metrics\n".to_owned()),
        };
        let mut answer = Response::new(text);
        *answer.status_mut() = code;
        answer
    }

    fn figures(&self) -> String {
        let Stores { configs, nodes, services, templates, owned, .. } = &self.stores;
        self.cached("NSMConfig", configs);
        self.cached("NSMNodeState", nodes);
        self.cached("NetworkService", services);
        self.cached("NetworkServiceEndpoint", templates);
        for (kind, store) in owned {
            self.cached(kind.name(), store);
        }
        let counts = status::mesh(nodes.state().iter().map(AsRef::as_ref)).counts;
        for (state, count) in [("up", counts.up), ("down", counts.down)] {
            let count = i32::try_from(count).unwrap_or(i32::MAX);
            self.metrics.set(metrics::CONNECTIONS, &[("state", state)], count.into());
        }
        self.metrics.set(metrics::BUILD, &[("version", env!("CARGO_PKG_VERSION"))], 1.0);
        self.metrics.text()
    }

    fn cached<K>(&self, kind: &str, store: &Store<K>)
    where
        K: kube::Resource + Clone + 'static,
        K::DynamicType: Eq + std::hash::Hash + Clone,
    {
        let count = u32::try_from(store.len()).unwrap_or(u32::MAX);
        self.metrics.set(metrics::CACHED, &[("kind", kind)], count.into());
    }
}

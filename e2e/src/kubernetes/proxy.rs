//! A proxy before the API server that refuses what a test wants refused.

use std::{
    future::poll_fn,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, PoisonError, RwLock},
};

use anyhow::{Context, Result};
use http::{Method, Request, Response, Uri};
use hyper::{
    body::{Body as _, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use kube::{
    Client, Config,
    client::Body,
    config::{AuthInfo, KubeConfigOptions, Kubeconfig},
};
use serde_json::json;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

use super::ControlPlane;

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It reaches the API server.
    Pass,
    /// It is refused with this code.
    Refuse(u16),
    /// It reaches the API server, as a watch from a version of long ago.
    Rewind,
}

type Judge = Box<dyn Fn(&Method, &Uri) -> Fate + Send + Sync>;

/// A proxy in plain HTTP, on the loopback. It ends when it is dropped.
pub struct Proxy {
    address: SocketAddr,
    judge: Arc<RwLock<Judge>>,
    cut: watch::Sender<()>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// A proxy that lets everything pass, with the rights of whoever calls.
    pub async fn start(plane: &ControlPlane) -> Result<Self> {
        let kubeconfig = Kubeconfig::read_from(plane.kubeconfig())?;
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        config.auth_info = AuthInfo::default();
        config.default_retry = false;
        let client = Client::try_from(config)?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let judge: Arc<RwLock<Judge>> = Arc::new(RwLock::new(Box::new(|_, _| Fate::Pass)));
        let (cut, cuts) = watch::channel(());
        let task = tokio::spawn(accept(listener, client, Arc::clone(&judge), cuts));
        Ok(Self { address, judge, cut, task })
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on this says what becomes of requests.
    pub fn judge(&self, judge: impl Fn(&Method, &Uri) -> Fate + Send + Sync + 'static) {
        *self.judge.write().unwrap_or_else(PoisonError::into_inner) = Box::new(judge);
    }

    /// Ends all connections, and the watches on them.
    pub fn cut(&self) {
        self.cut.send_replace(());
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, client: Client, judge: Arc<RwLock<Judge>>, cuts: watch::Receiver<()>) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(serve(stream, client.clone(), Arc::clone(&judge), cuts.clone()));
    }
}

async fn serve(stream: TcpStream, client: Client, judge: Arc<RwLock<Judge>>, mut cuts: watch::Receiver<()>) {
    cuts.mark_unchanged();
    let service = service_fn(|request| answer(request, client.clone(), &judge));
    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        // Who calls sees it when a connection ends.
        _ = connection => {}
        _ = cuts.changed() => {}
    }
}

async fn answer(request: Request<Incoming>, client: Client, judge: &RwLock<Judge>) -> Result<Response<Body>> {
    let fate = judge.read().unwrap_or_else(PoisonError::into_inner)(request.method(), request.uri());
    let (mut parts, body) = request.into_parts();
    parts.headers.remove(http::header::HOST);
    match fate {
        Fate::Pass => {}
        Fate::Refuse(code) => return refusal(code),
        Fate::Rewind => parts.uri = rewound(&parts.uri)?,
    }
    let request = Request::from_parts(parts, Body::from(whole(body).await?));
    client.send(request).await.context("the API server did not answer")
}

/// All of a body. Those of requests are small; answers may never end, and pass as they come.
async fn whole(mut body: Incoming) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        if let Ok(data) = frame?.into_data() {
            bytes.extend_from_slice(&data);
        }
    }
    Ok(bytes)
}

fn refusal(code: u16) -> Result<Response<Body>> {
    let status = json!({
        "apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code, "metadata": {},
        "reason": match code { 403 => "Forbidden", 429 => "TooManyRequests", _ => "ServiceUnavailable" },
        "message": "a storm of the test",
    });
    let answer = Response::builder().status(code).header("content-type", "application/json");
    Ok(answer.header("retry-after", "1").body(Body::from(status.to_string().into_bytes()))?)
}

/// The same watch, from version 1 on.
fn rewound(uri: &Uri) -> Result<Uri> {
    let query = uri.query().unwrap_or_default();
    let parts = query
        .split('&')
        .map(|part| if part.starts_with("resourceVersion=") { "resourceVersion=1" } else { part });
    let query = parts.collect::<Vec<_>>().join("&");
    Ok(format!("{}?{query}", uri.path()).parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_is_rewound_and_nothing_else_of_it_changes() {
        let uri: Uri = "/api/v1/nodes?watch=true&resourceVersion=77&timeoutSeconds=290".parse().unwrap();
        let rewound = rewound(&uri).unwrap().to_string();
        assert_eq!(rewound, "/api/v1/nodes?watch=true&resourceVersion=1&timeoutSeconds=290");
    }
}

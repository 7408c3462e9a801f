//! Counts what the client asks of the API server, and knows when it last opened a watch.

use std::{
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures::{FutureExt, future::BoxFuture};
use http::{Request, Response};
use kube::client::Body;
use tower::Service;

use crate::metrics::{self, Metrics};

/// How long a watch may take to catch up.
const CATCH_UP: Duration = Duration::from_secs(2);

/// Whether what the watches tell is news: one that was opened again first tells what it missed, of which each
/// event alone shows a state that may be long over. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Calm(Arc<Mutex<Option<Instant>>>);

impl Calm {
    /// Whether no watch was opened just now.
    pub fn is_calm(&self) -> bool {
        let opened = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        opened.is_none_or(|opened| opened.elapsed() >= CATCH_UP)
    }

    /// Takes note of a request.
    fn note<T>(&self, request: &Request<T>) {
        if request.uri().query().is_some_and(|query| query.contains("watch=true")) {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        }
    }
}

/// A client that counts its requests by method and answer.
#[derive(Clone)]
pub struct Ledger<S> {
    inner: S,
    metrics: Metrics,
    host: String,
    calm: Calm,
}

impl<S> Ledger<S> {
    /// The same client, counting.
    pub fn new(inner: S, metrics: Metrics, host: String, calm: Calm) -> Self {
        Self { inner, metrics, host, calm }
    }
}

impl<S, B> Service<Request<Body>> for Ledger<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.calm.note(&request);
        let (metrics, host, method) = (self.metrics.clone(), self.host.clone(), request.method().clone());
        let count = move |answer: &Result<S::Response, S::Error>| {
            // As client-go calls those without an answer.
            let code =
                answer.as_ref().map_or("<error>".to_owned(), |answer| answer.status().as_u16().to_string());
            let labels = [("code", code.as_str()), ("host", host.as_str()), ("method", method.as_str())];
            metrics.count(metrics::REQUESTS, &labels);
        };
        self.inner.call(request).inspect(count).boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_watch_is_opened_what_comes_is_no_news_for_a_while() {
        let calm = Calm::default();
        let ask = |uri: &str| calm.note(&Request::get(uri).body(()).unwrap_or_default());
        ask("/api/v1/pods?limit=500");
        assert!(calm.is_calm());
        ask("/api/v1/pods?&watch=true&timeoutSeconds=290&resourceVersion=7");
        assert!(!calm.is_calm());
    }
}

//! Counts what the client asks of the API server.

use std::task::{Context, Poll};

use futures::{FutureExt, future::BoxFuture};
use http::{Request, Response};
use kube::client::Body;
use tower::Service;

use crate::metrics::{self, Metrics};

/// A client that counts its requests by method and answer.
#[derive(Clone)]
pub struct Ledger<S> {
    inner: S,
    metrics: Metrics,
    host: String,
}

impl<S> Ledger<S> {
    /// The same client, counting.
    pub fn new(inner: S, metrics: Metrics, host: String) -> Self {
        Self { inner, metrics, host }
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

//! A connection's calls, each counted by its method on the way out.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use tonic::{body::Body, transport};

use super::Counts;

/// What generated clients call: tonic's channel, and the counts beside it.
#[derive(Clone, Debug)]
pub struct Calls {
    channel: transport::Channel,
    counts: Arc<Counts>,
}

impl Calls {
    pub(super) fn new(channel: transport::Channel, counts: Arc<Counts>) -> Self {
        Self { channel, counts }
    }
}

impl tower::Service<http::Request<Body>> for Calls {
    type Response = http::Response<Body>;
    type Error = transport::Error;
    type Future = transport::channel::ResponseFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.channel.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        self.counts.called(request.uri().path());
        self.channel.call(request)
    }
}

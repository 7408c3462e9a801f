//! The network service API as a gRPC server: a chain, and the monitor beside it.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures::{Stream, StreamExt};
use tokio_util::sync::CancellationToken;
use tonic::{Request as Call, Response, Status};

use super::{
    grpc::{accepted, caller, claim, claim_arrived, deadline, named, status, urls},
    monitor::Monitor,
    opa::{self, Policies},
};
use crate::{
    api::{
        Connection,
        connection::{ConnectionEvent, MonitorScopeSelector, monitor_connection_server::MonitorConnection},
        networkservice::{NetworkServiceRequest, network_service_server::NetworkService},
    },
    chain::{Chain, Cx, Request},
    transport::Accepted,
};

/// Serves a chain and its monitor.
#[derive(Clone)]
pub struct ConnectionService {
    chain: Chain,
    monitor: Arc<Monitor>,
    policies: Policies,
    token_life: Duration,
    stop: CancellationToken,
}

impl ConnectionService {
    /// Serves `chain`, whose monitor element is `monitor`; tokens live at most `token_life`. Streams
    /// end with the stop, or they would hold it up.
    pub fn new(chain: Chain, monitor: Arc<Monitor>, token_life: Duration, stop: CancellationToken) -> Self {
        Self { chain, monitor, policies: Policies::default(), token_life, stop }
    }

    /// The same, and these policies must agree to who watches connections.
    #[must_use]
    pub fn with(self, policies: Policies) -> Self {
        Self { policies, ..self }
    }

    /// What travels beside the call.
    fn receive<T>(&self, call: &Call<T>, accepted: &Accepted) -> Cx {
        let deadline = deadline(call.metadata());
        let caller = caller(&accepted.session, call.metadata(), self.token_life);
        Cx { deadline, caller: Some(caller), ..Cx::within(Duration::ZERO) }
    }
}

#[tonic::async_trait]
impl NetworkService for ConnectionService {
    async fn request(&self, call: Call<NetworkServiceRequest>) -> Result<Response<Connection>, Status> {
        let message = call.get_ref().clone();
        let connection =
            message.connection.ok_or_else(|| Status::invalid_argument("there is no connection"))?;
        let mut request =
            Request { connection, preferences: message.mechanism_preferences, ..Request::default() };
        let accepted = accepted(&call)?;
        let cx = self.receive(&call, &accepted);
        let sent = urls(request.preferences.iter().chain(&request.connection.mechanism));
        if !accepted.local && !sent.is_empty() {
            let message = "a mechanism with a file cannot come over TCP: files pass unix sockets alone";
            return Err(Status::invalid_argument(message));
        }
        if accepted.local {
            let files = claim(&accepted.files, &sent, cx.deadline).await;
            request.files = files.map_err(|error| status(&error))?;
        }
        let mut reply = self.chain.start().request(&cx, request).await.map_err(|error| status(&error))?;
        // Clients judge this process's own token by the certificate it showed them.
        if let Some(own) = reply.connection.segment_mut(1) {
            let shown = accepted.session.show(&own.token);
            own.token = shown.map_err(|error| Status::internal(error.to_string()))?.to_string();
        }
        if accepted.local {
            // The endpoint's own files go back beside the answer. What the caller sent it has, and
            // would never claim: the copies would pin its network namespace.
            let mut own = urls(&reply.connection.mechanism);
            own.retain(|url| !sent.contains(url));
            if !accepted.files.send(&named(&reply.files, &own)) {
                return Err(Status::resource_exhausted(
                    "the files of earlier answers are still waiting to be read",
                ));
            }
        }
        Ok(Response::new(reply.connection))
    }

    async fn close(&self, call: Call<Connection>) -> Result<Response<()>, Status> {
        let mut request = Request { connection: call.get_ref().clone(), ..Request::default() };
        let accepted = accepted(&call)?;
        let cx = self.receive(&call, &accepted);
        if accepted.local {
            request.files = claim_arrived(&accepted.files, &urls(&request.connection.mechanism));
        }
        self.chain.start().close(&cx, request).await.map_err(|error| status(&error))?;
        Ok(Response::new(()))
    }
}

#[tonic::async_trait]
impl MonitorConnection for ConnectionService {
    type MonitorConnectionsStream = Pin<Box<dyn Stream<Item = Result<ConnectionEvent, Status>> + Send>>;

    async fn monitor_connections(
        &self,
        call: Call<MonitorScopeSelector>,
    ) -> Result<Response<Self::MonitorConnectionsStream>, Status> {
        let accepted = accepted(&call)?;
        let peer = &accepted.session.peer.id;
        if !self.policies.is_empty() {
            let known = self.monitor.ids_before(peer);
            let input = opa::watch(peer, &known, call.get_ref(), accepted.session.certificate());
            self.policies.judge(input).await.map_err(|error| status(&error))?;
        }
        let events = self.monitor.subscribe(call.into_inner(), peer)?;
        Ok(Response::new(Box::pin(events.take_until(self.stop.clone().cancelled_owned()))))
    }
}

/// The standard health service: these services and the process as a whole serve from when `ready`
/// ends until the stop (gRPC Health Checking Protocol).
pub fn health_service(
    services: &'static [&'static str],
    ready: impl Future<Output = ()> + Send + 'static,
    stop: CancellationToken,
) -> tonic_health::pb::health_server::HealthServer<impl tonic_health::pb::health_server::Health> {
    let (reporter, service) = tonic_health::server::health_reporter();
    tokio::spawn(async move {
        use tonic_health::ServingStatus::{NotServing, Serving};
        let all = || services.iter().copied().chain([""]);
        for name in all() {
            reporter.set_service_status(name, NotServing).await;
        }
        tokio::select! {
            () = ready => {}
            () = stop.cancelled() => return,
        }
        for name in all() {
            reporter.set_service_status(name, Serving).await;
        }
        stop.cancelled().await;
        for name in all() {
            reporter.set_service_status(name, NotServing).await;
        }
    });
    service
}

#[cfg(test)]
#[path = "serve_tests.rs"]
mod tests;

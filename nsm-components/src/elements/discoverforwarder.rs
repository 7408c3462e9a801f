//! `discoverforwarder`: finds the forwarder on this node that carries the connection
//! (protocol §4.4). A connection that has one keeps it, unless that is gone for some time and there is
//! another; after a restart of this process the path tells which it was.

use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;
use tracing::debug;

use super::{Index, LocalEntries, Usable};
use crate::{
    api::{
        Connection,
        connection::State,
        matching, mechanism,
        peer::Address,
        registry::{NetworkService, NetworkServiceEndpoint},
    },
    chain::{Cx, Element, Error, Kind, Next, Reply, Request, Result},
};

/// How long the forwarder of a connection has to be gone before another one is asked: long enough for one
/// that is just started anew.
const MOVE_AFTER: Duration = Duration::from_secs(1);

/// See the module.
pub struct DiscoverForwarder {
    index: Index,
    local: LocalEntries,
    forwarder_service: String,
}

/// An endpoint that the client of this node names must be one that the service lets it use: else
/// `netsvcmonitor` would close the connection at once.
fn check_endpoint(request: &Request, service: &NetworkService, found: &Usable) -> Result<()> {
    let Connection { labels, network_service_endpoint_name: name, mechanism, .. } = &request.connection;
    // As in `netsvcmonitor`.
    let own =
        !request.preferences.iter().chain(mechanism).any(|mechanism| mechanism.cls == mechanism::REMOTE);
    match found.endpoint(name) {
        Some((endpoint, _)) if own && !matching::fits(labels, service, endpoint) => {
            let message =
                format_args!("{} does not let this client use the endpoint {name} now", service.name);
            Err(Error::new(Kind::Gone, message))
        }
        _ => Ok(()),
    }
}

/// The forwarder of the connection is not there.
fn note_gone(cx: &Cx) {
    cx.memory.with(|memory| *memory.forwarder_gone.get_or_insert_with(Instant::now));
}

impl DiscoverForwarder {
    /// Looks for network services in `index` and for forwarders of `forwarder_service` in `local`.
    pub fn new(index: Index, local: LocalEntries, forwarder_service: &str) -> Self {
        Self { index, local, forwarder_service: forwarder_service.to_owned() }
    }

    /// Forwarders that will do; the one that carries the connection already stands first, alone if
    /// it is remembered and not gone for long.
    async fn candidates(&self, cx: &Cx, request: &Request) -> Result<Vec<(NetworkServiceEndpoint, Address)>> {
        let connection = &request.connection;
        let name = &connection.network_service;
        let found = self.index.find(name, cx.deadline).await?;
        let unknown = || Error::new(Kind::NotFound, format_args!("network service {name} is not found"));
        let service = found.service().ok_or_else(unknown)?;
        check_endpoint(request, service, &found)?;
        let local = self.local.serving(&self.forwarder_service);
        let entries: Vec<_> = local.iter().map(|(entry, _)| entry.clone()).collect();
        let fit = matching::forwarders(&connection.labels, service, &self.forwarder_service, &entries);
        let fits = |entry: &NetworkServiceEndpoint| fit.iter().any(|fit| fit.name == entry.name);
        let mut candidates: Vec<_> = local.into_iter().filter(|(entry, _)| fits(entry)).collect();
        let reselect = connection.state() == State::ReselectRequested;
        if let Some(known) = cx.memory.with(|memory| memory.forwarder.clone()).filter(|_| !reselect) {
            if candidates.iter().all(|(entry, _)| entry.name != known) {
                note_gone(cx);
            }
            let gone = cx.memory.with(|memory| memory.forwarder_gone);
            if gone.is_none_or(|since| since.elapsed() < MOVE_AFTER) {
                candidates.retain(|(entry, _)| entry.name == known);
            }
            candidates.sort_by_key(|(entry, _)| entry.name != known);
            let message =
                format_args!("forwarder {known} of this connection is not registered on this node now");
            return if candidates.is_empty() {
                Err(Error::new(Kind::Unavailable, message))
            } else {
                Ok(candidates)
            };
        }
        if candidates.is_empty() {
            let message = format_args!("no forwarder for {name} is registered on this node yet");
            return Err(Error::new(Kind::Unavailable, message));
        }
        let before = connection.segment(1).map(|segment| segment.name.clone());
        candidates.sort_by_key(|(entry, _)| Some(&entry.name) != before.as_ref());
        Ok(candidates)
    }
}

#[async_trait]
impl Element for DiscoverForwarder {
    fn name(&self) -> &'static str {
        "discoverforwarder"
    }

    async fn request(&self, cx: &Cx, request: Request, next: Next<'_>) -> Result<Reply> {
        let candidates = self.candidates(cx, &request).await?;
        let known = cx.memory.with(|memory| memory.forwarder.clone());
        let mut refusal = None;
        for (forwarder, address) in candidates {
            let cx = Cx { next_hop: Some(address), ..cx.clone() };
            match next.request(&cx, request.clone()).await {
                Ok(reply) => {
                    cx.memory.with(|memory| {
                        (memory.forwarder, memory.forwarder_gone) = (Some(forwarder.name), None);
                    });
                    return Ok(reply);
                }
                Err(error) => {
                    debug!(forwarder = %forwarder.name, %error, "forwarder refused");
                    let known = known.as_ref() == Some(&forwarder.name);
                    refusal = Some(error.while_doing(format_args!("forwarder {}", forwarder.name)));
                    if known && !cx.memory.with(|memory| memory.refused) {
                        // It is there, and the connection stays with it.
                        cx.memory.with(|memory| memory.forwarder_gone = None);
                        break;
                    } else if known {
                        note_gone(&cx);
                    }
                }
            }
        }
        Err(refusal.unwrap_or_else(|| Error::new(Kind::Unavailable, "no forwarder is left to try")))
    }

    async fn close(&self, cx: &Cx, request: Request, next: Next<'_>) -> Result<()> {
        let known = cx.memory.with(|memory| {
            memory.forwarder_gone = None;
            memory.forwarder.take()
        });
        let known = known.or_else(|| request.connection.segment(1).map(|segment| segment.name.clone()));
        let address = known.and_then(|name| self.local.get(&name)).map(|(_, address)| address);
        next.close(&Cx { next_hop: address, ..cx.clone() }, request).await
    }
}

#[cfg(test)]
#[path = "discoverforwarder_tests.rs"]
mod tests;

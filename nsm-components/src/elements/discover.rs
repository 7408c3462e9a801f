//! `discover` and `roundrobin`: finds the endpoints that will do and tries them in turn
//! (protocol §4.4).

use std::collections::HashMap;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::debug;

use super::{Index, Usable};
use crate::{
    api::{Connection, connection::State, matching, registry::NetworkServiceEndpoint},
    chain::{Cx, Element, Error, Kind, Next, Reply, Request, Result},
};

/// Services whose turn is remembered; beyond it all begin anew.
const MAX_TURNS: usize = 10_000;

/// See the module.
pub struct Discover {
    index: Index,
    turns: Mutex<HashMap<String, usize>>,
}

/// Whether the path of the connection goes on to this endpoint.
fn leads_to(connection: &Connection, endpoint: &NetworkServiceEndpoint) -> bool {
    let own = connection.path.as_ref().map_or(0, |path| path.index as usize);
    connection.segments().iter().skip(own + 1).any(|segment| segment.name == endpoint.name)
}

impl Discover {
    /// Finds endpoints in this index.
    pub fn new(index: Index) -> Self {
        Self { index, turns: Mutex::default() }
    }

    /// Endpoints that will do, in the order to try them. A connection that has one keeps it. Who had one and
    /// asks for any gets it last of all, and never where the connection is said to be down: then it would
    /// rather stay as it is.
    fn candidates<'a>(
        &self,
        connection: &Connection,
        found: &'a Usable,
    ) -> Result<Vec<&'a NetworkServiceEndpoint>> {
        let name = &connection.network_service;
        let wanted = &connection.network_service_endpoint_name;
        if !wanted.is_empty() {
            let message = format_args!("network service endpoint {wanted} of {name} is not found");
            let endpoint = found.endpoint(wanted).map(|(endpoint, _)| endpoint);
            return Ok(vec![endpoint.ok_or_else(|| Error::new(Kind::NotFound, message))?]);
        }
        let message = format_args!("network service {name} is not found");
        let service = found.service().ok_or_else(|| Error::new(Kind::NotFound, message))?;
        let all: Vec<_> = found.endpoints().collect();
        let mut fit = matching::endpoints(&connection.labels, service, all.iter().copied());
        if fit.is_empty() {
            let message = format_args!(
                "network service endpoint candidates not found for {name}: {} registered",
                all.len()
            );
            return Err(Error::new(Kind::NotFound, message));
        }
        let turn = {
            let mut turns = self.turns.lock();
            if turns.len() >= MAX_TURNS {
                turns.clear();
            }
            let turn = turns.entry(name.clone()).or_default();
            *turn = turn.wrapping_add(1);
            *turn - 1
        };
        let first = turn % fit.len();
        fit.rotate_left(first);
        if connection.state() == State::Down {
            fit.retain(|endpoint| !leads_to(connection, endpoint));
        }
        if fit.is_empty() {
            let message = format_args!("{name} has no other endpoint than the one the connection leads to");
            return Err(Error::new(Kind::NotFound, message));
        }
        fit.sort_by_key(|endpoint| leads_to(connection, endpoint));
        Ok(fit)
    }
}

#[async_trait]
impl Element for Discover {
    fn name(&self) -> &'static str {
        "discover"
    }

    async fn request(&self, cx: &Cx, request: Request, next: Next<'_>) -> Result<Reply> {
        let found = self.index.find(&request.connection.network_service, cx.deadline).await?;
        let candidates = self.candidates(&request.connection, &found)?;
        let mut refusals = Vec::new();
        let mut last = Kind::Unavailable;
        for (number, candidate) in candidates.iter().enumerate() {
            let Some((_, address)) = found.endpoint(&candidate.name) else { continue };
            let mut request = request.clone();
            request.connection.network_service_endpoint_name.clone_from(&candidate.name);
            if let Some(service) = found.service() {
                request.connection.payload.clone_from(&service.payload);
            }
            // One that hangs leaves time for the next.
            let deadline =
                if number + 1 == candidates.len() { cx.deadline } else { Instant::now() + cx.left() / 2 };
            let cx = Cx { deadline, next_hop: Some(address.clone()), ..cx.clone() };
            match next.request(&cx, request).await {
                Ok(reply) => return Ok(reply),
                Err(error) => {
                    debug!(endpoint = %candidate.name, %error, "endpoint refused");
                    last = error.kind;
                    refusals.push(format!("{}: {}", candidate.name, error.message));
                }
            }
        }
        Err(Error::new(last, format_args!("all candidates have failed: {}", refusals.join("; "))))
    }

    async fn close(&self, cx: &Cx, request: Request, next: Next<'_>) -> Result<()> {
        // Where it was asked is remembered; this is for the time after a restart.
        let name = &request.connection.network_service;
        let address = match self.index.find(name, cx.deadline).await {
            Ok(found) => {
                found.endpoint(&request.connection.network_service_endpoint_name).map(|(_, a)| a.clone())
            }
            Err(_) => None,
        };
        next.close(&Cx { next_hop: address, ..cx.clone() }, request).await
    }
}

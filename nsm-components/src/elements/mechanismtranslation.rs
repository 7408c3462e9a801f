//! `mechanismtranslation` and `filtermechanisms`: the mechanism towards the next process is another
//! one than the caller's, and is remembered between Requests (protocol §4.4).

use async_trait::async_trait;

use super::tunnels::Tunnels;
use crate::{
    api::{Connection, Mechanism, connection::State, mechanism},
    chain::{Cx, Element, Error, Kind, Next, Reply, Request, Result},
};

/// See the module.
#[derive(Clone, Debug)]
pub struct MechanismTranslation {
    tunnels: Option<Tunnels>,
}

impl MechanismTranslation {
    /// Offers these tunnels.
    pub fn new(tunnels: Option<Tunnels>) -> Self {
        Self { tunnels }
    }

    /// What is offered; `known` is the mechanism that stays, and `same` says that the connection leads where it
    /// did.
    fn preferences(
        &self,
        local: bool,
        connection: &Connection,
        known: Option<&Mechanism>,
        same: bool,
    ) -> Result<Vec<Mechanism>> {
        match (local, &self.tunnels, known) {
            (true, ..) => Ok(vec![Mechanism::kernel()]),
            (false, Some(tunnels), Some(known)) => Ok(vec![tunnels.offer(&known.r#type, &connection.id)?]),
            (false, Some(tunnels), None) => tunnels.offers(connection, same),
            (false, None, _) => Err(Error::new(
                Kind::Unavailable,
                "the endpoint is on another node and this forwarder has no tunnel address: set NSM_TUNNEL_IP",
            )),
        }
    }
}

/// The endpoint says anew where its network namespace is: this process keeps no descriptor of it that
/// it could send along.
fn without_netns(mut mechanism: Mechanism) -> Mechanism {
    mechanism.parameters.remove(mechanism::INODE_URL);
    mechanism
}

/// A mechanism that stays, with what this side has now.
fn renewed(mut known: Mechanism, offer: &Mechanism) -> Mechanism {
    if known.r#type != offer.r#type {
        return known;
    }
    let mtus =
        [&known, offer].into_iter().filter_map(|it| it.parse::<u32>(mechanism::MTU)).filter(|mtu| *mtu > 0);
    let mtu = mtus.min();
    known.parameters.extend(offer.parameters.clone());
    if let Some(mtu) = mtu {
        known.set(mechanism::MTU, mtu);
    }
    known
}

#[async_trait]
impl Element for MechanismTranslation {
    fn name(&self) -> &'static str {
        "mechanismtranslation"
    }

    async fn request(&self, cx: &Cx, request: Request, next: Next<'_>) -> Result<Reply> {
        let local = cx.next_hop.as_ref().is_none_or(crate::api::peer::Address::is_local);
        let class = if local { mechanism::LOCAL } else { mechanism::REMOTE };
        let upstream = request.connection.mechanism.clone();
        let reselect = request.connection.state() == State::ReselectRequested;
        let known = cx.memory.with(|memory| memory.downstream.clone()).filter(|_| !reselect);
        let mut inner = request;
        // A mechanism of the other class belongs to an endpoint that was elsewhere, and so does one
        // that led to another endpoint.
        let endpoint = &inner.connection.network_service_endpoint_name;
        let same = cx.memory.with(|memory| {
            let before = memory.next.as_ref().map(|hop| &hop.endpoint);
            before.is_none_or(|before| before == endpoint)
        });
        let known = known.filter(|known| same && known.cls == class);
        inner.preferences = self.preferences(local, &inner.connection, known.as_ref(), same && !reselect)?;
        let known = known.map(without_netns);
        inner.connection.mechanism = match inner.preferences.first() {
            Some(offer) => known.map(|known| renewed(known, offer)),
            None => known,
        };
        let offered: Vec<String> = inner.preferences.iter().map(|offer| offer.r#type.clone()).collect();
        let mut reply = next.request(cx, inner).await?;
        let downstream = std::mem::replace(&mut reply.connection.mechanism, upstream);
        if downstream.as_ref().is_none_or(|answer| answer.cls != class || !offered.contains(&answer.r#type)) {
            let got =
                downstream.map(|answer| format!("{} {}", answer.cls, answer.r#type)).unwrap_or_default();
            let message =
                format!("asked for {class} {}, the next process answered {got:?}", offered.join(" or "));
            let request = Request { connection: reply.connection, ..Request::default() };
            if let Err(undo) = next.close(&cx.undo(), request).await {
                tracing::warn!(%undo, "could not close what was answered wrongly");
            }
            return Err(Error::new(Kind::Invalid, message));
        }
        reply.connection.note_interface(mechanism::CLIENT_INTERFACE, downstream.as_ref());
        cx.memory.with(|memory| memory.downstream = downstream);
        Ok(reply)
    }

    async fn close(&self, cx: &Cx, mut request: Request, next: Next<'_>) -> Result<()> {
        request.connection.mechanism = cx.memory.with(|memory| memory.downstream.take()).map(without_netns);
        next.close(cx, request).await
    }
}

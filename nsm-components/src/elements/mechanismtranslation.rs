//! `mechanismtranslation` and `filtermechanisms`: the mechanism towards the next process is another
//! one than the caller's, and is remembered between Requests (protocol §4.4).

use std::net::IpAddr;

use async_trait::async_trait;

use crate::{
    api::{Mechanism, connection::State, mechanism},
    chain::{Cx, Element, Error, Kind, Next, Reply, Request, Result},
};

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct MechanismTranslation {
    tunnel: Option<(IpAddr, u16, u32)>,
}

impl MechanismTranslation {
    /// Offers tunnels from this address and UDP port, whose frames carry at most this many bytes.
    pub fn new(tunnel: Option<(IpAddr, u16, u32)>) -> Self {
        Self { tunnel }
    }

    fn preferences(&self, local: bool) -> Result<Vec<Mechanism>> {
        match (local, self.tunnel) {
            (true, _) => Ok(vec![Mechanism::kernel()]),
            (false, Some((ip, port, mtu))) => Ok(vec![Mechanism::vxlan(ip, port, mtu)]),
            (false, None) => Err(Error::new(
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
            let before = memory.next.as_ref().map(|(_, answered)| &answered.network_service_endpoint_name);
            before.is_none_or(|before| before == endpoint)
        });
        inner.connection.mechanism = known.filter(|known| same && known.cls == class).map(without_netns);
        inner.preferences = self.preferences(local)?;
        let mut reply = next.request(cx, inner).await?;
        let downstream = std::mem::replace(&mut reply.connection.mechanism, upstream);
        let kind = if local { mechanism::KERNEL } else { mechanism::VXLAN };
        if downstream.as_ref().is_none_or(|answer| answer.cls != class || answer.r#type != kind) {
            let got =
                downstream.map(|answer| format!("{} {}", answer.cls, answer.r#type)).unwrap_or_default();
            let message = format!("asked for {class} {kind}, the next process answered {got:?}");
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

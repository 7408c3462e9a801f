//! Recovery: a client that was started anew asks the next process what it had before, and goes on
//! with that (protocol §4.3, start-up recovery of upstream's client). Processes of ours would know
//! the connection by where it comes from; upstream's know it by its path alone.

use std::time::Duration;

use async_trait::async_trait;
use tracing::{debug, info};

use super::watch::watch;
use crate::{
    api::{
        Connection, PathSegment,
        connection::{ConnectionEvent, ConnectionEventType, State},
        peer::Address,
    },
    chain::{Cx, Element, Error, Kind, Next, Reply, Request, Result},
    transport::Channels,
};

/// Longest wait for what there was.
const LIMIT: Duration = Duration::from_secs(3);

/// See the module. It stands behind the session, so that what was granted before is not taken for
/// what the caller wants.
#[derive(Clone, Debug)]
pub struct Recovery {
    channels: Channels,
    address: Address,
    token_life: Duration,
}

impl Recovery {
    /// Asks the process at `address`.
    pub fn new(channels: Channels, address: Address, token_life: Duration) -> Self {
        Self { channels, address, token_life }
    }

    async fn former(&self, own: &PathSegment) -> Result<Option<Connection>> {
        // A name would do as well; upstream asks by the id alone.
        let segment = PathSegment { id: own.id.clone(), ..PathSegment::default() };
        let mut events = watch(&self.channels, &self.address, self.token_life, segment).await?;
        let first = events.message().await.map_err(|status| Error::caused(Kind::Unavailable, &status))?;
        Ok(first.and_then(|event| former(event, own)))
    }
}

/// The connection of this segment among those that there are at first.
fn former(event: ConnectionEvent, own: &PathSegment) -> Option<Connection> {
    let is_initial = event.r#type() == ConnectionEventType::InitialStateTransfer;
    event.connections.into_values().filter(|_| is_initial).find(|connection| {
        let first = connection.segments().first();
        connection.path.as_ref().is_some_and(|path| path.index == 1)
            && first.is_some_and(|first| first.id == own.id && first.name == own.name)
            && connection.mechanism.as_ref().is_some_and(crate::api::Mechanism::is_kernel)
    })
}

/// Goes on with `former` in what is asked for now. What is down, or was of another service, ends
/// where it is known.
fn adopt(connection: &mut Connection, former: Connection) {
    let usable = former.state() != State::Down && former.network_service == connection.network_service;
    connection.path = former.path;
    if let Some(path) = &mut connection.path {
        path.index = 0;
    }
    if usable {
        connection.mechanism = former.mechanism;
        connection.context = former.context;
        connection.network_service_endpoint_name = former.network_service_endpoint_name;
    } else {
        connection.set_state(State::ReselectRequested);
    }
}

#[async_trait]
impl Element for Recovery {
    fn name(&self) -> &'static str {
        "recovery"
    }

    async fn request(&self, cx: &Cx, mut request: Request, next: Next<'_>) -> Result<Reply> {
        let asked = cx.memory.with(|memory| std::mem::replace(&mut memory.recovered, true));
        let [own] = request.connection.segments() else { return next.request(cx, request).await };
        if !asked {
            let id = own.id.clone();
            match tokio::time::timeout(LIMIT.min(cx.left() / 2), self.former(own)).await {
                Ok(Ok(Some(former))) => {
                    let endpoint = &former.network_service_endpoint_name;
                    info!(connection.id = %id, %endpoint, "going on with what there was before");
                    adopt(&mut request.connection, former);
                }
                Ok(Ok(None)) => {}
                Ok(Err(error)) => debug!(connection.id = %id, %error, "cannot ask what there was before"),
                Err(_) => debug!(connection.id = %id, "no answer to what there was before"),
            }
        }
        next.request(cx, request).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Mechanism, Path, connectioncontext::ConnectionContext};

    fn known(name: &str, id: &str) -> Connection {
        let segment =
            |name: &str, id: &str| PathSegment { name: name.into(), id: id.into(), ..Default::default() };
        Connection {
            id: "at-nsmgr".into(),
            network_service: "finance".into(),
            network_service_endpoint_name: "nse-1".into(),
            mechanism: Some(Mechanism::kernel()),
            context: Some(ConnectionContext { mtu: 1400, ..Default::default() }),
            path: Some(Path {
                index: 1,
                path_segments: vec![segment(name, id), segment("nsmgr", "at-nsmgr")],
            }),
            ..Connection::default()
        }
    }

    fn initial(connections: Vec<Connection>) -> ConnectionEvent {
        let connections = connections.into_iter().enumerate().map(|(key, one)| (key.to_string(), one));
        ConnectionEvent {
            r#type: ConnectionEventType::InitialStateTransfer.into(),
            connections: connections.collect(),
        }
    }

    fn asked() -> Connection {
        Connection { id: "nsc-0".into(), network_service: "finance".into(), ..Connection::default() }
    }

    #[test]
    fn only_the_own_connection_is_gone_on_with() {
        let own = PathSegment { name: "nsc".into(), id: "nsc-0".into(), ..Default::default() };
        let others = vec![known("nsc", "nsc-1"), known("other", "nsc-0")];
        assert_eq!(former(initial(others.clone()), &own), None);
        let all = [others, vec![known("nsc", "nsc-0")]].concat();
        assert_eq!(former(initial(all.clone()), &own), Some(known("nsc", "nsc-0")));
        let update = ConnectionEvent { r#type: ConnectionEventType::Update.into(), ..initial(all) };
        assert_eq!(former(update, &own), None);
    }

    #[test]
    fn what_was_up_goes_on_as_a_refresh() {
        let mut connection = asked();
        adopt(&mut connection, known("nsc", "nsc-0"));
        assert_eq!((connection.id.as_str(), connection.path.as_ref().unwrap().index), ("nsc-0", 0));
        assert_eq!(connection.segments().len(), 2);
        assert_eq!(connection.network_service_endpoint_name, "nse-1");
        assert_eq!((connection.state(), connection.context.unwrap().mtu), (State::Up, 1400));
    }

    #[test]
    fn what_was_down_or_of_another_service_is_ended_and_asked_for_anew() {
        let mut down = known("nsc", "nsc-0");
        down.set_state(State::Down);
        let other = Connection { network_service: "weather".into(), ..known("nsc", "nsc-0") };
        for former in [down, other] {
            let mut connection = asked();
            adopt(&mut connection, former);
            assert_eq!(connection.state(), State::ReselectRequested);
            assert_eq!(connection.network_service_endpoint_name, "");
            assert_eq!((connection.mechanism.is_none(), connection.context.is_none()), (true, true));
            assert_eq!(connection.segments().len(), 2, "the path says what is to end");
        }
    }
}

//! What the monitor knows of all connections, for those who look after the node.
//!
//! The monitor shows a caller its own connections alone. Here the mesh's own processes see all, and whoever
//! has such an identity: the administrator of a host, or of a mesh's pod. Tokens stay here either way.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures::{Stream, StreamExt};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::{Request as Call, Response, Status};

use super::{
    Processes,
    grpc::accepted,
    monitor::{Monitor, Seen},
};
use crate::{
    api::{
        node::{
            DrainRequest, DrainResponse, Heal, NodeConnection, NodeConnections, WatchConnectionsRequest,
            node_status_server::NodeStatus,
        },
        trust::Trust,
    },
    transport::Accepted,
};

/// Changes of this time are told together.
const GATHER: Duration = Duration::from_millis(200);

/// Most connections in one message.
const PART: usize = 64;

/// See the module.
#[derive(Clone)]
pub struct NodeStatusService {
    /// The process's name in paths.
    pub name: String,
    /// What is told.
    pub monitor: Arc<Monitor>,
    /// What is told of the node's processes.
    pub processes: Arc<Processes>,
    /// Who is.
    pub trust: Trust,
    /// Streams end with it, or they would hold it up.
    pub stop: CancellationToken,
}

type Told = Pin<Box<dyn Stream<Item = Result<NodeConnections, Status>> + Send>>;

/// Whether the caller may see all, and say what becomes of the node.
pub(super) fn admit(accepted: &Accepted, trust: &Trust) -> Result<(), Status> {
    let id = &accepted.session.peer.id;
    if !accepted.local {
        return Err(Status::permission_denied("only who is on this host may ask for its connections"));
    }
    if !trust.trusts(id) {
        let message = format!(
            "{id} is no process of the mesh and may not see all connections: ask as the user that the mesh \
             runs as, or in one of its pods"
        );
        return Err(Status::permission_denied(message));
    }
    Ok(())
}

// === impl NodeStatusService ===

impl NodeStatusService {
    fn now(&self) -> NodeConnections {
        let mut connections: Vec<_> = self.monitor.seen().into_iter().map(told).collect();
        let id = |told: &NodeConnection| told.connection.as_ref().map(|connection| connection.id.clone());
        connections.sort_by_cached_key(id);
        let processes = self.processes.all();
        NodeConnections { nsmgr: self.name.clone(), connections, more: false, processes }
    }

    /// Everything now, and again whenever it has become something else.
    fn follow(self) -> impl Stream<Item = NodeConnections> + Send {
        let changes = (Box::pin(self.monitor.watch()), self.processes.changes());
        futures::stream::unfold(
            (self, changes, None),
            |(status, (mut changes, mut others), told)| async move {
                let mut now = status.now();
                while told.as_ref() == Some(&now) {
                    tokio::select! {
                        next = changes.next() => if next.is_none() {
                            // It was too slow and cut off; what it missed is in what comes next.
                            changes = Box::pin(status.monitor.watch());
                        },
                        // The sender is here.
                        _ = others.changed() => {}
                    }
                    let _ = timeout(GATHER, async { while changes.next().await.is_some() {} }).await;
                    now = status.now();
                }
                Some((now.clone(), (status, (changes, others), Some(now))))
            },
        )
    }
}

/// The same in messages of a bounded size; without connections one message says so.
fn parts(all: NodeConnections) -> Vec<NodeConnections> {
    let NodeConnections { nsmgr, mut connections, mut processes, .. } = all;
    let mut parts = Vec::new();
    loop {
        let rest = connections.split_off(connections.len().min(PART));
        let more = !rest.is_empty();
        let processes = std::mem::take(&mut processes);
        parts.push(NodeConnections { nsmgr: nsmgr.clone(), connections, more, processes });
        if !more {
            return parts;
        }
        connections = rest;
    }
}

fn told(seen: Seen) -> NodeConnection {
    let Seen { connection, error, past } = seen;
    let heal = past.last_heal.map(|healed| Heal { at: Some(healed.at.into()), cause: healed.cause });
    NodeConnection {
        connection: Some(Arc::unwrap_or_clone(connection)),
        since: Some(past.since.into()),
        refreshed: Some(past.refreshed.into()),
        error: error.unwrap_or_default(),
        last_heal: heal,
        heals: past.heals,
    }
}

#[tonic::async_trait]
impl NodeStatus for NodeStatusService {
    type WatchConnectionsStream = Told;

    async fn watch_connections(&self, call: Call<WatchConnectionsRequest>) -> Result<Response<Told>, Status> {
        admit(&accepted(&call)?, &self.trust)?;
        let stop = self.stop.clone().cancelled_owned();
        let parts = self.clone().follow().flat_map(|all| futures::stream::iter(parts(all)));
        Ok(Response::new(Box::pin(parts.map(Ok).take_until(stop))))
    }

    async fn drain(&self, call: Call<DrainRequest>) -> Result<Response<DrainResponse>, Status> {
        admit(&accepted(&call)?, &self.trust)?;
        let processes = self.processes.drain(call.into_inner().into()).await;
        Ok(Response::new(DrainResponse { processes }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::{Connection, Path, PathSegment},
        chain::{Chain, Cx, Element, Policy, Request, Session, SystemClock},
        elements::{Draining, LocalEntries},
        transport::{Channels, testing},
    };

    fn request(id: &str) -> Request {
        let segment = PathSegment { id: id.into(), token: "secret".into(), ..PathSegment::default() };
        let path = Some(Path { index: 0, path_segments: vec![segment] });
        let connection = Connection { id: id.into(), path, ..Connection::default() };
        Request { connection, ..Request::default() }
    }

    #[test]
    fn many_connections_come_in_several_messages_the_last_of_which_says_so() {
        for (count, expected) in [(0, &[0][..]), (1, &[1]), (PART, &[PART]), (2 * PART + 1, &[PART, PART, 1])]
        {
            let all =
                NodeConnections { connections: vec![NodeConnection::default(); count], ..Default::default() };
            let parts = parts(all);
            assert_eq!(parts.iter().map(|part| part.connections.len()).collect::<Vec<_>>(), expected);
            let more: Vec<_> = parts.iter().map(|part| part.more).collect();
            assert!(more[..more.len() - 1].iter().all(|more| *more) && !more[more.len() - 1]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn all_connections_are_told_without_tokens_first_as_they_are_and_then_after_changes_together() {
        let monitor: Arc<Monitor> = Arc::default();
        let chain = Chain::new([Arc::new(monitor.clone()) as Arc<dyn Element>]);
        let cx = Cx::within(Duration::from_mins(1));
        let channels = Channels::new(testing::source(), Duration::from_secs(1));
        let (draining, local) = (Draining::default(), LocalEntries::default());
        let session = Session::new(Chain::new([]), Policy::Expire, Arc::new(SystemClock));
        let session = Arc::new(session);
        let service = NodeStatusService {
            name: "nsmgr".into(),
            processes: Arc::new(Processes::new("nsmgr", draining, session, local, "forwarder", channels)),
            monitor,
            trust: Trust::Everybody,
            stop: CancellationToken::new(),
        };
        let mut told = Box::pin(service.follow());
        let ids = |told: NodeConnections| -> Vec<String> {
            assert!(!format!("{told:?}").contains("secret"), "{told:?}");
            told.connections.into_iter().map(|one| one.connection.unwrap_or_default().id).collect()
        };
        assert_eq!(told.next().await.map(ids), Some(Vec::new()));
        chain.start().request(&cx, request("b")).await.unwrap();
        chain.start().request(&cx, request("a")).await.unwrap();
        assert_eq!(told.next().await.map(ids), Some(vec!["a".to_owned(), "b".to_owned()]));
        assert!(timeout(Duration::from_hours(1), told.next()).await.is_err(), "nothing has changed");
        chain.start().close(&cx, request("a")).await.unwrap();
        assert_eq!(told.next().await.map(ids), Some(vec!["b".to_owned()]));
    }
}

//! What the operator wants of the node, in the spec of its `NSMNodeState`: that all connections are closed and
//! none is taken, before the mesh goes. While the API server is away the last wish counts.

use std::{sync::Arc, time::Duration};

use futures::StreamExt as _;
use kube::{
    Api, Client,
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event, watcher},
    },
};
use nsm_crds::{DesiredNode, NSMNodeState};
use tokio::{sync::watch, time::timeout};
use tracing::{info, warn};

use super::super::identity::WatchBackoff;
use crate::elements::{DrainLevel, Processes};

/// Pause between two looks how far the node is.
const PACE: Duration = Duration::from_millis(500);

/// Does what is wanted of the node until dropped.
pub(super) async fn obey(client: Client, node: String, processes: Arc<Processes>) {
    let (told, mut wanted) = watch::channel(DesiredNode::Serving);
    let obeying = async {
        // At first it serves, and somebody on the node may have had it drain.
        while wanted.wait_for(|wanted| *wanted == DesiredNode::Drained).await.is_ok() {
            info!("the operator wants all connections closed");
            while *wanted.borrow() == DesiredNode::Drained {
                processes.drain(DrainLevel::Close).await;
                let _ = timeout(PACE, wanted.changed()).await;
            }
            info!("the operator wants connections again");
            processes.drain(DrainLevel::Serve).await;
        }
    };
    tokio::join!(follow(client, &node, told), obeying);
}

/// Tells what is wanted, first and after each change.
async fn follow(client: Client, node: &str, told: watch::Sender<DesiredNode>) {
    let api: Api<NSMNodeState> = Api::all(client);
    let own = watcher::Config::default().fields(&format!("metadata.name={node}"));
    let mut events = Box::pin(watcher(api, own).backoff(WatchBackoff::default()));
    while let Some(event) = events.next().await {
        let wanted = match event {
            Ok(event) => wanted(event),
            Err(error) => {
                warn!(%error, "cannot follow what is wanted of this node, will try again");
                continue;
            }
        };
        if let Some(wanted) = wanted {
            told.send_if_modified(|before| std::mem::replace(before, wanted) != wanted);
        }
    }
}

/// What an event says of it. One that is deleted is made again, and wants nothing.
fn wanted(event: Event<NSMNodeState>) -> Option<DesiredNode> {
    match event {
        Event::Apply(state) | Event::InitApply(state) => {
            // Deleted with its mesh: nothing is wanted any more, and nothing is to come back.
            state.metadata.deletion_timestamp.is_none().then_some(state.spec.spec.desired)
        }
        Event::Delete(_) => Some(DesiredNode::Serving),
        Event::Init | Event::InitDone => None,
    }
}

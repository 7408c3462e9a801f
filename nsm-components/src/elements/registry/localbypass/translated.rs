//! What the registry tells, as the one who asks shall see it.
//!
//! The registry does not know by which socket an endpoint of this node is reached, nor whether it has
//! registered since this process was started. So a watch tells also what changes here alone: an
//! endpoint that the registry knew and that comes back, one with a new socket, one that goes.

use std::collections::{BTreeMap, VecDeque};

use futures::{StreamExt, stream};
use tokio::sync::watch;

use super::{LocalBypass, Viewer};
use crate::{
    api::registry::NetworkServiceEndpoint,
    chain::{Event, Events, Result},
};

type Told = Event<NetworkServiceEndpoint>;

struct Translated {
    bypass: LocalBypass,
    viewer: Viewer,
    events: Events<NetworkServiceEndpoint>,
    changes: Option<watch::Receiver<()>>,
    /// What the registry last told of each endpoint that it says is here, and the URL that was passed
    /// on; none where it was not.
    here: BTreeMap<String, (Told, Option<String>)>,
    ready: VecDeque<Told>,
}

/// The events with the sockets that this viewer may have; with `changes` of this node among them.
pub(super) fn translated(
    (bypass, viewer): (LocalBypass, Viewer),
    events: Events<NetworkServiceEndpoint>,
    changes: Option<watch::Receiver<()>>,
) -> Events<NetworkServiceEndpoint> {
    let state = Translated { bypass, viewer, events, changes, here: BTreeMap::new(), ready: VecDeque::new() };
    Box::pin(stream::unfold(state, |mut state| async { Some((state.next().await?, state)) }))
}

impl Translated {
    async fn next(&mut self) -> Option<Result<Told>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(Ok(event));
            }
            let changed = async {
                let Some(changes) = &mut self.changes else { return std::future::pending().await };
                if changes.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            let event = tokio::select! {
                event = self.events.next() => Some(event?),
                () = changed => None,
            };
            match event {
                Some(Ok(event)) => {
                    let told = self.take(event);
                    self.ready.extend(told);
                }
                Some(Err(error)) => return Some(Err(error)),
                None => self.look_again(),
            }
        }
    }

    /// An event of the registry's.
    fn take(&mut self, event: Told) -> Option<Told> {
        let name = event.entry.name.clone();
        if event.deleted || event.entry.url != self.bypass.public_url {
            self.here.remove(&name);
            return self.bypass.translate(event, &self.viewer);
        }
        let told = self.bypass.translate(event.clone(), &self.viewer);
        let url = told.as_ref().map(|told| told.entry.url.clone());
        self.here.insert(name, (event, url));
        told
    }

    /// What of it is seen otherwise now.
    fn look_again(&mut self) {
        for (event, passed) in self.here.values_mut() {
            let told = self.bypass.translate(event.clone(), &self.viewer);
            let url = told.as_ref().map(|told| told.entry.url.clone());
            if url == *passed {
                continue;
            }
            // What went keeps the URL by which it was known.
            let gone = passed.take().map(|url| Told {
                entry: NetworkServiceEndpoint { url, ..event.entry.clone() },
                deleted: true,
                files: event.files.clone(),
            });
            self.ready.extend(told.or(gone));
            *passed = url;
        }
    }
}

//! What open streams are sent: the newest of what is watched, each only once.

use std::sync::Arc;

use futures::Stream;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{
    super::{bundle::Bundle, renewal::State, svid::Svid},
    messages,
};
use crate::api::workload::X509svidResponse;

fn stopping() -> Status {
    Status::unavailable("the identity process is stopping: ask again")
}

/// A message for each new value of what is watched.
pub(super) fn follow<T, M>(
    values: watch::Receiver<Option<T>>,
    shutdown: CancellationToken,
    message: fn(&T) -> M,
) -> impl Stream<Item = Result<M, Status>>
where
    T: Clone + PartialEq + Send + Sync + 'static,
    M: Send + 'static,
{
    let state: Option<(_, Option<T>, _)> = Some((values, None, shutdown));
    futures::stream::unfold(state, move |state| async move {
        let (mut values, sent, shutdown) = state?;
        loop {
            let known = values.borrow_and_update().clone();
            if let Some(known) = known.filter(|known| sent.as_ref() != Some(known)) {
                return Some((Ok(message(&known)), Some((values, Some(known), shutdown))));
            }
            tokio::select! {
                Ok(()) = values.changed() => {}
                () = shutdown.cancelled() => return Some((Err(stopping()), None)),
            }
        }
    })
}

/// What one stream of X.509-SVIDs has sent and waits for.
pub(super) struct Feed {
    states: watch::Receiver<State>,
    bundle: watch::Receiver<Option<Bundle>>,
    shutdown: CancellationToken,
    sent: Option<(Arc<Svid>, Bundle)>,
}

// === impl Feed ===

impl Feed {
    pub(super) fn new(
        states: watch::Receiver<State>,
        bundle: watch::Receiver<Option<Bundle>>,
        shutdown: CancellationToken,
    ) -> Self {
        Self { states, bundle, shutdown, sent: None }
    }

    pub(super) fn messages(self) -> impl Stream<Item = Result<X509svidResponse, Status>> {
        futures::stream::unfold(Some(self), async |feed| feed?.next().await)
    }

    /// The next message, and the feed if another may follow.
    async fn next(mut self) -> Option<(Result<X509svidResponse, Status>, Option<Self>)> {
        loop {
            let state = self.states.borrow_and_update().clone();
            let known = self.bundle.borrow_and_update().clone();
            match state {
                State::Refused(why) => return Some((Err(Status::permission_denied(&*why)), None)),
                State::Ready(svid) => {
                    // The issuer may know a new root a moment before the bundle that is published.
                    let bundle =
                        known.map_or_else(|| svid.bundle().clone(), |known| known.union(svid.bundle()));
                    if !self.has_sent(&svid, &bundle) {
                        let message = messages::x509_svid(&svid, &bundle);
                        self.sent = Some((svid, bundle));
                        return Some((Ok(message), Some(self)));
                    }
                }
                State::Waiting => {}
            }
            tokio::select! {
                Ok(()) = self.states.changed() => {}
                Ok(()) = self.bundle.changed() => {}
                () = self.shutdown.cancelled() => return Some((Err(stopping()), None)),
            }
        }
    }

    fn has_sent(&self, svid: &Arc<Svid>, bundle: &Bundle) -> bool {
        self.sent.as_ref().is_some_and(|(sent, with)| Arc::ptr_eq(sent, svid) && with == bundle)
    }
}

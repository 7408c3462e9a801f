//! `heal` and `upstreamrefresh`: notices that the next process went away, and asks again when it is
//! back; that the connection is down or that somebody on the way wants to be asked, and asks; and
//! that it was closed on the way, and asks anew (protocol §4.3, spec heal).
//!
//! Unless it was closed, the Request that follows is the same as before: it finds the path in itself
//! and the links in the kernel, so packets never notice.

use std::{sync::Arc, time::Duration};

use tonic::Streaming;
use tracing::{debug, info};

use super::watch::watch;
use crate::{
    api::{
        Connection, PathSegment,
        connection::{ConnectionEvent, ConnectionEventType, State},
        peer::Address,
    },
    chain::{Backoff, Session},
    transport::Channels,
};

/// Pauses between tries to reach the next process.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3));

/// See the module.
pub struct Heal {
    /// The session of the connection to heal.
    pub session: Arc<Session>,
    /// Channels to peers.
    pub channels: Channels,
    /// Where the next process is.
    pub address: Address,
    /// This process's name in the path.
    pub name: String,
    /// The connection's id in it.
    pub id: String,
    /// Longest life of a token.
    pub token_life: Duration,
}

/// What an event of the next process asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cure {
    Ask,
    AskAnew,
}

fn cure(kind: ConnectionEventType, connection: &Connection) -> Option<Cure> {
    match (kind, connection.state()) {
        (ConnectionEventType::Delete, _) => Some(Cure::AskAnew),
        (ConnectionEventType::Update, State::Down | State::RefreshRequested) => Some(Cure::Ask),
        // What there is at first: a lost stream was answered with a Request already.
        _ => None,
    }
}

impl Heal {
    /// Watches until dropped.
    pub async fn run(self) {
        let (mut pauses, mut lost) = (Backoff::new(RETRY.0, RETRY.1), false);
        loop {
            let own = PathSegment { name: self.name.clone(), id: self.id.clone(), ..PathSegment::default() };
            match watch(&self.channels, &self.address, self.token_life, own).await {
                Ok(events) => {
                    if lost {
                        info!(address = %self.address, connection.id = %self.id, "reached again: asking anew");
                        self.session.heal();
                    }
                    pauses.reset();
                    self.follow(events).await;
                    lost = true;
                }
                Err(error) => debug!(address = %self.address, %error, "cannot watch"),
            }
            tokio::time::sleep(pauses.pause()).await;
        }
    }

    /// Until the stream ends.
    async fn follow(&self, mut events: Streaming<ConnectionEvent>) {
        while let Ok(Some(event)) = events.message().await {
            let is_own = |connection: &&Connection| connection.origin_id() == self.id;
            for connection in event.connections.values().filter(is_own) {
                match cure(event.r#type(), connection) {
                    Some(Cure::Ask) => self.session.heal(),
                    Some(Cure::AskAnew) => self.session.reselect(),
                    None => {}
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_event_has_its_cure() {
        use ConnectionEventType::{Delete, InitialStateTransfer, Update};
        let state = |state: State| Connection { state: state.into(), ..Connection::default() };
        assert_eq!(cure(Update, &state(State::Up)), None);
        assert_eq!(cure(Update, &state(State::Down)), Some(Cure::Ask));
        assert_eq!(cure(Update, &state(State::RefreshRequested)), Some(Cure::Ask));
        assert_eq!(cure(Delete, &state(State::Up)), Some(Cure::AskAnew));
        assert_eq!(cure(InitialStateTransfer, &state(State::Down)), None);
    }
}

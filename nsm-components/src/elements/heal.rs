//! `heal` and `upstreamrefresh`: notices that the next process went away, and asks again when it is
//! back; that the connection is down or that somebody on the way wants to be asked, and asks; that it
//! was closed on the way, and asks anew; and that packets do not pass, and asks for another endpoint
//! (protocol §4.3, dataplane §10.2).
//!
//! As long as packets pass, the Request that follows is the same as before: it finds the path in itself
//! and the links in the kernel, so packets never notice.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;
use tonic::Streaming;
use tracing::{debug, info};

use super::{Data, Liveness, watch::watch as watch_peer};
use crate::{
    api::{
        Connection, PathSegment,
        connection::{ConnectionEvent, ConnectionEventType, State},
        peer::Address,
    },
    chain::{Backoff, Cure, Session},
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
    /// Whether packets pass, if that is looked at.
    pub liveness: Option<Liveness>,
}

/// Upstream's table: what is done when the processes on the way, or packets, say that something is wrong. Where
/// packets are only in doubt it is tried to repair first, which also asks for another endpoint if this one is
/// gone.
fn decide(control_is_up: bool, data: Data) -> Option<Cure> {
    match (control_is_up, data) {
        (true, Data::Up | Data::Unknown) => None,
        (false, Data::Up | Data::Unknown) => Some(Cure::Ask),
        (_, Data::Doubtful) => Some(Cure::Repair),
        (_, Data::Down) => Some(Cure::Leave),
    }
}

/// What an event of the next process asks for while this is known of the packets.
fn cure(kind: ConnectionEventType, connection: &Connection, data: Data) -> Option<Cure> {
    match (kind, connection.state()) {
        (ConnectionEventType::Delete, _) => Some(Cure::AskAnew),
        (ConnectionEventType::Update, State::Down) => decide(false, data),
        (ConnectionEventType::Update, State::RefreshRequested) => Some(Cure::Ask),
        // What there is at first: a lost stream was answered with a Request already.
        _ => None,
    }
}

impl Heal {
    /// Watches until dropped.
    pub async fn run(self) {
        // Without liveness nothing ever becomes known.
        let (unknown, _) = watch::channel(Data::Unknown);
        let data =
            self.liveness.as_ref().map_or_else(|| unknown.subscribe(), |known| known.subscribe(&self.id));
        tokio::join!(self.watch_control(data.clone()), self.watch_data(data));
    }

    /// Follows what the processes on the way say.
    async fn watch_control(&self, data: watch::Receiver<Data>) {
        let (mut pauses, mut lost) = (Backoff::new(RETRY.0, RETRY.1), false);
        loop {
            let own = PathSegment { name: self.name.clone(), id: self.id.clone(), ..PathSegment::default() };
            match watch_peer(&self.channels, &self.address, self.token_life, own).await {
                Ok(events) => {
                    if let Some(cure) = decide(false, *data.borrow()).filter(|_| lost) {
                        self.heal("the next process is back", *data.borrow(), cure);
                    }
                    pauses.reset();
                    self.follow(events, &data).await;
                    lost = true;
                    self.doubt();
                }
                Err(error) => debug!(address = %self.address, %error, "cannot watch"),
            }
            tokio::time::sleep(pauses.pause()).await;
        }
    }

    /// Until the stream ends.
    async fn follow(&self, mut events: Streaming<ConnectionEvent>, data: &watch::Receiver<Data>) {
        while let Ok(Some(event)) = events.message().await {
            let is_own = |connection: &&Connection| connection.origin_id() == self.id;
            for connection in event.connections.values().filter(is_own) {
                let data = *data.borrow();
                let Some(cure) = cure(event.r#type(), connection, data) else { continue };
                self.heal("the next process says so", data, cure);
                if connection.state() == State::Down {
                    self.doubt();
                }
            }
        }
    }

    fn heal(&self, cause: &'static str, data: Data, cure: Cure) {
        info!(connection.id = %self.id, cause, ?data, ?cure, "healing");
        self.session.cure(cure);
    }

    /// Has it looked at whether packets pass.
    fn doubt(&self) {
        self.liveness.as_ref().inspect(|liveness| liveness.doubt(&self.id));
    }

    /// Follows whether packets pass.
    async fn watch_data(&self, mut data: watch::Receiver<Data>) {
        let mut before = Data::Unknown;
        while data.changed().await.is_ok() {
            let now = *data.borrow_and_update();
            let passes_again = now == Data::Up && matches!(before, Data::Doubtful | Data::Down);
            let cure = if passes_again { Some(Cure::Stay) } else { decide(true, now) };
            if let Some(cure) = cure {
                self.heal("packets", now, cure);
            } else {
                debug!(connection.id = %self.id, data = ?now, "packets");
            }
            before = now;
        }
        // The end of the process.
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_event_has_its_cure() {
        use ConnectionEventType::{Delete, InitialStateTransfer, Update};
        let state = |state: State| Connection { state: state.into(), ..Connection::default() };
        let cure = |kind, it| cure(kind, &state(it), Data::Up);
        assert_eq!(cure(Update, State::Up), None);
        assert_eq!(cure(Update, State::Down), Some(Cure::Ask));
        assert_eq!(cure(Update, State::RefreshRequested), Some(Cure::Ask));
        assert_eq!(cure(Delete, State::Up), Some(Cure::AskAnew));
        assert_eq!(cure(InitialStateTransfer, State::Down), None);
    }

    #[test]
    fn what_is_done_follows_upstreams_table() {
        for (control, data, cure) in [
            ("up", Data::Up, None),
            ("up", Data::Unknown, None),
            ("up", Data::Doubtful, Some(Cure::Repair)),
            ("up", Data::Down, Some(Cure::Leave)),
            ("down", Data::Up, Some(Cure::Ask)),
            ("down", Data::Unknown, Some(Cure::Ask)),
            ("down", Data::Doubtful, Some(Cure::Repair)),
            ("down", Data::Down, Some(Cure::Leave)),
        ] {
            assert_eq!(decide(control == "up", data), cure, "control plane {control}, packets {data:?}");
        }
    }
}

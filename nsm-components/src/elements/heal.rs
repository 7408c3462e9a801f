//! `heal`: notices that the next process went away, and asks again when it is back
//! (protocol §4.3, spec heal). The Request that follows is the same as before: it finds the path in
//! itself and the links in the kernel, so packets never notice.

use std::{sync::Arc, time::Duration};

use tonic::Streaming;
use tracing::{debug, info};

use super::grpc::monitor;
use crate::{
    api::{
        connection::{ConnectionEvent, ConnectionEventType, State},
        peer::Address,
    },
    chain::{Result, Session},
    transport::Channels,
};

/// Pauses between tries to reach the next process.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3));

/// See the module.
pub struct Heal {
    /// The connections to heal.
    pub session: Arc<Session>,
    /// Channels to peers.
    pub channels: Channels,
    /// Where the next process is.
    pub address: Address,
    /// This process's name in the path.
    pub name: String,
    /// Longest life of a token.
    pub token_life: Duration,
}

impl Heal {
    /// Watches until dropped.
    pub async fn run(self) {
        let (mut pause, mut lost) = (RETRY.0, false);
        loop {
            match self.open().await {
                Ok(events) => {
                    if lost {
                        info!(address = %self.address, "reached again: asking for all connections anew");
                        self.session.heal();
                    }
                    pause = RETRY.0;
                    self.follow(events).await;
                    lost = true;
                }
                Err(error) => debug!(address = %self.address, %error, "cannot watch"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY.1);
        }
    }

    async fn open(&self) -> Result<Streaming<ConnectionEvent>> {
        monitor(&self.channels, &self.address, &self.name, self.token_life).await
    }

    /// Until the stream ends. A connection that is said to be down, or that its endpoint wants to be
    /// refreshed, is asked for at once; for one that was closed without being asked to, another
    /// endpoint is.
    async fn follow(&self, mut events: Streaming<ConnectionEvent>) {
        while let Ok(Some(event)) = events.message().await {
            let closed = event.r#type() == ConnectionEventType::Delete;
            for connection in event.connections.values() {
                let mut segments = connection.segments().iter();
                let Some(own) = segments.find(|segment| segment.name == self.name) else { continue };
                match connection.state() {
                    _ if closed => self.session.reselect(&own.id),
                    State::Down | State::RefreshRequested => self.session.heal_one(&own.id),
                    State::Up | State::ReselectRequested => {}
                }
            }
        }
    }
}

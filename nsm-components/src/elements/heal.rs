//! `heal`: notices that the next process went away, and asks again when it is back
//! (protocol §4.3, spec heal). The Request that follows is the same as before: it finds the path in
//! itself and the links in the kernel, so packets never notice.

use std::{sync::Arc, time::Duration};

use tonic::{Request as Call, Streaming};
use tracing::{debug, info};

use crate::{
    api::{
        PathSegment,
        connection::{
            ConnectionEvent, ConnectionEventType, MonitorScopeSelector, State,
            monitor_connection_client::MonitorConnectionClient,
        },
        peer::Address,
    },
    chain::{Error, Kind, Result, Session},
    transport::Channels,
};

/// Pauses between tries to reach the next process.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3));

/// Limit of opening a stream.
const OPEN: Duration = Duration::from_secs(5);

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
        let unavailable = |error: &(dyn std::error::Error + 'static)| Error::caused(Kind::Unavailable, error);
        let channel = self.channels.get(&self.address).await.map_err(|error| unavailable(&error))?;
        let own = PathSegment { name: self.name.clone(), ..PathSegment::default() };
        let mut call = Call::new(MonitorScopeSelector { path_segments: vec![own], ..Default::default() });
        channel.token(self.token_life).map_err(|error| unavailable(&error))?.write(call.metadata_mut());
        let mut client = MonitorConnectionClient::new(channel.grpc);
        let opened = tokio::time::timeout(OPEN, client.monitor_connections(call)).await;
        let late = || Error::new(Kind::Deadline, "no answer in time");
        Ok(opened.map_err(|_| late())?.map_err(|status| unavailable(&status))?.into_inner())
    }

    /// Until the stream ends; a connection that is said to be down is asked for at once.
    async fn follow(&self, mut events: Streaming<ConnectionEvent>) {
        while let Ok(Some(event)) = events.message().await {
            let down = event.connections.values().any(|connection| connection.state() == State::Down);
            if down && event.r#type() == ConnectionEventType::Update {
                self.session.heal();
            }
        }
    }
}

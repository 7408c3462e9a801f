//! Opens a stream of the next process's monitor (protocol §4.3).

use std::time::Duration;

use tonic::{Request as Call, Status, Streaming};

use super::grpc::{failure, is_broken};
use crate::{
    api::{
        PathSegment,
        connection::{
            ConnectionEvent, MonitorScopeSelector, monitor_connection_client::MonitorConnectionClient,
        },
        peer::Address,
    },
    chain::{Error, Kind, Result},
    transport::Channels,
};

/// Limit of opening a stream.
const OPEN: Duration = Duration::from_secs(5);

/// Connections with this segment on their path: first those there are, then every change.
/// [`Kind::Unavailable`] is a process that cannot be reached; what one answers is another failure.
pub(super) async fn watch(
    channels: &Channels,
    address: &Address,
    token_life: Duration,
    segment: PathSegment,
) -> Result<Streaming<ConnectionEvent>> {
    let unavailable = |error: &(dyn std::error::Error + 'static)| Error::caused(Kind::Unavailable, error);
    let channel = channels.get(address).await.map_err(|error| unavailable(&error))?;
    let selector = MonitorScopeSelector { path_segments: vec![segment], ..Default::default() };
    let mut call = Call::new(selector);
    channel.token(token_life).map_err(|error| unavailable(&error))?.write(call.metadata_mut());
    let mut client = MonitorConnectionClient::new(channel.grpc);
    let opened = tokio::time::timeout(OPEN, client.monitor_connections(call)).await;
    let late = || Error::new(Kind::Deadline, "no answer in time");
    let refused = |status: Status| {
        let error = failure(&status, address);
        let answered = error.kind == Kind::Unavailable && !is_broken(&status);
        if answered { Error { kind: Kind::Invalid, ..error } } else { error }
    };
    Ok(opened.map_err(|_| late())?.map_err(refused)?.into_inner())
}

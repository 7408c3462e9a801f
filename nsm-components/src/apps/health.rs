//! `nsm health`: asks a process of the mesh whether it serves, over the same mutual TLS as everybody
//! (gRPC Health Checking Protocol).

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::Error;
use crate::{
    api::peer::Address,
    settings::Target,
    transport::{Channels, Source},
};

/// Asks the process at `target`, with an identity from `workload_api`, all within `limit`.
pub async fn check(workload_api: &Target, target: &Target, limit: Duration) -> Result<(), Error> {
    let unhealthy = |reason: String| Error::Unhealthy { target: target.to_string(), reason };
    let source = Source::start(workload_api);
    source.wait(limit, &CancellationToken::new()).await?;
    let address = match target {
        // A wildcard listens everywhere; this is the nearest of it.
        Target::Tcp(address) if address.starts_with(':') => Address::Tcp(format!("127.0.0.1{address}")),
        Target::Tcp(address) => Address::Tcp(address.replace("0.0.0.0:", "127.0.0.1:")),
        Target::Unix(path) => Address::Unix(path.clone()),
    };
    let channel = Channels::new(source, limit).get(&address).await?;
    let request = HealthCheckRequest { service: String::new() };
    let answer = tokio::time::timeout(limit, HealthClient::new(channel.grpc).check(request)).await;
    let answer = answer.map_err(|_| unhealthy("no answer in time".into()))?;
    match answer.map_err(|status| unhealthy(status.message().to_owned()))?.into_inner().status() {
        ServingStatus::Serving => Ok(()),
        other => Err(unhealthy(other.as_str_name().to_owned())),
    }
}

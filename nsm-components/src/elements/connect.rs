//! `connect`: calls the next process (protocol §4.3, `clienturl`, `clientconn`, `dial`, `connect`).
//!
//! When the next process is another one than before, the connection is closed there after the new
//! one has answered: first the new way, then the end of the old.

use std::time::Duration;

use async_trait::async_trait;
use tonic::{Request as Call, Status, metadata::MetadataMap};
use tracing::{debug, warn};

use super::grpc::{claim, failure, is_broken, named, urls};
use crate::{
    api::{
        Connection,
        networkservice::{NetworkServiceRequest, network_service_client::NetworkServiceClient},
        peer::{Address, Files},
    },
    chain::{Cx, Element, Error, Kind, Next, Reply, Request, Result},
    transport::{Channel, Channels, MAX_HEADER_LIST},
};

/// Largest answer that is read, in bytes.
const MAX_MESSAGE: usize = MAX_HEADER_LIST as usize;

/// See the module.
#[derive(Clone, Debug)]
pub struct Connect {
    channels: Channels,
    token_life: Duration,
}

impl Connect {
    /// Calls over these channels; tokens live at most `token_life`.
    pub fn new(channels: Channels, token_life: Duration) -> Self {
        Self { channels, token_life }
    }

    async fn channel(&self, address: &Address) -> Result<Channel> {
        self.channels.get(address).await.map_err(|error| Error::caused(Kind::Unavailable, &error))
    }

    /// A call with the token, the time left and the files beside it.
    fn prepare<T>(&self, cx: &Cx, channel: &Channel, message: T, files: &Files) -> Result<Call<T>> {
        let token =
            channel.token(self.token_life).map_err(|error| Error::caused(Kind::Unavailable, &error))?;
        let mut call = Call::new(message);
        let mut metadata = MetadataMap::new();
        token.write(&mut metadata);
        *call.metadata_mut() = metadata;
        call.set_timeout(cx.left());
        if channel.is_local() {
            channel.files.send(files);
        }
        Ok(call)
    }

    /// One Request over one channel.
    async fn ask(
        &self,
        cx: &Cx,
        channel: &Channel,
        request: &Request,
    ) -> Result<std::result::Result<Connection, Status>> {
        let message = NetworkServiceRequest {
            connection: Some(request.connection.clone()),
            mechanism_preferences: request.preferences.clone(),
        };
        let mechanisms = request.preferences.iter().chain(&request.connection.mechanism);
        let call = self.prepare(cx, channel, message, &named(&request.files, &urls(mechanisms)))?;
        let mut client =
            NetworkServiceClient::new(channel.grpc.clone()).max_decoding_message_size(MAX_MESSAGE);
        let answer = tokio::time::timeout_at(cx.deadline, client.request(call)).await;
        let answer = answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")));
        Ok(answer.map(tonic::Response::into_inner))
    }

    /// Asks, and once more when the connection broke beneath: the process may just have been
    /// started anew, and a repeated Request does no harm.
    async fn ask_again(
        &self,
        cx: &Cx,
        address: &Address,
        request: &Request,
    ) -> Result<(Channel, Connection)> {
        let mut channel = self.channel(address).await?;
        let mut answer = self.ask(cx, &channel, request).await?;
        if let Err(status) = &answer
            && is_broken(status)
        {
            debug!(%address, %status, "the connection broke: asking again");
            self.channels.forget(address);
            channel = self.channel(address).await?;
            answer = self.ask(cx, &channel, request).await?;
        }
        let connection = answer.map_err(|status| failure(&status, address))?;
        Ok((channel, connection))
    }

    async fn end(&self, cx: &Cx, address: &Address, connection: Connection, files: &Files) -> Result<()> {
        let channel = self.channel(address).await?;
        let files = named(files, &urls(&connection.mechanism));
        let call = self.prepare(cx, &channel, connection, &files)?;
        let mut client = NetworkServiceClient::new(channel.grpc.clone());
        let answer = tokio::time::timeout_at(cx.deadline, client.close(call)).await;
        let answer = answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")));
        answer.map(|_| ()).map_err(|status| failure(&status, address))
    }
}

#[async_trait]
impl Element for Connect {
    fn name(&self) -> &'static str {
        "connect"
    }

    async fn request(&self, cx: &Cx, request: Request, next: Next<'_>) -> Result<Reply> {
        let address =
            cx.next_hop.clone().ok_or_else(|| Error::new(Kind::Internal, "there is no next hop"))?;
        let (channel, connection) = self.ask_again(cx, &address, &request).await?;
        let mut files = request.files;
        if channel.is_local() {
            let mut wanted = urls(&connection.mechanism);
            wanted.retain(|url| files.by_url(url).is_none());
            let received = claim(&channel.files, &wanted, cx.deadline).await?;
            files.extend(received);
        }
        let before = cx.memory.with(|memory| memory.next.replace((address.clone(), connection.clone())));
        if let Some((old, last)) = before
            && old != address
            && let Err(error) = self.end(&cx.undo(), &old, last, &files).await
        {
            warn!(address = %old, %error, "could not close on the old way");
        }
        let preferences = request.preferences;
        next.request(cx, Request { connection, preferences, files }).await
    }

    async fn close(&self, cx: &Cx, request: Request, next: Next<'_>) -> Result<()> {
        let known = cx.memory.with(|memory| memory.next.take());
        let address = known.as_ref().map(|(address, _)| address.clone()).or_else(|| cx.next_hop.clone());
        let ended = match address {
            Some(address) => self.end(cx, &address, request.connection.clone(), &request.files).await,
            None => Ok(()),
        };
        next.close(cx, request).await.and(ended)
    }
}

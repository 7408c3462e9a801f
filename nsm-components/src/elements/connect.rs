//! `connect`: calls the next process (protocol §4.3, `clienturl`, `clientconn`, `dial`, `connect`).
//!
//! When the next process is another one than before, the connection is closed there after the new
//! one has answered: first the new way, then the end of the old, for which no answer waits.

mod endings;

use std::{io, time::Duration};

use async_trait::async_trait;
use prost_types::Timestamp;
use tonic::{Code, Request as Call, Status, metadata::MetadataMap};
use tracing::{debug, warn};

use self::endings::Endings;
use super::grpc::{claim, failure, is_broken, link, named, urls};
use crate::{
    api::{
        Connection,
        networkservice::{NetworkServiceRequest, network_service_client::NetworkServiceClient},
        packed::Packed,
        peer::{Address, Files},
    },
    chain::{Cx, Element, Error, Hop, Kind, Next, Reply, Request, Result},
    transport::{self, Channel, Channels, MAX_MESSAGE, Token, token},
};

/// Whether a dial failed because there is no process behind the socket; one that is slow is there.
fn nobody_listens(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound);
        }
        cause = error.source();
    }
    false
}

/// What the next process answered.
struct Answer {
    channel: Channel,
    /// The token it was brought.
    token: Token,
    connection: Connection,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Connect {
    channels: Channels,
    token_life: Duration,
    /// Whether a process of this node that is called next is an endpoint.
    to_endpoints: bool,
    endings: Endings,
}

impl Connect {
    /// Calls over these channels; tokens live at most `token_life`.
    pub fn new(channels: Channels, token_life: Duration) -> Self {
        Self { channels, token_life, to_endpoints: false, endings: Endings::default() }
    }

    /// The same where the next process, if it is on this node, is an endpoint: one that is not there
    /// is gone.
    #[must_use]
    pub fn to_endpoints(self) -> Self {
        Self { to_endpoints: true, ..self }
    }

    /// The channel for a Request; it is noted if nobody is there.
    async fn channel_noting(&self, cx: &Cx, address: &Address) -> Result<Channel> {
        let channel = self.channels.get(address).await;
        let refused = channel.as_ref().is_err_and(|error| nobody_listens(error));
        cx.memory.with(|memory| memory.refused = refused);
        self.found(address, channel)
    }

    async fn channel(&self, address: &Address) -> Result<Channel> {
        self.found(address, self.channels.get(address).await)
    }

    fn found(
        &self,
        address: &Address,
        channel: std::result::Result<Channel, transport::Error>,
    ) -> Result<Channel> {
        channel.map_err(|error| {
            let gone = self.to_endpoints && address.is_local() && nobody_listens(&error);
            let kind = if gone { Kind::Gone } else { Kind::Unavailable };
            Error::caused(kind, &error)
        })
    }

    /// A call with the token, the time left and the files beside it.
    fn prepare<T>(&self, cx: &Cx, channel: &Channel, message: T, files: &Files) -> Result<(Token, Call<T>)> {
        let token =
            channel.token(self.token_life).map_err(|error| Error::caused(Kind::Unavailable, &error))?;
        let mut call = Call::new(message);
        let mut metadata = MetadataMap::new();
        token.write(&mut metadata);
        *call.metadata_mut() = metadata;
        call.set_timeout(cx.left());
        if channel.is_local() && !channel.files.send(files) {
            return Err(Error::new(
                Kind::Exhausted,
                "the next process does not take the files of more calls now",
            ));
        }
        Ok((token, call))
    }

    /// One Request over one channel.
    async fn ask(
        &self,
        cx: &Cx,
        channel: &Channel,
        request: &Request,
    ) -> Result<(Token, std::result::Result<Connection, Status>)> {
        let message = NetworkServiceRequest {
            connection: Some(request.connection.clone()),
            mechanism_preferences: request.preferences.clone(),
        };
        let mechanisms = request.preferences.iter().chain(&request.connection.mechanism);
        let files = named(&request.files, &urls(mechanisms));
        let (token, call) = self.prepare(cx, channel, message, &files)?;
        let mut client =
            NetworkServiceClient::new(channel.grpc.clone()).max_decoding_message_size(MAX_MESSAGE);
        let answer = tokio::time::timeout_at(cx.deadline, client.request(call)).await;
        let answer = answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")));
        Ok((token, answer.map(tonic::Response::into_inner)))
    }

    /// Asks, and once more when the connection broke beneath: the process may just have been
    /// started anew, and a repeated Request does no harm.
    async fn ask_again(&self, cx: &Cx, address: &Address, request: &Request) -> Result<Answer> {
        let mut channel = self.channel_noting(cx, address).await?;
        let (mut token, mut answer) = self.ask(cx, &channel, request).await?;
        if let Err(status) = &answer
            && is_broken(status)
            && !cx.left().is_zero()
        {
            debug!(%address, %status, "the connection broke: asking again");
            self.channels.discard(address, &channel);
            channel = self.channel_noting(cx, address).await?;
            (token, answer) = self.ask(cx, &channel, request).await?;
        }
        // Over TCP silence may be that of a dead node; the next call shall not wait for it again.
        if !channel.is_local() && answer.as_ref().is_err_and(|status| status.code() == Code::DeadlineExceeded)
        {
            self.channels.discard(address, &channel);
        }
        let connection = answer.map_err(|status| failure(&status, address))?;
        Ok(Answer { channel, token, connection })
    }

    /// Closes the connection there, or gives up in time: the process may be gone with its node.
    async fn end(&self, cx: &Cx, address: &Address, connection: Connection, files: &Files) -> Result<()> {
        let late = || Err(Status::deadline_exceeded("no answer in time"));
        let closed = async {
            let channel = self.channel(address).await?;
            let files = named(files, &urls(&connection.mechanism));
            let (_, call) = self.prepare(cx, &channel, connection, &files)?;
            Ok(NetworkServiceClient::new(channel.grpc.clone()).close(call).await)
        };
        let answer = tokio::time::timeout_at(cx.deadline, closed).await.unwrap_or_else(|_| Ok(late()))?;
        answer.map(|_| ()).map_err(|status| failure(&status, address))
    }

    /// Ends the way the connection took before; who waits for the new one does not wait for this.
    async fn end_old_way(&self, cx: &Cx, Hop { address, answered, .. }: Hop, files: Files) {
        let last = answered.unpack();
        let (connect, cx, id, old) = (self.clone(), cx.undo(), last.id.clone(), address.clone());
        let end = async move {
            if let Err(error) = connect.end(&cx, &address, last, &files).await {
                warn!(%address, %error, "could not close on the old way");
            }
        };
        self.endings.run(&id, &old, end).await;
    }
}

/// The answer to a Request: what stands left of the next process is not its to change, nor is the
/// connection's id. Else it could name another connection, or the end of another's life. The token of this
/// process is the one that the next was brought: it is shown on as ours.
fn answer_to(sent: &Connection, token: &Token, mut answer: Connection) -> Result<Connection> {
    let index = sent.path.as_ref().map_or(0, |path| path.index as usize);
    let path = answer.path.get_or_insert_default();
    if path.path_segments.len() <= index {
        return Err(Error::new(Kind::Internal, "the answer's path is shorter than the Request's"));
    }
    for (got, sent) in path.path_segments.iter_mut().zip(sent.segments()).take(index) {
        got.clone_from(sent);
    }
    if let (Some(got), Some(sent)) = (path.path_segments.get_mut(index), sent.segments().get(index)) {
        got.name.clone_from(&sent.name);
        got.id.clone_from(&sent.id);
        got.token = token.text.to_string();
        got.expires = Some(Timestamp { seconds: token.expires, nanos: 0 });
    }
    // A token ends when it says, whatever stands beside it.
    for segment in path.path_segments.iter_mut().skip(index) {
        if let Ok(claims) = token::read(&segment.token) {
            let said = segment.expires.map_or(claims.exp, |end| end.seconds);
            segment.expires = Some(Timestamp { seconds: said.min(claims.exp), nanos: 0 });
        }
    }
    path.index = u32::try_from(index).unwrap_or(u32::MAX);
    answer.id.clone_from(&sent.id);
    answer.network_service.clone_from(&sent.network_service);
    Ok(answer)
}

#[async_trait]
impl Element for Connect {
    fn name(&self) -> &'static str {
        "connect"
    }

    async fn request(&self, cx: &Cx, request: Request, next: Next<'_>) -> Result<Reply> {
        let address =
            cx.next_hop.clone().ok_or_else(|| Error::new(Kind::Internal, "there is no next hop"))?;
        self.endings.wait(&request.connection.id, &address, cx.deadline).await?;
        let Answer { channel, token, connection: answered } = self.ask_again(cx, &address, &request).await?;
        let server = channel.session().map(|session| (session.peer.clone(), link(session, self.token_life)));
        cx.memory.with(|memory| memory.server = server);
        let connection = answer_to(&request.connection, &token, answered.clone());
        let received = match &connection {
            Ok(connection) if channel.is_local() => {
                let mut wanted = urls(&connection.mechanism);
                wanted.retain(|url| request.files.by_url(url).is_none());
                claim(&channel.files, &wanted, cx.deadline).await
            }
            _ => Ok(Files::default()),
        };
        let (connection, received) = match (connection, received) {
            (Ok(connection), Ok(received)) => (connection, received),
            (Err(error), _) | (_, Err(error)) => {
                // The next process has it, and nobody would ever close it there.
                if let Err(undo) = self.end(&cx.undo(), &address, answered, &request.files).await {
                    warn!(%address, error = %undo, "could not close what was answered wrongly");
                }
                return Err(error);
            }
        };
        let mut files = request.files;
        files.extend(received);
        let hop = Hop {
            address: address.clone(),
            endpoint: connection.network_service_endpoint_name.clone(),
            answered: Packed::of(&connection),
        };
        let before = cx.memory.with(|memory| memory.next.replace(hop));
        if let Some(before) = before.filter(|old| old.address != address) {
            self.end_old_way(cx, before, files.clone()).await;
        }
        let preferences = request.preferences;
        next.request(cx, Request { connection, preferences, files }).await
    }

    async fn close(&self, cx: &Cx, request: Request, next: Next<'_>) -> Result<()> {
        let known = cx.memory.with(|memory| memory.next.take());
        let address = known.map(|hop| hop.address).or_else(|| cx.next_hop.clone());
        let ended = match address {
            Some(address) => self.end(cx, &address, request.connection.clone(), &request.files).await,
            None => Ok(()),
        };
        next.close(cx, request).await.and(ended)
    }
}

#[cfg(test)]
mod tests;

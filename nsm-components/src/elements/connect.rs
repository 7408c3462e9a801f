//! `connect`: calls the next process (protocol §4.3, `clienturl`, `clientconn`, `dial`, `connect`).
//!
//! When the next process is another one than before, the connection is closed there after the new
//! one has answered: first the new way, then the end of the old.

use std::{io, time::Duration};

use async_trait::async_trait;
use prost_types::Timestamp;
use tonic::{Code, Request as Call, Status, metadata::MetadataMap};
use tracing::{debug, warn};

use super::grpc::{claim, failure, is_broken, link, named, urls};
use crate::{
    api::{
        Connection,
        networkservice::{NetworkServiceRequest, network_service_client::NetworkServiceClient},
        peer::{Address, Files},
    },
    chain::{Cx, Element, Error, Kind, Next, Reply, Request, Result},
    transport::{self, Channel, Channels, MAX_HEADER_LIST, Token},
};

/// Largest answer that is read, in bytes.
const MAX_MESSAGE: usize = MAX_HEADER_LIST as usize;

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
}

impl Connect {
    /// Calls over these channels; tokens live at most `token_life`.
    pub fn new(channels: Channels, token_life: Duration) -> Self {
        Self { channels, token_life, to_endpoints: false }
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

    async fn end(&self, cx: &Cx, address: &Address, connection: Connection, files: &Files) -> Result<()> {
        let channel = self.channel(address).await?;
        let files = named(files, &urls(&connection.mechanism));
        let (_, call) = self.prepare(cx, &channel, connection, &files)?;
        let mut client = NetworkServiceClient::new(channel.grpc.clone());
        let answer = tokio::time::timeout_at(cx.deadline, client.close(call)).await;
        let answer = answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")));
        answer.map(|_| ()).map_err(|status| failure(&status, address))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Path, PathSegment};

    fn brought() -> Token {
        Token { text: "brought".into(), expires: 60 }
    }

    fn connection(ids: &[&str], index: u32, expires: i64) -> Connection {
        let segment = |id: &&str| PathSegment {
            id: (*id).into(),
            expires: Some(Timestamp { seconds: expires, nanos: 0 }),
            ..Default::default()
        };
        let path = Path { index, path_segments: ids.iter().map(segment).collect() };
        Connection { id: ids[index as usize].into(), path: Some(path), ..Default::default() }
    }

    #[test]
    fn an_answer_changes_neither_whose_connection_it_is_nor_when_its_caller_ends() {
        let sent = connection(&["nsc", "nsmgr"], 1, 100);
        let mut forged = connection(&["x", "victim", "forwarder"], 0, 0);
        forged.segment_mut(1).unwrap().token = "forged".into();
        let got = answer_to(&sent, &brought(), forged).unwrap();
        assert_eq!(got.id, "nsmgr");
        let segments: Vec<_> = got.segments().iter().map(|segment| segment.id.as_str()).collect();
        assert_eq!(segments, ["nsc", "nsmgr", "forwarder"]);
        assert_eq!(got.segments()[0].expires.unwrap().seconds, 100);
        assert_eq!(
            (got.segments()[1].token.as_str(), got.segments()[1].expires.unwrap().seconds),
            ("brought", 60)
        );
        assert_eq!(got.path.unwrap().index, 1);
    }

    #[test]
    fn an_answer_without_the_way_that_was_sent_is_refused() {
        let sent = connection(&["nsc", "nsmgr"], 1, 100);
        assert!(answer_to(&sent, &brought(), connection(&["x"], 0, 0)).is_err());
        assert!(answer_to(&sent, &brought(), Connection::default()).is_err());
    }
}

//! `connect`: calls the next registry (protocol §4.2). Files of local endpoints travel beside.

mod events;
mod lanes;
mod wire;

use std::{os::fd::OwnedFd, path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::StreamExt;
use tokio::time::Instant;
use tonic::{Request as Call, Response, Status, metadata::MetadataValue};
use tracing::debug;

pub(super) use self::wire::WITHOUT_REFRESHES;
pub use self::wire::Wire;
use self::{
    events::{bounded, opened, with_files},
    lanes::Lanes,
};
use crate::{
    api::{
        peer::{Address, FileKey, Files},
        registry_path::{METADATA_KEY, RegistryPath},
    },
    chain::{Error, Events, Kind, Query, RegistryCx, RegistryElement, RegistryNext, Result},
    elements::grpc::{failure, is_broken, link},
    transport::{Channel, Channels, file_key},
};

/// See the module.
#[derive(Clone, Debug)]
pub struct Connect {
    channels: Channels,
    address: Address,
    token_life: Duration,
    lanes: Lanes,
    /// Whether sockets go as their URLs, even where they could be passed.
    by_url: bool,
}

impl Connect {
    /// Calls the registry at `address`; tokens live at most `token_life`.
    pub fn new(channels: Channels, address: Address, token_life: Duration) -> Self {
        Self { channels, address, token_life, lanes: Lanes::default(), by_url: false }
    }

    /// The same for a registry that keeps what endpoints are called by others, and calls nobody itself: an
    /// nsmgr is known there by the URL that it shall be known by, also when both are on one host.
    #[must_use]
    pub fn by_url(self) -> Self {
        Self { by_url: true, ..self }
    }

    async fn channel(&self, lane: usize) -> Result<Channel> {
        let channel = self.channels.get_lane(&self.address, lane).await;
        channel.map_err(|error| Error::caused(Kind::Unavailable, &error))
    }

    fn prepare<M>(&self, channel: &Channel, message: M, path: Option<&RegistryPath>) -> Result<Call<M>> {
        let token =
            channel.token(self.token_life).map_err(|error| Error::caused(Kind::Unavailable, &error))?;
        let mut call = Call::new(message);
        token.write(call.metadata_mut());
        if let Some(path) = path.and_then(|path| MetadataValue::try_from(path.to_metadata()).ok()) {
            call.metadata_mut().insert(METADATA_KEY, path);
        }
        Ok(call)
    }

    fn send(channel: &Channel, files: &Files) -> Result<()> {
        let full = || Error::new(Kind::Exhausted, "too many files wait to be sent to the registry");
        channel.files.send(files).then_some(()).ok_or_else(full)
    }

    /// The entry as it goes out: a socket of this process's own by descriptor.
    fn outgoing<T: Wire>(&self, channel: &Channel, entry: &T, files: &Files) -> Result<T> {
        let mut entry = entry.clone();
        if !channel.is_local() || self.by_url {
            return Ok(entry);
        }
        if let Some(path) = entry.url().strip_prefix("unix://").map(str::to_owned) {
            let failed = |error: std::io::Error| {
                Error::new(Kind::Invalid, format_args!("cannot pass the socket {path} on: {error}"))
            };
            let (key, file) = open_socket(Path::new(&path)).map_err(failed)?;
            let mut one = Files::default();
            one.insert(key, Arc::new(file));
            Self::send(channel, &one)?;
            entry.set_url(key.to_string());
        } else if files.by_url(entry.url()).is_some() {
            Self::send(channel, files)?;
        }
        Ok(entry)
    }

    /// The answer, if it comes in time. A registry on another node that does not answer may be gone
    /// without a word: the next call makes a connection of its own.
    async fn limited<R>(
        &self,
        cx: &RegistryCx,
        channel: &Channel,
        call: impl Future<Output = std::result::Result<R, Status>>,
    ) -> std::result::Result<R, Status> {
        tokio::time::timeout_at(cx.deadline, call).await.unwrap_or_else(|_| {
            if !channel.is_local() {
                self.channels.discard(&self.address, channel);
            }
            Err(Status::deadline_exceeded("no answer in time"))
        })
    }
}

/// From here on the path is the one that the answer has, if it has any.
fn follow<M>(cx: &RegistryCx, answer: &Response<M>) {
    let path = answer.metadata().get(METADATA_KEY).and_then(|value| value.to_str().ok());
    if let Some(path) = path.and_then(RegistryPath::from_metadata) {
        *cx.path.lock() = path;
    }
}

/// The socket at a path, to be passed on: it is neither opened nor connected to.
fn open_socket(path: &Path) -> std::io::Result<(FileKey, OwnedFd)> {
    use rustix::fs::{Mode, OFlags};
    let file = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    Ok((file_key(&file)?, file))
}

#[async_trait]
impl<T: Wire> RegistryElement<T> for Connect {
    fn name(&self) -> &'static str {
        "connect"
    }

    async fn register(&self, cx: &RegistryCx, entry: T, next: RegistryNext<'_, T>) -> Result<T> {
        let path = cx.path.lock().clone();
        let mut tries = 0;
        let (channel, answer) = loop {
            let channel = self.channel(0).await?;
            let call = self.prepare(&channel, self.outgoing(&channel, &entry, &cx.files)?, Some(&path))?;
            match self.limited(cx, &channel, T::call_register(&channel, call)).await {
                Err(status) if is_broken(&status) && tries == 0 && Instant::now() < cx.deadline => {
                    debug!(address = %self.address, %status, "the connection broke: asking again");
                    self.channels.discard(&self.address, &channel);
                    tries += 1;
                }
                answer => break (channel, answer.map_err(|status| failure(&status, &self.address))?),
            }
        };
        *cx.server.lock() = channel.session().map(|session| link(session, self.token_life));
        follow(cx, &answer);
        let mut stored = answer.into_inner();
        // The caller's own name for its socket.
        stored.set_url(entry.url().to_owned());
        next.register(cx, stored).await
    }

    async fn unregister(&self, cx: &RegistryCx, entry: T, next: RegistryNext<'_, T>) -> Result<()> {
        let path = cx.path.lock().clone();
        let channel = self.channel(0).await?;
        let call = self.prepare(&channel, self.outgoing(&channel, &entry, &cx.files)?, Some(&path))?;
        let answer = self.limited(cx, &channel, T::call_unregister(&channel, call)).await;
        follow(cx, &answer.map_err(|status| failure(&status, &self.address))?);
        next.unregister(cx, entry).await
    }

    async fn find(&self, cx: &RegistryCx, query: Query<T>, _: RegistryNext<'_, T>) -> Result<Events<T>> {
        let watch = query.watch;
        let place = watch.then(|| self.lanes.take()).transpose()?;
        let channel = self.channel(place.as_ref().map_or(0, lanes::Place::lane)).await?;
        let without_refreshes = query.without_refreshes;
        let mut call = self.prepare(&channel, T::query(query), None)?;
        if without_refreshes {
            call.metadata_mut().insert(WITHOUT_REFRESHES, MetadataValue::from_static("true"));
        }
        let asked = channel.clone();
        let asking = async move { T::call_find(&asked, call).await };
        let answer = if watch {
            self.limited(cx, &channel, opened(asking)).await
        } else {
            self.limited(cx, &channel, async { Ok(asking.await?.into_inner().boxed()) }).await
        };
        let answers = answer.map_err(|status| failure(&status, &self.address))?;
        let events = answers.filter_map({
            let address = self.address.to_string();
            move |answer| {
                let event = answer.map(T::from_response).map_err(|status| failure(&status, &address));
                std::future::ready(event.transpose())
            }
        });
        // The stream holds the channel: one that is watched over is in use.
        let holder = (channel, place);
        let events =
            with_files(events, holder, |(channel, _)| &channel.files, (!watch).then_some(cx.deadline));
        Ok(if watch { Box::pin(bounded(events)) } else { Box::pin(events) })
    }
}

#[cfg(test)]
mod many_watches;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_of_an_answer_replaces_the_one_that_was_sent_and_no_path_keeps_it() {
        let cx = RegistryCx::within(Duration::ZERO);
        cx.path.lock().advance("nse", "nsmgr");
        let sent = cx.path.lock().clone();
        let mut answer = Response::new(());
        follow(&cx, &answer);
        assert_eq!(*cx.path.lock(), sent);
        let text = r#"{"Index":1,"PathSegments":[{"token":"nse"},{"token":"nsmgr"},{"token":"registry"}]}"#;
        answer.metadata_mut().insert(METADATA_KEY, MetadataValue::from_static(text));
        follow(&cx, &answer);
        assert_eq!(cx.path.lock().to_metadata(), text);
    }
}

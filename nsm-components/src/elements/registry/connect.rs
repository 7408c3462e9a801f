//! `connect`: calls the next registry (protocol §4.2). Files of local endpoints travel beside.

use std::{os::fd::OwnedFd, path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::StreamExt;
use tonic::{Request as Call, Response, Status, Streaming, metadata::MetadataValue};
use tracing::debug;

use crate::{
    api::{
        peer::{Address, FileKey, Files},
        registry::{
            NetworkService, NetworkServiceEndpoint, NetworkServiceEndpointQuery,
            NetworkServiceEndpointResponse, NetworkServiceQuery, NetworkServiceResponse,
            network_service_endpoint_registry_client::NetworkServiceEndpointRegistryClient,
            network_service_registry_client::NetworkServiceRegistryClient,
        },
        registry_path::{METADATA_KEY, RegistryPath},
    },
    chain::{Entry, Error, Event, Events, Kind, Query, RegistryCx, RegistryElement, RegistryNext, Result},
    elements::grpc::{failure, is_broken},
    transport::{Channel, Channels, file_key},
};

/// What the two registries' generated clients have in common.
#[async_trait]
pub trait Wire: Entry {
    /// A Find's message.
    type Query: Send;
    /// A Find's answers.
    type Response: Send + 'static;

    /// The URL that names the endpoint's socket, where there is one.
    fn url(&self) -> &str;
    /// Puts another URL in its place.
    fn set_url(&mut self, url: String);
    /// A query as its message.
    fn query(query: Query<Self>) -> Self::Query;
    /// A query from its message.
    fn from_query(query: Self::Query) -> Query<Self>;
    /// An event as its message.
    fn response(event: Event<Self>) -> Self::Response;
    /// An event from its message.
    fn from_response(response: Self::Response) -> Option<Event<Self>>;

    /// Calls Register.
    async fn call_register(
        channel: &Channel,
        call: Call<Self>,
    ) -> std::result::Result<Response<Self>, Status>;
    /// Calls Unregister.
    async fn call_unregister(
        channel: &Channel,
        call: Call<Self>,
    ) -> std::result::Result<Response<()>, Status>;
    /// Calls Find.
    async fn call_find(
        channel: &Channel,
        call: Call<Self::Query>,
    ) -> std::result::Result<Response<Streaming<Self::Response>>, Status>;
}

macro_rules! wire {
    ($entry:ident, $query:ident, $response:ident, $client:ident, $field:ident, $url:expr, $set_url:expr) => {
        #[async_trait]
        impl Wire for $entry {
            type Query = $query;
            type Response = $response;

            fn url(&self) -> &str {
                let url: fn(&Self) -> &str = $url;
                url(self)
            }

            fn set_url(&mut self, url: String) {
                let set: fn(&mut Self, String) = $set_url;
                set(self, url);
            }

            fn query(query: Query<Self>) -> $query {
                $query { $field: Some(query.like), watch: query.watch }
            }

            fn from_query(query: $query) -> Query<Self> {
                Query { like: query.$field.unwrap_or_default(), watch: query.watch }
            }

            fn response(event: Event<Self>) -> $response {
                $response { $field: Some(event.entry), deleted: event.deleted }
            }

            fn from_response(response: $response) -> Option<Event<Self>> {
                let deleted = response.deleted;
                response.$field.map(|entry| Event { entry, deleted, files: Files::default() })
            }

            async fn call_register(
                channel: &Channel,
                call: Call<Self>,
            ) -> std::result::Result<Response<Self>, Status> {
                $client::new(channel.grpc.clone()).register(call).await
            }

            async fn call_unregister(
                channel: &Channel,
                call: Call<Self>,
            ) -> std::result::Result<Response<()>, Status> {
                $client::new(channel.grpc.clone()).unregister(call).await
            }

            async fn call_find(
                channel: &Channel,
                call: Call<$query>,
            ) -> std::result::Result<Response<Streaming<$response>>, Status> {
                $client::new(channel.grpc.clone()).find(call).await
            }
        }
    };
}

wire!(
    NetworkService,
    NetworkServiceQuery,
    NetworkServiceResponse,
    NetworkServiceRegistryClient,
    network_service,
    |_| "",
    |_, _| {}
);
wire!(
    NetworkServiceEndpoint,
    NetworkServiceEndpointQuery,
    NetworkServiceEndpointResponse,
    NetworkServiceEndpointRegistryClient,
    network_service_endpoint,
    |entry| &entry.url,
    |entry, url| entry.url = url
);

/// See the module.
#[derive(Clone, Debug)]
pub struct Connect {
    channels: Channels,
    address: Address,
    token_life: Duration,
}

impl Connect {
    /// Calls the registry at `address`; tokens live at most `token_life`.
    pub fn new(channels: Channels, address: Address, token_life: Duration) -> Self {
        Self { channels, address, token_life }
    }

    async fn channel(&self) -> Result<Channel> {
        self.channels.get(&self.address).await.map_err(|error| Error::caused(Kind::Unavailable, &error))
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

    /// The entry as it goes out: a socket of this process's own by descriptor.
    fn outgoing<T: Wire>(channel: &Channel, entry: &T, files: &Files) -> Result<T> {
        let mut entry = entry.clone();
        if !channel.is_local() {
            return Ok(entry);
        }
        if let Some(path) = entry.url().strip_prefix("unix://").map(str::to_owned) {
            let failed = |error: std::io::Error| {
                Error::new(Kind::Invalid, format_args!("cannot pass the socket {path} on: {error}"))
            };
            let (key, file) = open_socket(Path::new(&path)).map_err(failed)?;
            let mut one = Files::default();
            one.insert(key, Arc::new(file));
            channel.files.send(&one);
            entry.set_url(key.to_string());
        } else if files.by_url(entry.url()).is_some() {
            channel.files.send(files);
        }
        Ok(entry)
    }

    async fn limited<R>(
        &self,
        cx: &RegistryCx,
        call: impl Future<Output = std::result::Result<R, Status>>,
    ) -> std::result::Result<R, Status> {
        let late = Status::deadline_exceeded("no answer in time");
        tokio::time::timeout_at(cx.deadline, call).await.unwrap_or(Err(late))
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
        let answer = loop {
            let channel = self.channel().await?;
            let call = self.prepare(&channel, Self::outgoing(&channel, &entry, &cx.files)?, Some(&path))?;
            match self.limited(cx, T::call_register(&channel, call)).await {
                Err(status) if is_broken(&status) && tries == 0 => {
                    debug!(address = %self.address, %status, "the connection broke: asking again");
                    self.channels.forget(&self.address);
                    tries += 1;
                }
                answer => break answer.map_err(|status| failure(&status, &self.address))?,
            }
        };
        follow(cx, &answer);
        let mut stored = answer.into_inner();
        // The caller's own name for its socket.
        stored.set_url(entry.url().to_owned());
        next.register(cx, stored).await
    }

    async fn unregister(&self, cx: &RegistryCx, entry: T, next: RegistryNext<'_, T>) -> Result<()> {
        let path = cx.path.lock().clone();
        let channel = self.channel().await?;
        let call = self.prepare(&channel, Self::outgoing(&channel, &entry, &cx.files)?, Some(&path))?;
        let answer = self.limited(cx, T::call_unregister(&channel, call)).await;
        follow(cx, &answer.map_err(|status| failure(&status, &self.address))?);
        next.unregister(cx, entry).await
    }

    async fn find(&self, cx: &RegistryCx, query: Query<T>, _: RegistryNext<'_, T>) -> Result<Events<T>> {
        let watch = query.watch;
        let channel = self.channel().await?;
        let call = self.prepare(&channel, T::query(query), None)?;
        let answer = self.limited(cx, T::call_find(&channel, call)).await;
        let answers = answer.map_err(|status| failure(&status, &self.address))?.into_inner();
        let (address, deadline) = (self.address.to_string(), cx.deadline);
        let events = answers.filter_map(move |answer| {
            let (files, address) = (channel.files.clone(), address.clone());
            async move {
                let event = match answer {
                    Ok(answer) => T::from_response(answer)?,
                    Err(status) => return Some(Err(failure(&status, &address))),
                };
                Some(Ok(with_file(event, &files, watch, deadline).await))
            }
        });
        Ok(Box::pin(events))
    }
}

/// The event with the socket that its URL names, if it came.
async fn with_file<T: Wire>(
    mut event: Event<T>,
    files: &crate::transport::FdTable,
    watch: bool,
    deadline: tokio::time::Instant,
) -> Event<T> {
    let Ok(key) = event.entry.url().parse::<FileKey>() else { return event };
    if event.deleted {
        return event;
    }
    let soon = tokio::time::Instant::now() + Duration::from_secs(1);
    let deadline = if watch { soon } else { deadline.min(soon) };
    match files.take(key, deadline).await {
        Ok(file) => event.files.insert(key, file),
        Err(error) => debug!(endpoint = event.entry.name(), %error, "an endpoint's socket did not come"),
    }
    event
}

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

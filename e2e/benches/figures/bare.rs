//! The same calls without the mesh: what they cost by mutual TLS, HTTP/2 and signatures alone. Each
//! part is a process of its own, as those of the mesh are.

use std::{collections::HashMap, path::PathBuf, pin::Pin, sync::Arc, time::Duration};

use anyhow::Result;
use clap::Subcommand;
use futures::Stream;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use nsm_components::{
    api::{
        Connection, PathSegment,
        connection::monitor_connection_server::MonitorConnectionServer,
        networkservice::{
            NetworkServiceRequest,
            network_service_client::NetworkServiceClient,
            network_service_server::{NetworkService, NetworkServiceServer},
        },
        peer::Address,
        registry::{
            NetworkServiceEndpoint, NetworkServiceEndpointQuery, NetworkServiceEndpointResponse,
            network_service_endpoint_registry_client::NetworkServiceEndpointRegistryClient,
            network_service_endpoint_registry_server::{
                NetworkServiceEndpointRegistry, NetworkServiceEndpointRegistryServer,
            },
        },
        trust::Trust,
    },
    chain::{Chain, Element},
    elements::{ConnectionService, Monitor, TrimPath, UpdatePath, UpdateToken},
    settings::Target,
    transport::{
        Accepted, Channels, Listener, MAX_HEADER_LIST, Source, Token,
        token::{self, Claims},
    },
};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tonic::{Request as Call, Response, Status, transport::Server};

use crate::stage::LIFE;

/// A process that is no part of the mesh.
#[derive(Subcommand)]
pub(crate) enum Part {
    /// Answers Register with what it got and Find with one entry.
    Registry {
        /// `host:port`.
        address: String,
    },
    /// Verifies the caller's token, signs two of its own, and passes the Request on.
    Relay {
        /// Its socket.
        socket: PathBuf,
        /// The next process's.
        next: PathBuf,
    },
    /// Answers Requests with its own segment added: a forwarder that carries nothing.
    Forwarder {
        /// Its socket.
        socket: PathBuf,
    },
    /// Watches a service and takes what comes.
    Watcher {
        /// The registry's `host:port`.
        address: String,
        /// Name of the service.
        service: String,
        /// Number of watches.
        watches: usize,
    },
}

impl Part {
    pub(crate) async fn run(self) -> Result<()> {
        let socket = std::env::var("SPIFFE_ENDPOINT_SOCKET")?;
        let source = Source::start(&socket.parse()?);
        let stop = CancellationToken::new();
        source.wait(Duration::from_secs(10), &stop).await?;
        let server = || Server::builder().http2_max_header_list_size(MAX_HEADER_LIST);
        let (target, router) = match self {
            Self::Registry { address } => {
                (Target::Tcp(address), server().add_service(NetworkServiceEndpointRegistryServer::new(Echo)))
            }
            Self::Relay { socket, next } => {
                let relay = Relay {
                    channels: Channels::new(source.clone(), Duration::from_secs(5)),
                    next: Address::Unix(next),
                    key: EncodingKey::from_ec_der(&rcgen::KeyPair::generate()?.serialize_der()),
                    ids: Arc::default(),
                };
                (Target::Unix(socket), server().add_service(NetworkServiceServer::new(relay)))
            }
            Self::Forwarder { socket } => {
                let service = forwarder(&source, stop.clone())?;
                let router = server()
                    .add_service(NetworkServiceServer::new(service.clone()))
                    .add_service(MonitorConnectionServer::new(service));
                (Target::Unix(socket), router)
            }
            Self::Watcher { address, service, watches } => {
                return watch(&source, &Address::Tcp(address), &service, watches).await;
            }
        };
        Ok(Listener::bind(&target)?.serve(router, source, stop).await?)
    }
}

/// Its own segment with its token, and nothing else.
fn forwarder(source: &Source, stop: CancellationToken) -> Result<ConnectionService> {
    let trust = Trust::new(&["*".to_owned()], &source.current()?.leaf.id);
    let chain = Chain::new([
        Arc::new(UpdatePath::new("forwarder", trust)) as Arc<dyn Element>,
        Arc::new(UpdateToken),
        Arc::new(TrimPath),
    ]);
    Ok(ConnectionService::new(chain, Arc::new(Monitor::default()), LIFE, stop))
}

async fn watch(source: &Source, address: &Address, service: &str, watches: usize) -> Result<()> {
    let channels = Channels::new(source.clone(), Duration::from_secs(5));
    let channel = channels.get(address).await?;
    let mut streams = Vec::new();
    for _ in 0..watches {
        let mut call = Call::new(NetworkServiceEndpointQuery {
            network_service_endpoint: Some(NetworkServiceEndpoint {
                network_service_names: vec![service.to_owned()],
                ..NetworkServiceEndpoint::default()
            }),
            watch: true,
        });
        channel.token(LIFE)?.write(call.metadata_mut());
        streams.push(NetworkServiceEndpointRegistryClient::new(channel.grpc.clone()).find(call).await?);
    }
    // Its lines are read by who started it.
    println!("watching");
    std::future::pending().await
}

/// See [`Part::Registry`].
struct Echo;

type Found = Pin<Box<dyn Stream<Item = Result<NetworkServiceEndpointResponse, Status>> + Send>>;

#[tonic::async_trait]
impl NetworkServiceEndpointRegistry for Echo {
    type FindStream = Found;

    async fn register(
        &self,
        call: Call<NetworkServiceEndpoint>,
    ) -> Result<Response<NetworkServiceEndpoint>, Status> {
        Ok(Response::new(call.into_inner()))
    }

    async fn find(&self, call: Call<NetworkServiceEndpointQuery>) -> Result<Response<Found>, Status> {
        let entry = call.into_inner().network_service_endpoint;
        let answer = NetworkServiceEndpointResponse { network_service_endpoint: entry, deleted: false };
        Ok(Response::new(Box::pin(futures::stream::iter([Ok(answer)]))))
    }

    async fn unregister(&self, _: Call<NetworkServiceEndpoint>) -> Result<Response<()>, Status> {
        Ok(Response::new(()))
    }
}

/// See [`Part::Relay`]. It keeps nothing but the ids of its segments, so that a refresh is one.
struct Relay {
    channels: Channels,
    next: Address,
    key: EncodingKey,
    ids: Arc<Mutex<HashMap<String, String>>>,
}

impl Relay {
    fn sign(&self, sub: &str, aud: &str) -> Result<(String, i64), Status> {
        let exp = jiff::Timestamp::now().as_second() + 600;
        let claims = Claims { sub: sub.to_owned(), aud: vec![aud.to_owned()], exp };
        let token = jsonwebtoken::encode(&Header::new(Algorithm::ES256), &claims, &self.key);
        Ok((token.map_err(|error| Status::internal(error.to_string()))?, exp))
    }
}

#[tonic::async_trait]
impl NetworkService for Relay {
    async fn request(&self, call: Call<NetworkServiceRequest>) -> Result<Response<Connection>, Status> {
        let accepted =
            call.extensions().get::<Accepted>().cloned().ok_or(Status::unauthenticated("no TLS"))?;
        let theirs = Token::read(call.metadata()).ok_or(Status::unauthenticated("no token"))?;
        token::verify(&theirs.text, &accepted.session.peer.public_key)
            .map_err(|error| Status::permission_denied(error.to_string()))?;
        let mut message = call.into_inner();
        let mut connection = message.connection.take().unwrap_or_default();
        let client = connection.id.clone();
        let id = self.ids.lock().entry(client.clone()).or_insert_with(|| format!("relay-{client}")).clone();
        let path = connection.path.get_or_insert_default();
        path.path_segments[0].token = theirs.text.to_string();
        path.path_segments.truncate(1);
        let (token, _) = self.sign(accepted.session.own_id(), &accepted.session.peer.id)?;
        path.path_segments.push(PathSegment {
            name: "relay".into(),
            id: id.clone(),
            token,
            ..Default::default()
        });
        path.index = 1;
        connection.id = id;
        message.connection = Some(connection);

        let failed = |error: nsm_components::transport::Error| Status::unavailable(error.to_string());
        let channel = self.channels.get(&self.next).await.map_err(failed)?;
        let mut onward = Call::new(message);
        let peer = channel.session().map(|session| session.peer.id.clone()).unwrap_or_default();
        // The key that the next process would know is the library's: a signature is made for what it
        // costs, and a token sent that may have been signed before.
        self.sign(accepted.session.own_id(), &peer)?;
        channel.token(LIFE).map_err(failed)?.write(onward.metadata_mut());
        let answer = NetworkServiceClient::new(channel.grpc.clone()).request(onward).await?;
        let mut connection = answer.into_inner();
        connection.id = client;
        connection.path.get_or_insert_default().index = 0;
        Ok(Response::new(connection))
    }

    async fn close(&self, _: Call<Connection>) -> Result<Response<()>, Status> {
        Ok(Response::new(()))
    }
}

//! A client that the test itself plays, by the book or against it.

use std::{path::Path, sync::Arc, time::Duration};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use nsm_components::{
    api::{
        Connection, Mechanism, Path as ConnectionPath, PathSegment,
        mechanism::{INODE_URL, NAME},
        networkservice::{NetworkServiceRequest, network_service_client::NetworkServiceClient},
        peer::{Address, Files},
        registry::{NetworkService, network_service_registry_client::NetworkServiceRegistryClient},
        registry_path::{METADATA_KEY, RegistryPath},
    },
    settings::Target,
    transport::{Channel, Channels, Source, Token, file_key, token::Claims},
};
use nsm_e2e::{mesh::Mesh, netns::Netns, wait::until};
use tonic::{Request, Status};

/// How long a call of it may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// See the module.
pub(crate) struct Stranger {
    pub(crate) source: Source,
    pub(crate) channels: Channels,
    pub(crate) id: String,
}

// === impl Stranger ===

impl Stranger {
    /// With an identity that the mesh gave it.
    pub(crate) fn of(mesh: &Mesh) -> Self {
        Self::with(&mesh.workload_api())
    }

    /// With an identity from this socket.
    pub(crate) fn with(workload_api: &Path) -> Self {
        let source = Source::start(&Target::Unix(workload_api.into()));
        let svid = until("an identity", LIMIT, || source.current().ok()).unwrap();
        Self { channels: Channels::new(source.clone(), LIMIT), source, id: svid.leaf.id.clone() }
    }

    /// A channel to a socket, as soon as there is somebody.
    pub(crate) async fn channel(&self, socket: &Path) -> Channel {
        self.channel_to(&Address::Unix(socket.into())).await
    }

    /// The same to any address.
    pub(crate) async fn channel_to(&self, address: &Address) -> Channel {
        let mut tries = 0;
        loop {
            match self.channels.get(address).await {
                Ok(channel) => return channel,
                Err(error) if tries == 200 => panic!("{error}"),
                Err(_) => tries += 1,
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// A token that is right but for its signature, by a key that nobody knows.
    pub(crate) fn forged(&self, channel: &Channel) -> Token {
        let key = rcgen::KeyPair::generate().unwrap();
        let real = channel.token(LIMIT).unwrap();
        let audience = channel.session().unwrap().peer.id.clone();
        let claims = Claims { sub: self.id.clone(), aud: vec![audience], exp: real.expires };
        let key = EncodingKey::from_ec_der(&key.serialize_der());
        let text = jsonwebtoken::encode(&Header::new(Algorithm::ES256), &claims, &key).unwrap();
        Token { text: text.into(), expires: real.expires }
    }

    /// Asks for an interface in `pod`.
    pub(crate) async fn ask(
        &self,
        channel: &Channel,
        pod: &Netns,
        token: Option<&Token>,
    ) -> Result<Connection, Status> {
        let text = token.map(|token| token.text.to_string()).unwrap_or_default();
        let segment =
            PathSegment { name: "stranger".into(), id: "strange".into(), token: text, ..Default::default() };
        self.ask_for(channel, pod, "finance", vec![segment], token).await
    }

    /// Asks for an interface to a service, by a path that ends with this caller.
    pub(crate) async fn ask_for(
        &self,
        channel: &Channel,
        pod: &Netns,
        service: &str,
        path_segments: Vec<PathSegment>,
        token: Option<&Token>,
    ) -> Result<Connection, Status> {
        let (file, mut files) = (pod.file(), Files::default());
        let key = file_key(&*file).unwrap();
        files.insert(key, Arc::clone(&file));
        let mut mechanism = Mechanism::kernel();
        mechanism.set(INODE_URL, key);
        mechanism.set(NAME, "nsm-1");
        self.send(channel, service, path_segments, (mechanism, &files), token).await
    }

    /// Asks for this mechanism, with these files.
    pub(crate) async fn ask_with(
        &self,
        channel: &Channel,
        mechanism: Mechanism,
        files: &Files,
        token: Option<&Token>,
    ) -> Result<Connection, Status> {
        let text = token.map(|token| token.text.to_string()).unwrap_or_default();
        let segment =
            PathSegment { name: "stranger".into(), id: "strange".into(), token: text, ..Default::default() };
        self.send(channel, "finance", vec![segment], (mechanism, files), token).await
    }

    async fn send(
        &self,
        channel: &Channel,
        service: &str,
        path_segments: Vec<PathSegment>,
        (mechanism, files): (Mechanism, &Files),
        token: Option<&Token>,
    ) -> Result<Connection, Status> {
        let last = path_segments.last().unwrap();
        let connection = Connection {
            id: last.id.clone(),
            network_service: service.into(),
            path: Some(ConnectionPath {
                index: u32::try_from(path_segments.len() - 1).unwrap(),
                path_segments,
            }),
            ..Connection::default()
        };
        let message =
            NetworkServiceRequest { connection: Some(connection), mechanism_preferences: vec![mechanism] };
        let mut call = Request::new(message);
        token.inspect(|token| token.write(call.metadata_mut()));
        call.set_timeout(LIMIT);
        channel.files.send(files);
        Ok(NetworkServiceClient::new(channel.grpc.clone()).request(call).await?.into_inner())
    }

    /// Writes a network service, or another form of one of its own.
    pub(crate) async fn write_service(&self, channel: &Channel, service: NetworkService) {
        let mut call = Request::new(service);
        channel.token(LIMIT).unwrap().write(call.metadata_mut());
        call.metadata_mut().insert(METADATA_KEY, RegistryPath::default().to_metadata().parse().unwrap());
        NetworkServiceRegistryClient::new(channel.grpc.clone()).register(call).await.unwrap();
    }

    pub(crate) async fn close(
        &self,
        channel: &Channel,
        mut connection: Connection,
        pod: &Netns,
    ) -> Result<(), Status> {
        let (file, mut files) = (pod.file(), Files::default());
        let key = file_key(&*file).unwrap();
        files.insert(key, Arc::clone(&file));
        connection.mechanism.as_mut().unwrap().set(INODE_URL, key);
        let mut call = Request::new(connection);
        channel.token(LIMIT).unwrap().write(call.metadata_mut());
        channel.files.send(&files);
        NetworkServiceClient::new(channel.grpc.clone()).close(call).await.map(drop)
    }
}

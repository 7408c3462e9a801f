//! A client whose connections are interfaces in a pod.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result};
use nsm_components::{
    api::{
        Connection, Mechanism,
        mechanism::{INODE_URL, NAME},
        peer::{Address, Files},
        trust::Trust,
    },
    chain::{Chain, Cx, Element, Request},
    elements::{Connect, UpdatePath},
    settings::Target,
    transport::{Channels, Source, file_key},
};
use nsm_e2e::{
    mesh::{Mesh, START},
    netns::Netns,
};
use tokio_util::sync::CancellationToken;

use crate::stage::LIFE;

/// Longest time of a call.
const LIMIT: Duration = Duration::from_secs(20);

/// What all clients here are to the mesh.
#[derive(Clone)]
pub(super) struct Identity {
    source: Source,
    id: String,
}

/// See the module.
#[derive(Clone)]
pub(super) struct Client {
    chain: Arc<Chain>,
    nsmgr: Address,
    mechanism: Mechanism,
    files: Files,
}

// === impl Identity ===

impl Identity {
    pub(super) async fn of(mesh: &Mesh) -> Result<Self> {
        let source = Source::start(&Target::Unix(mesh.workload_api()));
        source.wait(START, &CancellationToken::new()).await?;
        let id = source.current()?.leaf.id.clone();
        Ok(Self { source, id })
    }

    /// A client with a channel of its own to the nsmgr of a node.
    pub(super) fn client(&self, mesh: &Mesh, node: usize, pod: &Netns) -> Result<Client> {
        let (file, mut files) = (pod.file(), Files::default());
        let key = file_key(&*file)?;
        files.insert(key, file);
        let mut mechanism = Mechanism::kernel();
        mechanism.set(INODE_URL, key);
        let chain = Chain::new([
            Arc::new(UpdatePath::new("bench", Trust::new(&[], &self.id))) as Arc<dyn Element>,
            Arc::new(Connect::new(Channels::new(self.source.clone(), START), LIFE)),
        ]);
        Ok(Client { chain: Arc::new(chain), nsmgr: Address::Unix(mesh.nsmgr_socket(node)), mechanism, files })
    }
}

// === impl Client ===

impl Client {
    fn cx(&self) -> Cx {
        Cx { next_hop: Some(self.nsmgr.clone()), ..Cx::within(LIMIT) }
    }

    fn mechanism(&self, ifname: &str) -> Mechanism {
        let mut mechanism = self.mechanism.clone();
        mechanism.set(NAME, ifname);
        mechanism
    }

    /// Asks for an interface, whose name is also the connection's id.
    pub(super) async fn open(&self, service: &str, ifname: &str) -> Result<Connection> {
        let (id, network_service) = (ifname.to_owned(), service.to_owned());
        self.ask(Connection { id, network_service, ..Connection::default() }).await
    }

    /// Asks for the same once more, or for what was never asked for.
    pub(super) async fn ask(&self, connection: Connection) -> Result<Connection> {
        let ifname = connection.id.clone();
        let preferences = vec![self.mechanism(&ifname)];
        let request = Request { connection, preferences, files: self.files.clone() };
        let reply = self.chain.start().request(&self.cx(), request).await;
        Ok(reply.with_context(|| format!("connection {ifname}"))?.connection)
    }

    pub(super) async fn close(&self, mut connection: Connection) -> Result<()> {
        connection.mechanism = Some(self.mechanism(&connection.id));
        let request = Request { connection, files: self.files.clone(), ..Request::default() };
        Ok(self.chain.start().close(&self.cx(), request).await?)
    }
}

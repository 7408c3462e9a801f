//! A client made of the library's own elements, which the test steers: what `nsm nsc` does with one
//! connection, for as many as are wanted.

use std::{sync::Arc, time::Duration};

use nsm_components::{
    api::{
        Connection, Mechanism,
        mechanism::{INODE_URL, NAME},
        peer::{Address, Files},
        trust::Trust,
    },
    chain::{Chain, Cx, Element, Request, Result, SystemClock},
    elements::{AuthorizeClient, Connect, UpdatePath},
    transport::{Counts, file_key},
};
use nsm_e2e::{mesh::Mesh, netns::Netns};

use crate::stranger::{LIMIT, Stranger};

/// See the module.
pub(crate) struct Player {
    stranger: Stranger,
    chain: Chain,
    nsmgr: Address,
}

/// A connection of it.
pub(crate) struct Opened {
    connection: Connection,
    mechanism: Mechanism,
    files: Files,
}

// === impl Player ===

impl Player {
    /// A client on a node, with the life of tokens that the mesh has.
    pub(crate) fn on(mesh: &Mesh, node: usize) -> Self {
        let stranger = Stranger::of(mesh);
        let channels = stranger.channels.clone();
        let chain = Chain::new([
            Arc::new(UpdatePath::new("player", Trust::new(&[], &stranger.id))) as Arc<dyn Element>,
            Arc::new(AuthorizeClient::new(Arc::new(SystemClock), channels.clone())),
            Arc::new(Connect::new(channels, mesh.life())),
        ]);
        Self { stranger, chain, nsmgr: Address::Unix(mesh.nsmgr_socket(node)) }
    }

    /// What it did towards its peers.
    pub(crate) fn counts(&self) -> &Counts {
        self.stranger.source.counts()
    }

    fn cx(&self) -> Cx {
        Cx { next_hop: Some(self.nsmgr.clone()), ..Cx::within(LIMIT) }
    }

    /// Asks for an interface of this name in `pod`.
    pub(crate) async fn open(&self, id: &str, service: &str, ifname: &str, pod: &Netns) -> Result<Opened> {
        let (file, mut files) = (pod.file(), Files::default());
        let key = file_key(&*file).unwrap();
        files.insert(key, file);
        let mut mechanism = Mechanism::kernel();
        mechanism.set(INODE_URL, key);
        mechanism.set(NAME, ifname);
        let (id, network_service) = (id.to_owned(), service.to_owned());
        let connection = Connection { id, network_service, ..Connection::default() };
        self.ask(Opened { connection, mechanism, files }).await
    }

    /// The same Request once more, with what was answered.
    pub(crate) async fn refresh(&self, opened: Opened) -> Result<Opened> {
        self.ask(opened).await
    }

    async fn ask(&self, Opened { connection, mechanism, files }: Opened) -> Result<Opened> {
        let request = Request { connection, preferences: vec![mechanism.clone()], files: files.clone() };
        let reply = self.chain.start().request(&self.cx(), request).await?;
        Ok(Opened { connection: reply.connection, mechanism, files })
    }

    /// Ends it.
    pub(crate) async fn close(&self, opened: Opened) -> Result<()> {
        let Opened { mut connection, mechanism, files } = opened;
        connection.mechanism = Some(mechanism);
        let request = Request { connection, files, ..Request::default() };
        self.chain.start().close(&self.cx(), request).await
    }
}

/// A runtime for what a player does.
pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// Waits in it.
pub(crate) async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}

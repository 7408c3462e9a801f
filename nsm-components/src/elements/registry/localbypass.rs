//! `localbypass`: the registry knows the endpoints of this node under the nsmgr's public URL; the
//! processes on the node get the endpoints' own sockets (protocol §4.7).

mod translated;

use async_trait::async_trait;
use futures::{StreamExt, stream};

use self::translated::translated;
use crate::{
    api::{
        peer::{Address, FileKey, Files},
        registry::NetworkServiceEndpoint,
        trust::Trust,
    },
    chain::{Error, Event, Events, Kind, Query, RegistryCx, RegistryElement, RegistryNext, Result},
    elements::LocalEntries,
    settings::Target,
};

/// Most endpoints of one node; beyond it a registration is refused rather than memory filled.
const MAX_ENTRIES: usize = 4096;

/// See the module.
#[derive(Clone, Debug)]
pub struct LocalBypass {
    public_url: String,
    forwarder_service: String,
    local: LocalEntries,
    trust: Trust,
}

impl LocalBypass {
    /// The registry gets `public_url`; `local` is written here. Forwarders are this node's affair
    /// and stay here.
    ///
    /// Who is trusted may offer forwarders and register addresses; everybody else hands in its own
    /// socket.
    pub fn new(public_url: &str, forwarder_service: &str, local: LocalEntries, trust: Trust) -> Self {
        Self {
            public_url: public_url.to_owned(),
            forwarder_service: forwarder_service.to_owned(),
            local,
            trust,
        }
    }

    /// Where the endpoint itself listens.
    fn address(&self, cx: &RegistryCx, entry: &NetworkServiceEndpoint) -> Result<Address> {
        let invalid = |what: &str| {
            let message =
                format_args!("endpoint {} cannot be reached by {:?}: {what}", entry.name, entry.url);
            Error::new(Kind::Invalid, message)
        };
        if let Ok(key) = entry.url.parse::<FileKey>() {
            // A refresh may come without the file; the socket is known then.
            let known = self.local.get(&entry.name).map(|(_, address)| address);
            return match (cx.files.get(key), known) {
                (Some(file), _) => Ok(Address::File(key, file.clone())),
                (None, Some(address @ Address::File(known, _))) if known == key => Ok(address),
                _ => Err(invalid("its socket did not come with the registration")),
            };
        }
        if !self.is_trusted(cx) {
            return Err(Error::new(
                Kind::Denied,
                format_args!("endpoint {} has to hand in its own socket, not {:?}", entry.name, entry.url),
            ));
        }
        entry.url.parse::<Target>().map(Address::from).map_err(|error| invalid(&error.to_string()))
    }

    fn is_trusted(&self, cx: &RegistryCx) -> bool {
        cx.caller.as_ref().is_none_or(|caller| self.trust.trusts(&caller.peer.id))
    }

    /// A name belongs to who registered it first.
    fn check_owner(&self, cx: &RegistryCx, entry: &NetworkServiceEndpoint) -> Result<()> {
        match self.local.get(&entry.name) {
            Some((known, _)) if cx.caller.is_some() && known.path_ids.first() != entry.path_ids.first() => {
                let owner = known.path_ids.first().cloned().unwrap_or_default();
                Err(Error::new(Kind::Denied, format_args!("endpoint {} belongs to {owner}", entry.name)))
            }
            _ => Ok(()),
        }
    }

    fn is_forwarder(&self, entry: &NetworkServiceEndpoint) -> bool {
        entry.network_service_names.contains(&self.forwarder_service)
    }

    /// An entry of the registry as this node's processes shall see it; none for one that is said to
    /// be here but is not: it did not register since this process started.
    fn translate(&self, mut event: Event<NetworkServiceEndpoint>) -> Option<Event<NetworkServiceEndpoint>> {
        match self.local.get(&event.entry.name) {
            Some((_, address)) if event.entry.url == self.public_url => {
                event.entry.url = address.to_string();
                if let Address::File(key, file) = address {
                    event.files.insert(key, file);
                }
                Some(event)
            }
            None if event.entry.url == self.public_url && !event.deleted => None,
            _ => Some(event),
        }
    }
}

#[async_trait]
impl RegistryElement<NetworkServiceEndpoint> for LocalBypass {
    fn name(&self) -> &'static str {
        "localbypass"
    }

    async fn register(
        &self,
        cx: &RegistryCx,
        mut entry: NetworkServiceEndpoint,
        next: RegistryNext<'_, NetworkServiceEndpoint>,
    ) -> Result<NetworkServiceEndpoint> {
        let address = self.address(cx, &entry)?;
        self.check_owner(cx, &entry)?;
        if self.is_forwarder(&entry) && !self.is_trusted(cx) {
            let message = format_args!(
                "{} is no process of the mesh and may not offer {}",
                entry.name, self.forwarder_service
            );
            return Err(Error::new(Kind::Denied, message));
        }
        if self.local.len() >= MAX_ENTRIES && self.local.get(&entry.name).is_none() {
            let message = format_args!("{MAX_ENTRIES} endpoints are registered on this node already");
            return Err(Error::new(Kind::Exhausted, message));
        }
        let (name, url) = (entry.name.clone(), entry.url.clone());
        let before = self.local.get(&entry.name);
        // First here: watchers of the registry hear of it before the registry's answer is back.
        self.local.insert(entry.clone(), address.clone());
        let stored = if self.is_forwarder(&entry) {
            Ok(entry)
        } else {
            entry.url.clone_from(&self.public_url);
            next.register(cx, entry).await
        };
        match stored {
            Ok(mut stored) => {
                stored.url = url;
                self.local.insert(stored.clone(), address);
                Ok(stored)
            }
            Err(error) => {
                if before.is_none() {
                    self.local.remove(&name);
                }
                Err(error)
            }
        }
    }

    async fn unregister(
        &self,
        cx: &RegistryCx,
        entry: NetworkServiceEndpoint,
        next: RegistryNext<'_, NetworkServiceEndpoint>,
    ) -> Result<()> {
        self.check_owner(cx, &entry)?;
        let known = self.local.get(&entry.name);
        if !self.is_forwarder(known.as_ref().map_or(&entry, |(known, _)| known)) {
            let mut entry = entry.clone();
            entry.url.clone_from(&self.public_url);
            next.unregister(cx, entry).await?;
        }
        self.local.remove(&entry.name);
        Ok(())
    }

    async fn find(
        &self,
        cx: &RegistryCx,
        mut query: Query<NetworkServiceEndpoint>,
        next: RegistryNext<'_, NetworkServiceEndpoint>,
    ) -> Result<Events<NetworkServiceEndpoint>> {
        if self.is_forwarder(&query.like) {
            let found = self.local.serving(&self.forwarder_service).into_iter();
            let found: Vec<_> = found
                .filter(|(entry, _)| query.like.finds(entry))
                .map(|(entry, address)| {
                    let mut files = Files::default();
                    if let Address::File(key, file) = address {
                        files.insert(key, file);
                    }
                    Ok(Event { entry, deleted: false, files })
                })
                .collect();
            let end = if query.watch { stream::pending().boxed() } else { stream::empty().boxed() };
            return Ok(Box::pin(stream::iter(found).chain(end)));
        }
        query.like.url.clear();
        // Before the registry is asked: what comes here meanwhile is seen at the latest afterwards.
        let changes = query.watch.then(|| self.local.changes());
        let found = next.find(cx, query).await?;
        Ok(translated(self.clone(), found, changes))
    }
}

#[cfg(test)]
mod tests {
    use std::{os::fd::OwnedFd, sync::Arc, time::Duration};

    use super::*;
    use crate::{
        api::peer::Peer,
        chain::{Caller, RegistryChain},
        elements::registry::Store,
        transport::file_key,
    };

    const POD: &str = "spiffe://d/ns/demo/sa/default/pod/a";
    const OTHER: &str = "spiffe://d/ns/demo/sa/default/pod/b";
    const FORWARDER: &str = "spiffe://d/ns/nsm-system/sa/forwarder/node/n1";

    fn chain() -> (LocalEntries, RegistryChain<NetworkServiceEndpoint>) {
        let local = LocalEntries::default();
        let trust = Trust::new(&[], "spiffe://d/ns/nsm-system/sa/nsmgr/node/n1");
        let bypass = LocalBypass::new("tcp://10.0.0.1:5001", "forwarder", local.clone(), trust);
        (local, RegistryChain::new([Arc::new(bypass) as Arc<dyn RegistryElement<_>>]))
    }

    /// A call of this process, with a socket beside it, and the socket's URL.
    fn call(id: &str) -> (RegistryCx, String) {
        let (socket, _) = std::os::unix::net::UnixStream::pair().unwrap();
        let socket = Arc::new(OwnedFd::from(socket));
        let key = file_key(&socket).unwrap();
        let mut cx = RegistryCx::within(Duration::from_secs(1));
        cx.files.insert(key, socket);
        let peer = Peer { id: id.into(), public_key: Vec::new(), not_after: 0 };
        cx.caller = Some(Arc::new(Caller::test(peer)));
        (cx, key.to_string())
    }

    async fn register(
        chain: &RegistryChain<NetworkServiceEndpoint>,
        id: &str,
        name: &str,
        service: &str,
        url: Option<&str>,
    ) -> Result<NetworkServiceEndpoint> {
        let (cx, own) = call(id);
        let entry = NetworkServiceEndpoint {
            name: name.into(),
            network_service_names: vec![service.into()],
            url: url.map_or(own, str::to_owned),
            path_ids: vec![id.into()],
            ..Default::default()
        };
        chain.start().register(&cx, entry).await
    }

    #[tokio::test]
    async fn nobody_takes_or_removes_anothers_name() {
        let (local, chain) = chain();
        register(&chain, POD, "nse", "finance", None).await.unwrap();
        assert_eq!(register(&chain, OTHER, "nse", "finance", None).await.unwrap_err().kind, Kind::Denied);
        let entry = |id: &str| NetworkServiceEndpoint {
            name: "nse".into(),
            path_ids: vec![id.into()],
            ..Default::default()
        };
        let refused = chain.start().unregister(&call(OTHER).0, entry(OTHER)).await.unwrap_err();
        assert_eq!(refused.kind, Kind::Denied);
        assert!(local.get("nse").is_some());
        chain.start().unregister(&call(POD).0, entry(POD)).await.unwrap();
        assert!(local.is_empty());
    }

    #[tokio::test]
    async fn only_processes_of_the_mesh_offer_forwarders_and_register_addresses() {
        let (local, chain) = chain();
        assert_eq!(register(&chain, POD, "a", "forwarder", None).await.unwrap_err().kind, Kind::Denied);
        let tcp = Some("tcp://10.0.0.9:1");
        assert_eq!(register(&chain, POD, "b", "finance", tcp).await.unwrap_err().kind, Kind::Denied);
        let path = Some("unix:///run/other.sock");
        assert_eq!(register(&chain, POD, "c", "finance", path).await.unwrap_err().kind, Kind::Denied);
        assert!(local.is_empty());
        register(&chain, FORWARDER, "forwarder-n1", "forwarder", None).await.unwrap();
        register(&chain, FORWARDER, "d", "finance", tcp).await.unwrap();
    }

    /// As the nsmgr keeps it, before a registry.
    fn mesh() -> (LocalEntries, RegistryChain<NetworkServiceEndpoint>) {
        let local = LocalEntries::default();
        let trust = Trust::new(&[], "spiffe://d/ns/nsm-system/sa/nsmgr/node/n1");
        let bypass = LocalBypass::new("tcp://10.0.0.1:5001", "forwarder", local.clone(), trust);
        (local, RegistryChain::new([Arc::new(bypass) as Arc<dyn RegistryElement<_>>, Store::in_memory()]))
    }

    async fn next(events: &mut Events<NetworkServiceEndpoint>) -> (String, bool) {
        let event = tokio::time::timeout(Duration::from_secs(5), events.next()).await;
        let event = event.unwrap().unwrap().unwrap();
        assert!(event.deleted || event.files.by_url(&event.entry.url).is_some());
        (event.entry.url, event.deleted)
    }

    #[tokio::test]
    async fn watchers_of_this_node_hear_what_the_registry_takes_for_a_refresh() {
        let (local, chain) = mesh();
        let query = || Query::changes(NetworkServiceEndpoint::default());
        register(&chain, POD, "nse", "finance", None).await.unwrap();
        // The nsmgr is started anew: the registry knows the endpoint, this process does not yet.
        local.remove("nse");
        let mut events = chain.start().find(&call(POD).0, query()).await.unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(50), events.next()).await.is_err());
        let back = register(&chain, POD, "nse", "finance", None).await.unwrap().url;
        assert_eq!(next(&mut events).await, (back.clone(), false));
        // The endpoint is started anew and listens on another socket.
        let other = register(&chain, POD, "nse", "finance", None).await.unwrap().url;
        assert_ne!(other, back);
        assert_eq!(next(&mut events).await, (other.clone(), false));
        local.remove("nse");
        assert_eq!(next(&mut events).await, (other, true));
    }
}

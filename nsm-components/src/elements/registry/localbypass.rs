//! `localbypass`: the registry knows the endpoints of this node under the nsmgr's public URL; the
//! mesh's processes get the endpoints' own sockets (protocol §4.7). Whoever else asks gets its own
//! alone: with another's it would go past the nsmgr, and with that past who may use a service.

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
    chain::{Entry, Error, Event, Events, Kind, Query, RegistryCx, RegistryElement, RegistryNext, Result},
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
            // A refresh may bring the file along once more, or not: the known one stays, which channels
            // have as well.
            let known = self.local.get(&entry.name).map(|(_, address)| address);
            return match (known, cx.files.get(key)) {
                (Some(address @ Address::File(known, _)), _) if known == key => Ok(address),
                (_, Some(file)) => Ok(Address::File(key, file.clone())),
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
            Some((known, _)) if cx.caller.is_some() => known.check_owner(entry.owner()),
            _ => Ok(()),
        }
    }

    fn viewer(&self, cx: &RegistryCx) -> Viewer {
        let stranger = cx.caller.as_ref().filter(|_| !self.is_trusted(cx));
        Viewer(stranger.map(|caller| caller.peer.id.clone()))
    }

    fn is_forwarder(&self, entry: &NetworkServiceEndpoint) -> bool {
        entry.network_service_names.contains(&self.forwarder_service)
    }

    /// An entry of the registry as the one who asks shall see it; none for one that is said to be here
    /// but is not: it did not register since this process started.
    fn translate(
        &self,
        mut event: Event<NetworkServiceEndpoint>,
        viewer: &Viewer,
    ) -> Option<Event<NetworkServiceEndpoint>> {
        match self.local.get(&event.entry.name) {
            Some((known, address)) if event.entry.url == self.public_url => {
                self.show(&mut event, address, viewer.sees(&known));
                Some(event)
            }
            None if event.entry.url == self.public_url && !event.deleted => None,
            _ => Some(event),
        }
    }

    /// Puts the endpoint's own socket into an event, or what everybody may know.
    fn show(&self, event: &mut Event<NetworkServiceEndpoint>, address: Address, seen: bool) {
        if !seen {
            event.entry.url.clone_from(&self.public_url);
            event.files = Files::default();
            return;
        }
        event.entry.url = address.to_string();
        if let Address::File(key, file) = address {
            event.files.insert(key, file);
        }
    }
}

/// Who asks: a process of the mesh, or another with its SPIFFE ID.
#[derive(Clone, Debug)]
struct Viewer(Option<String>);

impl Viewer {
    /// Whether it may have the endpoint's socket.
    fn sees(&self, entry: &NetworkServiceEndpoint) -> bool {
        self.0.as_ref().is_none_or(|id| entry.path_ids.first() == Some(id))
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
        if self.is_forwarder(&entry)
            && let Viewer(Some(id)) = self.viewer(cx)
        {
            let message = format_args!(
                "{} of {id} is no process of the mesh and may not offer {}",
                entry.name, self.forwarder_service
            );
            return Err(Error::new(Kind::Denied, message));
        }
        if self.local.len() >= MAX_ENTRIES && self.local.get(&entry.name).is_none() {
            let message = format_args!("{MAX_ENTRIES} endpoints are registered on this node already");
            return Err(Error::new(Kind::Exhausted, message));
        }
        let url = entry.url.clone();
        // Known here once the registry agreed, not before: whoever gives the call up holds no name.
        // Watchers to whom the registry told it meanwhile hear of it by the change here.
        let mut stored = if self.is_forwarder(&entry) {
            entry
        } else {
            entry.url.clone_from(&self.public_url);
            next.register(cx, entry).await?
        };
        stored.url = url;
        self.local.insert(stored.clone(), address);
        Ok(stored)
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
        let viewer = self.viewer(cx);
        if self.is_forwarder(&query.like) {
            let found = self.local.serving(&self.forwarder_service).into_iter();
            let found: Vec<_> = found
                .filter(|(entry, _)| query.like.finds(entry))
                .map(|(entry, address)| {
                    let seen = viewer.sees(&entry);
                    let mut event = Event { entry, deleted: false, files: Files::default() };
                    self.show(&mut event, address, seen);
                    Ok(event)
                })
                .collect();
            let end = if query.watch { stream::pending().boxed() } else { stream::empty().boxed() };
            return Ok(Box::pin(stream::iter(found).chain(end)));
        }
        query.like.url.clear();
        // Before the registry is asked: what comes here meanwhile is seen at the latest afterwards.
        let changes = query.watch.then(|| self.local.changes());
        let found = next.find(cx, query).await?;
        Ok(translated((self.clone(), viewer), found, changes))
    }
}

#[cfg(test)]
mod tests;

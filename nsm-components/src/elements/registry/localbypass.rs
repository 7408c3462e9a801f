//! `localbypass`: the registry knows the endpoints of this node under the nsmgr's public URL; the
//! processes on the node get the endpoints' own sockets (protocol §4.7).

use async_trait::async_trait;
use futures::{StreamExt, future, stream};

use crate::{
    api::{
        peer::{Address, FileKey, Files},
        registry::NetworkServiceEndpoint,
    },
    chain::{Error, Event, Events, Kind, Query, RegistryCx, RegistryElement, RegistryNext, Result},
    elements::LocalEntries,
    settings::Target,
};

/// See the module.
#[derive(Clone, Debug)]
pub struct LocalBypass {
    public_url: String,
    forwarder_service: String,
    local: LocalEntries,
}

impl LocalBypass {
    /// The registry gets `public_url`; `local` is written here. Forwarders are this node's affair
    /// and stay here.
    pub fn new(public_url: &str, forwarder_service: &str, local: LocalEntries) -> Self {
        Self { public_url: public_url.to_owned(), forwarder_service: forwarder_service.to_owned(), local }
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
        entry.url.parse::<Target>().map(Address::from).map_err(|error| invalid(&error.to_string()))
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
        if let Some((known, _)) = self.local.get(&entry.name)
            && known.path_ids.first() != entry.path_ids.first()
        {
            let owner = known.path_ids.first().cloned().unwrap_or_default();
            return Err(Error::new(Kind::Denied, format_args!("endpoint {} belongs to {owner}", entry.name)));
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
        mut entry: NetworkServiceEndpoint,
        next: RegistryNext<'_, NetworkServiceEndpoint>,
    ) -> Result<()> {
        let known = self.local.remove(&entry.name);
        if self.is_forwarder(known.as_ref().map_or(&entry, |(known, _)| known)) {
            return Ok(());
        }
        entry.url.clone_from(&self.public_url);
        next.unregister(cx, entry).await
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
        let bypass = self.clone();
        let found = next.find(cx, query).await?;
        Ok(Box::pin(found.filter_map(move |event| {
            future::ready(match event {
                Ok(event) => bypass.translate(event).map(Ok),
                Err(error) => Some(Err(error)),
            })
        })))
    }
}

//! `authorize`: only who holds the path may register. Equal in effect to upstream's default
//! policies but for the ownership of names, which the storage keeps (protocol §3.3, §3.4).
//!
//! An entry is taken back with expired tokens too, or an nsmgr could not take back what expired there.

use std::collections::HashMap;

use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::json;

use crate::{
    chain::{Clock, Entry, RegistryCx, RegistryElement, RegistryNext, Result},
    elements::{
        authorize::Judge,
        opa::{self, Policies},
    },
    transport::token,
};

/// Most names whose owners policies are told.
const MAX_OWNERS: usize = 65_536;

/// See the module.
pub struct Authorize {
    clock: Clock,
    policies: Policies,
    /// Who registered a name, as policies are told; kept only if there are some.
    owners: Mutex<HashMap<String, Vec<String>>>,
}

impl Authorize {
    /// Judges tokens by this clock.
    pub fn new(clock: Clock) -> Self {
        Self { clock, policies: Policies::default(), owners: Mutex::default() }
    }

    /// The same, and these policies must agree.
    #[must_use]
    pub fn with(self, policies: Policies) -> Self {
        Self { policies, ..self }
    }

    async fn check<T: Entry>(&self, cx: &RegistryCx, entry: &T, expired_too: bool) -> Result<()> {
        let Some(caller) = &cx.caller else { return Ok(()) };
        let path = cx.path.lock().clone();
        // The last one is this process's own.
        let before = path.left().split_last().map_or(&[][..], |(_, before)| before);
        let tokens: Vec<&str> = before.iter().map(|segment| segment.token.as_str()).collect();
        let now = (!expired_too).then(|| self.clock.seconds());
        Judge { now, caller }.check(&tokens)?;
        if self.policies.is_empty() {
            return Ok(());
        }
        let first = tokens.first().and_then(|token| token::read(token).ok());
        let segments: Vec<_> = path.left().iter().map(|one| json!({"token": one.token})).collect();
        let input = json!({
            "resource_id": first.map(|claims| claims.sub).unwrap_or_default(),
            "resource_name": entry.name(),
            "resource_path_ids_map": self.owners_of(entry.name()),
            "path_segments": segments,
            "index": path.index,
            "auth_info": opa::auth_info(caller.link.certificate()),
        });
        self.policies.judge(input).await
    }

    /// As upstream's map of all names, with this one alone: policies look it up by name.
    fn owners_of(&self, name: &str) -> HashMap<String, Vec<String>> {
        let owners = self.owners.lock();
        owners.get_key_value(name).map(|(name, ids)| (name.clone(), ids.clone())).into_iter().collect()
    }
}

#[async_trait]
impl<T: Entry> RegistryElement<T> for Authorize {
    fn name(&self) -> &'static str {
        "authorize"
    }

    async fn register(&self, cx: &RegistryCx, entry: T, next: RegistryNext<'_, T>) -> Result<T> {
        self.check(cx, &entry, false).await?;
        let mut entry = next.register(cx, entry).await?;
        if !self.policies.is_empty() {
            let mut owners = self.owners.lock();
            if owners.len() < MAX_OWNERS || owners.contains_key(entry.name()) {
                owners.insert(entry.name().to_owned(), entry.path_ids_mut().clone());
            }
        }
        Ok(entry)
    }

    async fn unregister(&self, cx: &RegistryCx, entry: T, next: RegistryNext<'_, T>) -> Result<()> {
        self.check(cx, &entry, true).await?;
        let name = entry.name().to_owned();
        next.unregister(cx, entry).await?;
        // Only now: it may be another's, and the storage refuse.
        self.owners.lock().remove(&name);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::*;
    use crate::{
        api::registry::NetworkService,
        chain::{Error, Kind, RegistryChain, SystemClock},
    };

    /// Storage that keeps what is another's.
    struct Refusing;

    #[async_trait]
    impl RegistryElement<NetworkService> for Refusing {
        fn name(&self) -> &'static str {
            "refusing"
        }

        async fn unregister(
            &self,
            cx: &RegistryCx,
            entry: NetworkService,
            next: RegistryNext<'_, NetworkService>,
        ) -> Result<()> {
            if entry.name == "foreign" {
                return Err(Error::new(Kind::Denied, "another owns it"));
            }
            next.unregister(cx, entry).await
        }
    }

    #[tokio::test]
    async fn policies_hear_of_this_name_alone_and_its_owner_is_forgotten_when_it_is_gone_and_not_before() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("own.rego");
        std::fs::write(&file, "package nsm\nvalid = true").unwrap();
        let policies = Policies::load("NSM_REGISTRY_SERVER_POLICIES", &[file.display().to_string()]);
        let authorize = Arc::new(Authorize::new(Arc::new(SystemClock)).with(policies.unwrap()));
        for name in ["own", "foreign"] {
            authorize.owners.lock().insert(name.into(), vec![name.into()]);
        }
        let own = HashMap::from([("own".to_owned(), vec!["own".to_owned()])]);
        assert_eq!(authorize.owners_of("own"), own);
        assert!(authorize.owners_of("unknown").is_empty());
        let chain = RegistryChain::new([
            authorize.clone() as Arc<dyn RegistryElement<NetworkService>>,
            Arc::new(Refusing),
        ]);
        let cx = RegistryCx::within(Duration::from_secs(1));
        let entry = |name: &str| NetworkService { name: name.into(), ..Default::default() };
        chain.start().unregister(&cx, entry("foreign")).await.unwrap_err();
        chain.start().unregister(&cx, entry("own")).await.unwrap();
        assert!(authorize.owners_of("own").is_empty());
        assert_eq!(authorize.owners_of("foreign").len(), 1);
    }
}

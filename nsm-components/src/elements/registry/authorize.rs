//! `authorize`: only who holds the path may register. Equal in effect to upstream's default
//! policies but for the ownership of names, which the storage keeps (protocol §3.3, §3.4).
//!
//! An entry is taken back with expired tokens too, or an nsmgr could not take back what expired there.

use async_trait::async_trait;

use super::judge::NamePolicies;
use crate::{
    chain::{Clock, Entry, RegistryCx, RegistryElement, RegistryNext, Result},
    elements::{authorize::Judge, opa::Policies},
};

/// See the module.
pub struct Authorize {
    clock: Clock,
    policies: NamePolicies,
}

impl Authorize {
    /// Judges tokens by this clock.
    pub fn new(clock: Clock) -> Self {
        Self { clock, policies: NamePolicies::default() }
    }

    /// The same, and these policies must agree.
    #[must_use]
    pub fn with(self, policies: Policies) -> Self {
        Self { policies: NamePolicies::new(policies), ..self }
    }

    async fn check<T: Entry>(&self, cx: &RegistryCx, entry: &T, expired_too: bool) -> Result<()> {
        let Some(caller) = &cx.caller else { return Ok(()) };
        let path = cx.path.lock().clone();
        // The last one is this process's own.
        let before = path.left().split_last().map_or(&[][..], |(_, before)| before);
        let tokens: Vec<&str> = before.iter().map(|segment| segment.token.as_str()).collect();
        let now = (!expired_too).then(|| self.clock.seconds());
        Judge { now, caller }.check(&tokens)?;
        self.policies.judge(entry.name(), &path, path.left(), caller.link.certificate()).await
    }
}

#[async_trait]
impl<T: Entry> RegistryElement<T> for Authorize {
    fn name(&self) -> &'static str {
        "authorize"
    }

    async fn register(&self, cx: &RegistryCx, entry: T, next: RegistryNext<'_, T>) -> Result<T> {
        self.check(cx, &entry, false).await?;
        let entry = next.register(cx, entry).await?;
        self.policies.learn(entry.name(), entry.path_ids());
        Ok(entry)
    }

    async fn unregister(&self, cx: &RegistryCx, entry: T, next: RegistryNext<'_, T>) -> Result<()> {
        self.check(cx, &entry, true).await?;
        let name = entry.name().to_owned();
        next.unregister(cx, entry).await?;
        // Only now: it may be another's, and the storage refuse.
        self.policies.forget(&name);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, sync::Arc, time::Duration};

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
            authorize.policies.learn(name, &[name.to_owned()]);
        }
        let own = HashMap::from([("own".to_owned(), vec!["own".to_owned()])]);
        assert_eq!(authorize.policies.owners_of("own"), own);
        assert!(authorize.policies.owners_of("unknown").is_empty());
        let chain = RegistryChain::new([
            authorize.clone() as Arc<dyn RegistryElement<NetworkService>>,
            Arc::new(Refusing),
        ]);
        let cx = RegistryCx::within(Duration::from_secs(1));
        let entry = |name: &str| NetworkService { name: name.into(), ..Default::default() };
        chain.start().unregister(&cx, entry("foreign")).await.unwrap_err();
        chain.start().unregister(&cx, entry("own")).await.unwrap();
        assert!(authorize.policies.owners_of("own").is_empty());
        assert_eq!(authorize.policies.owners_of("foreign").len(), 1);
    }
}

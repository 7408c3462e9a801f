//! `authorize` of clients: users' policies judge what the next registry answered (protocol §3.4). It
//! stands right before `connect`. A Register that they refuse is taken back, unless the name was let
//! through before: that registration stands, and ends with its life.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use parking_lot::Mutex;
use tracing::warn;

use super::judge::NamePolicies;
use crate::{
    chain::{Entry, RegistryCx, RegistryElement, RegistryNext, Result},
    elements::opa::Policies,
};

/// How long taking back may take.
const UNDO: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Clone, Debug)]
pub struct AuthorizeClient(Arc<NamePolicies>);

impl AuthorizeClient {
    /// These policies must agree.
    pub fn new(policies: Policies) -> Self {
        Self(Arc::new(NamePolicies::new(policies)))
    }

    async fn check<T: Entry>(&self, cx: &RegistryCx, stored: &T) -> Result<()> {
        let path = cx.path.lock().clone();
        let server = cx.server.lock().clone();
        let certificate = server.as_ref().map_or(&[][..], |link| link.certificate());
        let segments = path.path_segments.as_deref().unwrap_or_default();
        self.0.judge(stored.name(), &path, segments, certificate).await
    }
}

#[async_trait]
impl<T: Entry> RegistryElement<T> for AuthorizeClient {
    fn name(&self) -> &'static str {
        "authorize"
    }

    async fn register(&self, cx: &RegistryCx, entry: T, next: RegistryNext<'_, T>) -> Result<T> {
        let stored = next.register(cx, entry).await?;
        let Err(refused) = self.check(cx, &stored).await else {
            self.0.learn(stored.name(), stored.path_ids());
            return Ok(stored);
        };
        if !self.0.knows(stored.name()) {
            let path = Arc::new(Mutex::new(cx.path.lock().clone()));
            let undo = RegistryCx { path, files: cx.files.clone(), ..RegistryCx::within(UNDO) };
            let name = stored.name().to_owned();
            if let Err(error) = next.unregister(&undo, stored).await {
                warn!(name, %error, "could not take back what policies refuse; it expires by itself");
            }
        }
        Err(refused)
    }

    async fn unregister(&self, cx: &RegistryCx, entry: T, next: RegistryNext<'_, T>) -> Result<()> {
        self.0.forget(entry.name());
        next.unregister(cx, entry).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::{
        api::registry::NetworkService,
        chain::{Kind, RegistryChain},
    };

    /// The next registry: it answers as it was asked, and counts what is taken back.
    #[derive(Default)]
    struct There(AtomicUsize);

    #[async_trait]
    impl RegistryElement<NetworkService> for There {
        fn name(&self) -> &'static str {
            "there"
        }

        async fn unregister(
            &self,
            cx: &RegistryCx,
            _: NetworkService,
            _: RegistryNext<'_, NetworkService>,
        ) -> Result<()> {
            assert!(cx.deadline > tokio::time::Instant::now(), "it has its own time");
            self.0.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_refused_registration_is_taken_back_and_one_that_was_let_through_before_stands() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("own.rego");
        // Lets a name through once.
        let text = "package nsm\ndefault valid = false\nvalid { input.resource_name != \"bad\"\n\
                    not input.resource_path_ids_map[input.resource_name] }";
        std::fs::write(&file, text).unwrap();
        let masks = [file.display().to_string()];
        let policies = Policies::load("NSM_REGISTRY_CLIENT_POLICIES", &masks).unwrap();
        let there = Arc::new(There::default());
        let chain = RegistryChain::new([
            Arc::new(AuthorizeClient::new(policies)) as Arc<dyn RegistryElement<NetworkService>>,
            there.clone(),
        ]);
        let cx = RegistryCx::within(Duration::ZERO);
        let entry = |name: &str| NetworkService { name: name.into(), ..Default::default() };
        let taken_back = || there.0.load(Ordering::Relaxed);
        let refused = chain.start().register(&cx, entry("bad")).await.unwrap_err();
        assert_eq!((refused.kind, taken_back()), (Kind::Denied, 1), "{refused}");
        chain.start().register(&cx, entry("good")).await.unwrap();
        chain.start().register(&cx, entry("good")).await.unwrap_err();
        assert_eq!(taken_back(), 1);
        chain.start().unregister(&RegistryCx::within(UNDO), entry("good")).await.unwrap();
        chain.start().register(&cx, entry("good")).await.unwrap();
    }
}

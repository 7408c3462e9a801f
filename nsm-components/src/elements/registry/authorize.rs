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

    fn check<T: Entry>(&self, cx: &RegistryCx, entry: &T, expired_too: bool) -> Result<()> {
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
            "resource_path_ids_map": &*self.owners.lock(),
            "path_segments": segments,
            "index": path.index,
            "auth_info": opa::auth_info(caller.link.certificate()),
        });
        self.policies.check(&input)
    }
}

#[async_trait]
impl<T: Entry> RegistryElement<T> for Authorize {
    fn name(&self) -> &'static str {
        "authorize"
    }

    async fn register(&self, cx: &RegistryCx, entry: T, next: RegistryNext<'_, T>) -> Result<T> {
        self.check(cx, &entry, false)?;
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
        self.check(cx, &entry, true)?;
        self.owners.lock().remove(entry.name());
        next.unregister(cx, entry).await
    }
}

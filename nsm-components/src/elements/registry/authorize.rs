//! `authorize`: only who holds the path may register. Equal in effect to upstream's default
//! policies but for the ownership of names, which the storage keeps (protocol §3.3, §3.4).
//!
//! An entry is taken back with expired tokens too, or an nsmgr could not take back what expired there.

use async_trait::async_trait;

use crate::{
    chain::{Clock, Entry, RegistryCx, RegistryElement, RegistryNext, Result},
    elements::authorize::Judge,
};

/// See the module.
pub struct Authorize {
    clock: Clock,
}

impl Authorize {
    /// Judges tokens by this clock.
    pub fn new(clock: Clock) -> Self {
        Self { clock }
    }

    fn check(&self, cx: &RegistryCx, expired_too: bool) -> Result<()> {
        let Some(caller) = &cx.caller else { return Ok(()) };
        let path = cx.path.lock().clone();
        // The last one is this process's own.
        let before = path.left().split_last().map_or(&[][..], |(_, before)| before);
        let tokens: Vec<&str> = before.iter().map(|segment| segment.token.as_str()).collect();
        let now = (!expired_too).then(|| self.clock.seconds());
        Judge { now, caller }.check(&tokens)
    }
}

#[async_trait]
impl<T: Entry> RegistryElement<T> for Authorize {
    fn name(&self) -> &'static str {
        "authorize"
    }

    async fn register(&self, cx: &RegistryCx, entry: T, next: RegistryNext<'_, T>) -> Result<T> {
        self.check(cx, false)?;
        next.register(cx, entry).await
    }

    async fn unregister(&self, cx: &RegistryCx, entry: T, next: RegistryNext<'_, T>) -> Result<()> {
        self.check(cx, true)?;
        next.unregister(cx, entry).await
    }
}

//! `authorize`: only who holds the path may register. Equal in effect to upstream's default
//! policies but for the ownership of names, which the store keeps (protocol §3.3, §3.4).

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

    fn check(&self, cx: &RegistryCx) -> Result<()> {
        let Some(caller) = &cx.caller else { return Ok(()) };
        let path = cx.path.lock().clone();
        // The last one is this process's own.
        let before = path.left().split_last().map_or(&[][..], |(_, before)| before);
        let tokens: Vec<&str> = before.iter().map(|segment| segment.token.as_str()).collect();
        Judge { now: Some(self.clock.seconds()), caller }.check(&tokens)
    }
}

#[async_trait]
impl<T: Entry> RegistryElement<T> for Authorize {
    fn name(&self) -> &'static str {
        "authorize"
    }

    async fn register(&self, cx: &RegistryCx, entry: T, next: RegistryNext<'_, T>) -> Result<T> {
        self.check(cx)?;
        next.register(cx, entry).await
    }

    async fn unregister(&self, cx: &RegistryCx, entry: T, next: RegistryNext<'_, T>) -> Result<()> {
        self.check(cx)?;
        next.unregister(cx, entry).await
    }
}

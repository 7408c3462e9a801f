//! `updatepath`: the caller's and the own token into the registration's path, and who they are into
//! the entry (protocol §2.5).

use async_trait::async_trait;

use crate::{
    api::trust::Trust,
    chain::{Entry, Error, Kind, RegistryCx, RegistryElement, RegistryNext, Result},
    transport::token,
};

/// See the module.
#[derive(Debug)]
pub struct UpdatePath {
    trust: Trust,
}

impl UpdatePath {
    /// Who is trusted may register for others; everybody else for itself alone.
    pub fn new(trust: Trust) -> Self {
        Self { trust }
    }
}

fn advance<T: Entry>(trust: &Trust, cx: &RegistryCx, entry: &mut T) -> Result<Option<u32>> {
    let Some(caller) = &cx.caller else { return Ok(None) };
    let peer = caller.token.as_ref().map_or("", |(token, _)| token);
    let mut path = cx.path.lock();
    if path.index > 0 && !trust.trusts(&caller.peer.id) {
        let message = format_args!("{} may register {}s for itself alone", caller.peer.id, T::WHAT);
        return Err(Error::new(Kind::Denied, message));
    }
    let message = format_args!("the path of {} {} has its index out of range", T::WHAT, entry.name());
    let before = path.advance(peer, &caller.own_token.0).ok_or_else(|| Error::new(Kind::Invalid, message))?;
    let id = |token: &str| token::read(token).map(|claims| claims.sub).unwrap_or_default();
    // All from the path: what the message says of its owner does not count.
    let ids = path.left().iter().map(|segment| id(&segment.token)).collect();
    *entry.path_ids_mut() = ids;
    Ok(Some(before))
}

#[async_trait]
impl<T: Entry> RegistryElement<T> for UpdatePath {
    fn name(&self) -> &'static str {
        "updatepath"
    }

    async fn register(&self, cx: &RegistryCx, mut entry: T, next: RegistryNext<'_, T>) -> Result<T> {
        if entry.name().is_empty() {
            return Err(Error::nameless::<T>());
        }
        let before = advance(&self.trust, cx, &mut entry)?;
        let stored = next.register(cx, entry).await?;
        before.inspect(|index| cx.path.lock().index = *index);
        Ok(stored)
    }

    async fn unregister(&self, cx: &RegistryCx, mut entry: T, next: RegistryNext<'_, T>) -> Result<()> {
        let before = advance(&self.trust, cx, &mut entry)?;
        let done = next.unregister(cx, entry).await;
        before.inspect(|index| cx.path.lock().index = *index);
        done
    }
}

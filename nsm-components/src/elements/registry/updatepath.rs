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
    let (own, _) = caller.link.own_token()?;
    let mut path = cx.path.lock();
    if path.index > 0 && !trust.trusts(&caller.peer.id) {
        let message = format_args!("{} may register {}s for itself alone", caller.peer.id, T::WHAT);
        return Err(Error::new(Kind::Denied, message));
    }
    let message = format_args!("the path of {} {} has its index out of range", T::WHAT, entry.name());
    let before = path.advance(peer, &own).ok_or_else(|| Error::new(Kind::Invalid, message))?;
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

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::*;
    use crate::{
        api::{peer::Peer, registry::NetworkServiceEndpoint, registry_path::Segment},
        chain::{Caller, RegistryChain},
    };

    const NSMGR: &str = "spiffe://d/ns/nsm-system/sa/nsmgr/node/n1";
    const POD: &str = "spiffe://d/ns/demo/sa/default/pod/a";

    /// A registration of what claims to be the victim's, one hop after somebody.
    async fn register(caller: &str) -> Result<NetworkServiceEndpoint> {
        let trust = Trust::new(&[], "spiffe://d/ns/nsm-system/sa/registry/pod/r");
        let chain = RegistryChain::new([Arc::new(UpdatePath::new(trust)) as Arc<dyn RegistryElement<_>>]);
        let peer = Peer { id: caller.into(), public_key: Vec::new(), not_after: 0 };
        let caller = Caller::test(peer);
        let cx = RegistryCx { caller: Some(Arc::new(caller)), ..RegistryCx::within(Duration::from_secs(1)) };
        let segments = Some(vec![Segment::default(), Segment::default()]);
        *cx.path.lock() = crate::api::registry_path::RegistryPath { index: 1, path_segments: segments };
        let path_ids = vec!["spiffe://d/victim".into()];
        let entry = NetworkServiceEndpoint { name: "nse".into(), path_ids, ..Default::default() };
        chain.start().register(&cx, entry).await
    }

    #[tokio::test]
    async fn a_pod_registers_for_itself_alone_and_nobody_says_in_the_message_who_owns_it() {
        assert_eq!(register(POD).await.unwrap_err().kind, Kind::Denied);
        let stored = register(NSMGR).await.unwrap();
        assert!(!stored.path_ids.contains(&"spiffe://d/victim".to_owned()), "{:?}", stored.path_ids);
    }
}

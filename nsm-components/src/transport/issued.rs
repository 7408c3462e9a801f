//! The tokens that this process gave out: only what is known here is ever signed again.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Weak},
};

use parking_lot::Mutex;

use super::Svid;

/// Tokens that are remembered: more than a process has peers in an eighth of a token's life.
const REMEMBERED: usize = 4_096;

/// See the module. Shared by all connections of one identity.
#[derive(Debug, Default)]
pub(super) struct Issued(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Whose key signed it. Weak: a key that is in use nowhere shall not be kept for this.
    signers: HashMap<Arc<str>, Weak<Svid>>,
    /// Oldest first.
    order: VecDeque<Arc<str>>,
}

// === impl Issued ===

impl Issued {
    /// This token was signed with the key of that SVID.
    pub(super) fn add(&self, text: &Arc<str>, signer: &Arc<Svid>) {
        let mut inner = self.0.lock();
        if inner.signers.insert(text.clone(), Arc::downgrade(signer)).is_none() {
            inner.order.push_back(text.clone());
        }
        if inner.order.len() > REMEMBERED
            && let Some(oldest) = inner.order.pop_front()
        {
            inner.signers.remove(&oldest);
        }
    }

    /// Whether the key of that SVID signed it; `None` when this process did not give it out.
    pub(super) fn is_signed_by(&self, text: &str, signer: &Arc<Svid>) -> Option<bool> {
        let inner = self.0.lock();
        // The address of what a weak reference names is given to nothing else.
        inner.signers.get(text).map(|known| std::ptr::eq(known.as_ptr(), Arc::as_ptr(signer)))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::transport::testing::Ca;

    #[test]
    fn what_was_given_out_is_known_and_the_oldest_is_forgotten() {
        let svid = |id| Ca::new().svid(id, Duration::from_hours(1));
        let [one, other] = ["spiffe://d/a", "spiffe://d/b"]
            .map(|id| Arc::new(Svid::from_response(svid(id), "test").unwrap()));
        let issued = Issued::default();
        for number in 0..=REMEMBERED {
            issued.add(&number.to_string().into(), &one);
        }
        assert_eq!(issued.is_signed_by("1", &one), Some(true));
        assert_eq!(issued.is_signed_by("1", &other), Some(false));
        assert_eq!(issued.is_signed_by("0", &one), None);
        assert_eq!(issued.0.lock().signers.len(), REMEMBERED);
    }
}

//! Tokens whose signatures were found to hold, with the key they hold for. A peer uses a token for
//! many calls, and checking its signature costs more than everything else in one.

use std::{collections::HashMap, mem, sync::LazyLock};

use parking_lot::Mutex;

use super::token::Claims;

/// Most tokens remembered; a peer uses one or two at a time.
const MAX: usize = 2048;

/// What was verified lately. When `new` is half of all, `old` is forgotten.
#[derive(Default)]
pub(super) struct Verified {
    new: Seen,
    old: Seen,
}

/// Claims by token and public key. The text itself is the key: nothing else is as good as it.
type Seen = HashMap<(String, Vec<u8>), Claims>;

/// Of all connections of this process: peers bring the same token on each of theirs.
pub(super) static VERIFIED: LazyLock<Mutex<Verified>> = LazyLock::new(Mutex::default);

// === impl Verified ===

impl Verified {
    /// The claims of this token, if this very key verified it.
    pub(super) fn get(&mut self, token: &str, public_key: &[u8]) -> Option<Claims> {
        let key = (token.to_owned(), public_key.to_vec());
        if let Some(claims) = self.new.get(&key) {
            return Some(claims.clone());
        }
        let claims = self.old.remove(&key)?;
        self.keep(key, claims.clone());
        Some(claims)
    }

    /// Remembers a token that this key verified.
    pub(super) fn insert(&mut self, token: &str, public_key: &[u8], claims: Claims) {
        self.keep((token.to_owned(), public_key.to_vec()), claims);
    }

    fn keep(&mut self, key: (String, Vec<u8>), claims: Claims) {
        if self.new.len() >= MAX / 2 {
            self.old = mem::take(&mut self.new);
        }
        self.new.insert(key, claims);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims() -> Claims {
        Claims { sub: "spiffe://d/a".into(), aud: Vec::new(), exp: 1 }
    }

    #[test]
    fn a_token_is_remembered_for_its_key_alone() {
        let mut verified = Verified::default();
        verified.insert("a.b.c", b"key", claims());
        assert_eq!(verified.get("a.b.c", b"key"), Some(claims()));
        assert_eq!(verified.get("a.b.c", b"another"), None);
        assert_eq!(verified.get("a.b.d", b"key"), None);
    }

    #[test]
    fn what_is_used_stays_and_the_rest_is_bounded() {
        let mut verified = Verified::default();
        verified.insert("used", b"key", claims());
        for count in 0..10 * MAX {
            verified.insert(&count.to_string(), b"key", claims());
            assert!(verified.get("used", b"key").is_some());
        }
        assert!(verified.new.len() + verified.old.len() <= MAX);
        assert!(verified.get("0", b"key").is_none());
    }
}

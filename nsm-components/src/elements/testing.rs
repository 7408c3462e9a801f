//! Peers of tests: what a TLS connection to them gives, and tokens of theirs.

use std::sync::Arc;

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::KeyPair;

use crate::{
    chain::{Link, Result},
    transport::token::{self, Claims},
};

/// A connection whose other side has this key (SEC 1 point), of a process of this ID.
#[derive(Debug)]
pub(super) struct KeyOf(pub(super) &'static str, pub(super) Vec<u8>);

impl Link for KeyOf {
    fn own_id(&self) -> &str {
        self.0
    }

    fn own_token(&self) -> Result<(Arc<str>, i64)> {
        Ok(("".into(), 0))
    }

    fn is_signed(&self, token: &str) -> bool {
        token::verify(token, &self.1).is_ok()
    }

    fn certificate(&self) -> &[u8] {
        &[]
    }
}

pub(super) fn token(key: &KeyPair, sub: &str, aud: &str, exp: i64) -> String {
    let claims = Claims { sub: sub.into(), aud: vec![aud.into()], exp };
    let key = EncodingKey::from_ec_der(&key.serialize_der());
    jsonwebtoken::encode(&Header::new(Algorithm::ES256), &claims, &key).unwrap()
}

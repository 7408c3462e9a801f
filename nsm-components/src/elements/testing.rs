//! Peers of tests: what a TLS connection to them gives, and tokens of theirs; and an element that takes its time.

use std::sync::Arc;

use async_trait::async_trait;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::KeyPair;
use tokio::sync::Notify;

use crate::{
    chain::{Cx, Element, Link, Next, Reply, Request, Result},
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

/// Answers when it is told to.
pub(super) struct Slow(pub(super) Arc<Notify>);

#[async_trait]
impl Element for Slow {
    fn name(&self) -> &'static str {
        "slow"
    }

    async fn request(&self, cx: &Cx, request: Request, next: Next<'_>) -> Result<Reply> {
        self.0.notified().await;
        next.request(cx, request).await
    }
}

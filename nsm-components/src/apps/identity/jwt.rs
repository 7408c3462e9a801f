//! JWT-SVIDs: signed, published as keys, and looked into for those who were shown one.
//!
//! Source: JWT-SVID §2 to §4. ES256 alone, since that is all that is signed here.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use jsonwebtoken::{
    Algorithm, DecodingKey, EncodingKey, Header, Validation,
    jwk::{Jwk, JwkSet, PublicKeyUse, ThumbprintHash},
};
use rcgen::KeyPair;
use serde::Serialize;
use serde_json::{Map, Value};

use super::id::{SpiffeId, TrustDomain};

/// Life of a token. Whoever is shown one can show it to others, so it is short.
pub(super) const LIFETIME: Duration = Duration::from_mins(5);

/// How far the clock of who signed may be off.
const LEEWAY: u64 = 10;

/// Why a token cannot be made, or does not hold.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JwtError {
    /// The key cannot be read.
    #[error("cannot read the key for tokens")]
    Key(#[source] rcgen::Error),
    /// The library that makes tokens refused.
    #[error("cannot {0}")]
    Sign(&'static str, #[source] jsonwebtoken::errors::Error),
    /// No JWT, or one of a kind that is not given out here.
    #[error("it is no JWT-SVID: a JWS in compact form, alg ES256, with a kid")]
    Form,
    /// The key is none of the trust domain's, or its time is over.
    #[error("no key of the trust bundle has the kid {0:?}")]
    UnknownKey(String),
    /// Signature, time or audience.
    #[error("it does not hold")]
    Refused(#[source] jsonwebtoken::errors::Error),
    /// The subject is of another trust domain.
    #[error("its subject {0:?} is not of trust domain {1}")]
    OtherDomain(String, String),
}

/// A key that signs tokens.
pub(super) struct JwtKey {
    signer: EncodingKey,
    public: Jwk,
    kid: String,
}

/// The public keys of a trust domain, at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct JwtKeys {
    domain: TrustDomain,
    keys: Vec<Jwk>,
}

#[derive(Serialize)]
struct Claims<'a> {
    sub: &'a str,
    aud: &'a [String],
    iat: u64,
    exp: u64,
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

// === impl JwtKey ===

impl JwtKey {
    /// Takes over a key on P-256, PKCS#8 in PEM.
    pub(super) fn open(pem: &str) -> Result<Self, JwtError> {
        let key = KeyPair::from_pem(pem).map_err(JwtError::Key)?;
        let signer = EncodingKey::from_ec_der(&key.serialize_der());
        let failed = |error| JwtError::Sign("publish the key for tokens", error);
        let mut public = Jwk::from_encoding_key(&signer, Algorithm::ES256).map_err(failed)?;
        let kid = public.thumbprint(ThumbprintHash::SHA256).map_err(failed)?;
        public.common.key_id = Some(kid.clone());
        // SPIFFE Trust Domain and Bundle §4.2.2.
        public.common.public_key_use = Some(PublicKeyUse::Other("jwt-svid".into()));
        Ok(Self { signer, public, kid })
    }

    /// A token of `id` for this audience.
    pub(super) fn sign(
        &self,
        id: &SpiffeId,
        audience: &[String],
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<String, JwtError> {
        let header = Header { kid: Some(self.kid.clone()), ..Header::new(Algorithm::ES256) };
        let (iat, exp) = (seconds(now), seconds(now + lifetime));
        let claims = Claims { sub: id.as_str(), aud: audience, iat, exp };
        jsonwebtoken::encode(&header, &claims, &self.signer)
            .map_err(|error| JwtError::Sign("sign a token", error))
    }
}

impl fmt::Debug for JwtKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtKey").field("kid", &self.kid).finish_non_exhaustive()
    }
}

// === impl JwtKeys ===

impl JwtKeys {
    pub(super) fn new<'a>(domain: TrustDomain, keys: impl IntoIterator<Item = &'a JwtKey>) -> Self {
        Self { domain, keys: keys.into_iter().map(|key| key.public.clone()).collect() }
    }

    pub(super) fn domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// As the Workload API sends them: a JWKS document (RFC 7517).
    pub(super) fn to_jwks(&self) -> Vec<u8> {
        serde_json::to_vec(&JwkSet { keys: self.keys.clone() }).unwrap_or_default()
    }

    /// Whose token this is, and all it says, if it holds for `audience` now.
    pub(super) fn validate(
        &self,
        token: &str,
        audience: &str,
    ) -> Result<(SpiffeId, Map<String, Value>), JwtError> {
        let header = jsonwebtoken::decode_header(token).map_err(|_| JwtError::Form)?;
        // JWT-SVID §2.3: a header of another type is no JWT-SVID.
        let typed = header.typ.as_deref().is_none_or(|typ| typ == "JWT" || typ == "JOSE");
        let kid = header.kid.filter(|_| typed && header.alg == Algorithm::ES256).ok_or(JwtError::Form)?;
        let key = self.keys.iter().find(|key| key.common.key_id.as_ref() == Some(&kid));
        let key = key.ok_or(JwtError::UnknownKey(kid))?;
        let key = DecodingKey::from_jwk(key).map_err(JwtError::Refused)?;
        let mut validation = Validation::new(Algorithm::ES256);
        validation.leeway = LEEWAY;
        validation.set_audience(&[audience]);
        validation.set_required_spec_claims(&["exp", "aud", "sub"]);
        let claims = jsonwebtoken::decode::<Map<String, Value>>(token, &key, &validation);
        let claims = claims.map_err(JwtError::Refused)?.claims;
        let subject = claims.get("sub").and_then(Value::as_str).unwrap_or_default().to_owned();
        if !subject.starts_with(&format!("{}/", self.domain.id())) {
            return Err(JwtError::OtherDomain(subject, self.domain.to_string()));
        }
        Ok((SpiffeId::from_certificate(subject), claims))
    }
}

#[cfg(test)]
mod tests;

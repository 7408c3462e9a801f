//! Tokens: who passed a message on, and until when that holds (protocol §3.1, §3.2). A token is a
//! JWT by ES256, signed with the key of the certificate that its issuer shows on the connection.

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};

use super::Error;

/// Largest token that is looked at, in bytes.
const MAX_BYTES: usize = 8 << 10;

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// SPIFFE ID of the issuer.
    pub sub: String,
    /// SPIFFE IDs of those it is meant for: one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aud: Vec<String>,
    /// End of life, seconds since the epoch.
    pub exp: i64,
}

/// Why a token does not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is no JWT with the claims it needs.
    #[error("it is not readable")]
    Unreadable,
    /// The signature is another's.
    #[error("it is not signed by the peer that brought it")]
    Signature,
}

pub(super) fn sign(claims: &Claims, key: &EncodingKey) -> Result<String, Error> {
    jsonwebtoken::encode(&Header::new(Algorithm::ES256), claims, key)
        .map_err(|source| Error::Sign { audience: claims.aud.join(","), source })
}

/// The claims, whoever signed them.
pub fn read(token: &str) -> Result<Claims, Refusal> {
    if token.len() > MAX_BYTES {
        return Err(Refusal::Unreadable);
    }
    let data = jsonwebtoken::dangerous::insecure_decode::<Claims>(token).map_err(|_| Refusal::Unreadable)?;
    Ok(data.claims)
}

/// The claims, if the owner of `public_key` (SEC 1 point on P-256) signed them. The end of life is
/// not looked at: that is the caller's clock.
pub fn verify(token: &str, public_key: &[u8]) -> Result<Claims, Refusal> {
    let claims = read(token)?;
    let mut validation = Validation::new(Algorithm::ES256);
    validation.validate_exp = false;
    validation.validate_aud = false;
    let key = DecodingKey::from_ec_der(public_key);
    jsonwebtoken::decode::<Claims>(token, &key, &validation).map_err(|_| Refusal::Signature)?;
    Ok(claims)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{KeyPair, PublicKeyData};

    use super::*;

    fn token(key: &KeyPair) -> String {
        let claims =
            Claims { sub: "spiffe://d/a".into(), aud: vec!["spiffe://d/b".into()], exp: 4_000_000_000 };
        sign(&claims, &EncodingKey::from_ec_der(&key.serialize_der())).unwrap()
    }

    #[test]
    fn only_the_key_that_signed_a_token_verifies_it() {
        let (own, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let token = token(&own);
        assert_eq!(verify(&token, own.der_bytes()).unwrap().sub, "spiffe://d/a");
        assert_eq!(verify(&token, other.der_bytes()), Err(Refusal::Signature));
    }

    #[test]
    fn the_wire_form_is_upstreams() {
        let token = token(&KeyPair::generate().unwrap());
        let header = jsonwebtoken::decode_header(&token).unwrap();
        assert_eq!((header.alg, header.typ.as_deref(), header.kid), (Algorithm::ES256, Some("JWT"), None));
        let json = serde_json::to_value(read(&token).unwrap()).unwrap();
        assert_eq!(json["aud"], serde_json::json!(["spiffe://d/b"]));
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(token in ".{0,200}", key in prop::collection::vec(any::<u8>(), 0..70)) {
            prop_assert!(verify(&token, &key).is_err());
        }
    }
}

use proptest::prelude::*;

use super::*;

fn domain() -> TrustDomain {
    TrustDomain::parse("host.nsm").unwrap()
}

fn key() -> JwtKey {
    JwtKey::open(&KeyPair::generate().unwrap().serialize_pem()).unwrap()
}

fn keys(of: &[&JwtKey]) -> JwtKeys {
    JwtKeys::new(domain(), of.iter().copied())
}

fn id() -> SpiffeId {
    domain().workload("test", "test", "nsm").unwrap()
}

fn audience() -> Vec<String> {
    vec!["spiffe://host.nsm/b".to_owned(), "other".to_owned()]
}

#[test]
fn a_token_holds_for_each_of_its_audience_and_for_nobody_else() {
    let key = key();
    let token = key.sign(&id(), &audience(), SystemTime::now(), LIFETIME).unwrap();
    for audience in audience() {
        let (subject, claims) = keys(&[&key]).validate(&token, &audience).unwrap();
        assert_eq!(subject, id());
        assert_eq!(claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap(), LIFETIME.as_secs());
    }
    for audience in ["", "stranger", "spiffe://host.nsm"] {
        assert!(matches!(keys(&[&key]).validate(&token, audience), Err(JwtError::Refused(_))));
    }
}

#[test]
fn a_token_holds_as_long_as_its_key_is_published_and_its_life_lasts() {
    let (old, new) = (key(), key());
    let now = SystemTime::now();
    let token = old.sign(&id(), &audience(), now, LIFETIME).unwrap();
    keys(&[&old, &new]).validate(&token, "other").unwrap();
    assert!(matches!(keys(&[&new]).validate(&token, "other"), Err(JwtError::UnknownKey(_))));
    let over = old.sign(&id(), &audience(), now - LIFETIME * 2, LIFETIME).unwrap();
    assert!(matches!(keys(&[&old]).validate(&over, "other"), Err(JwtError::Refused(_))));
}

#[test]
fn a_key_that_claims_anothers_id_is_found_out() {
    let (real, mut forged) = (key(), key());
    forged.kid.clone_from(&real.kid);
    let token = forged.sign(&id(), &audience(), SystemTime::now(), LIFETIME).unwrap();
    assert!(matches!(keys(&[&real]).validate(&token, "other"), Err(JwtError::Refused(_))));
}

#[test]
fn tokens_of_another_form_or_domain_are_refused() {
    let key = key();
    let claims = serde_json::json!({"sub": "spiffe://elsewhere/a", "aud": ["a"], "exp": 4_000_000_000_u64});
    let sign = |header: &Header| jsonwebtoken::encode(header, &claims, &key.signer).unwrap();
    let named = Header { kid: Some(key.kid.clone()), ..Header::new(Algorithm::ES256) };
    let foreign = keys(&[&key]).validate(&sign(&named), "a");
    assert!(matches!(foreign, Err(JwtError::OtherDomain(..))), "{foreign:?}");
    for header in [Header::new(Algorithm::ES256), Header { typ: Some("at+jwt".into()), ..named.clone() }] {
        assert!(matches!(keys(&[&key]).validate(&sign(&header), "a"), Err(JwtError::Form)));
    }
    let symmetric = Header { alg: Algorithm::HS256, ..named };
    let token =
        jsonwebtoken::encode(&symmetric, &claims, &EncodingKey::from_secret(&keys(&[&key]).to_jwks()))
            .unwrap();
    assert!(matches!(keys(&[&key]).validate(&token, "a"), Err(JwtError::Form)));
}

#[test]
fn keys_are_published_as_a_jwks_that_says_what_they_are_for() {
    let (a, b) = (key(), key());
    let jwks: Value = serde_json::from_slice(&keys(&[&a, &b]).to_jwks()).unwrap();
    let published = jwks["keys"].as_array().unwrap();
    assert_eq!(published.len(), 2);
    assert_ne!(a.kid, b.kid);
    for (key, secret) in published.iter().zip([&a, &b]) {
        assert_eq!(key["kid"], secret.kid.as_str());
        assert_eq!(
            (&key["kty"], &key["crv"], &key["use"]),
            (&"EC".into(), &"P-256".into(), &"jwt-svid".into())
        );
        assert!(key.get("d").is_none(), "the secret half is not published");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn no_text_is_a_token(text in ".{0,300}") {
        prop_assert!(keys(&[&key()]).validate(&text, "a").is_err());
    }
}

#[test]
fn a_token_with_any_changed_byte_is_refused() {
    let key = key();
    let keys = keys(&[&key]);
    let token = key.sign(&id(), &audience(), SystemTime::now(), LIFETIME).unwrap();
    // The last sign of a part carries bits that belong to no byte.
    let counted = |at: usize| {
        token.as_bytes()[at] != b'.' && token.as_bytes().get(at + 1).is_some_and(|next| *next != b'.')
    };
    for at in (0..token.len() - 1).filter(|at| counted(*at)) {
        let mut changed = token.clone().into_bytes();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        assert!(keys.validate(&changed, "other").is_err(), "byte {at} of {token}");
    }
}

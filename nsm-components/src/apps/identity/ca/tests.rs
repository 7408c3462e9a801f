use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::*;

fn domain() -> TrustDomain {
    TrustDomain::parse("k8s.nsm").unwrap()
}

fn ca() -> Ca {
    Ca::open(&StoredRoot::generate(&domain()).unwrap(), &domain()).unwrap()
}

fn id() -> SpiffeId {
    domain().workload("test", "test", "nsm").unwrap()
}

const HOUR: Duration = Duration::from_hours(1);

#[test]
fn a_leaf_has_the_shape_that_go_takes() {
    let svid = ca().issue(&id(), HOUR).unwrap();
    let (rest, leaf) = X509Certificate::from_der(svid.certificates()).unwrap();
    assert!(rest.is_empty());
    let names = leaf.subject_alternative_name().unwrap().unwrap();
    assert_eq!(names.value.general_names.len(), 1);
    assert_eq!(x509::spiffe_id(svid.certificates()).unwrap(), id());
    let usage = leaf.key_usage().unwrap().unwrap().value;
    assert!(usage.digital_signature() && !usage.key_cert_sign() && !usage.crl_sign());
    let extended = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.server_auth && extended.client_auth);
    assert!(leaf.basic_constraints().unwrap().is_none_or(|basic| !basic.value.ca));
    assert!(leaf.iter_extensions().any(|e| {
        matches!(e.parsed_extension(), x509_parser::extensions::ParsedExtension::AuthorityKeyIdentifier(_))
    }));
    let validity = svid.validity();
    assert_eq!(validity.lifetime(), HOUR);
    let back = SystemTime::now().duration_since(validity.not_before).unwrap();
    assert!((BACKDATE..BACKDATE * 2).contains(&back), "{back:?}");
    let subject = leaf.public_key().parsed().unwrap();
    assert!(matches!(subject, x509_parser::public_key::PublicKey::EC(_)));
}

#[test]
fn a_root_has_the_shape_that_go_takes() {
    let ca = ca();
    let der = &ca.bundle().certificates()[0];
    let (_, root) = X509Certificate::from_der(der).unwrap();
    assert_eq!(x509::spiffe_id(der).unwrap().as_str(), "spiffe://k8s.nsm");
    assert!(root.is_ca());
    let usage = root.key_usage().unwrap().unwrap().value;
    assert!(usage.key_cert_sign() && usage.crl_sign() && !usage.digital_signature());
    assert!(root.subject().iter().count() > 0);
}

#[test]
fn serial_numbers_do_not_repeat() {
    let ca = ca();
    let serial =
        |svid: &Svid| X509Certificate::from_der(svid.certificates()).unwrap().1.raw_serial().to_vec();
    let (a, b) = (ca.issue(&id(), HOUR).unwrap(), ca.issue(&id(), HOUR).unwrap());
    assert_ne!(serial(&a), serial(&b));
}

/// As rustls verifies a peer's chain, less the name.
fn verifies(leaf: &[u8], bundle: &Bundle) -> Result<(), rustls::Error> {
    let leaf = CertificateDer::from(leaf.to_vec());
    let parsed = rustls::server::ParsedCertificate::try_from(&leaf)?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    rustls::client::verify_server_cert_signed_by_trust_anchor(
        &parsed,
        &bundle.roots().unwrap(),
        &[],
        UnixTime::now(),
        provider.signature_verification_algorithms.all,
    )
}

#[test]
fn leaves_verify_against_their_own_root_alone() {
    let (ca, other) = (ca(), ca());
    let svid = ca.issue(&id(), HOUR).unwrap();
    verifies(svid.certificates(), ca.bundle()).unwrap();
    verifies(svid.certificates(), &other.bundle().union(ca.bundle())).unwrap();
    verifies(svid.certificates(), other.bundle()).unwrap_err();
}

#[test]
fn the_same_holds_for_clients() {
    let ca = ca();
    let svid = ca.issue(&id(), HOUR).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let roots = std::sync::Arc::new(ca.bundle().roots().unwrap());
    let verifier =
        rustls::server::WebPkiClientVerifier::builder_with_provider(roots, provider).build().unwrap();
    let leaf = CertificateDer::from(svid.certificates().to_vec());
    verifier.verify_client_cert(&leaf, &[], UnixTime::now()).unwrap();
    // No DNS name: a stock verifier of servers refuses it, which is why peers bring their own.
    let parsed = rustls::server::ParsedCertificate::try_from(&leaf).unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    rustls::client::verify_server_name(&parsed, &name).unwrap_err();
}

#[test]
fn a_reloaded_root_signs_for_the_same_bundle() {
    let root = StoredRoot::generate(&domain()).unwrap();
    let (first, second) = (Ca::open(&root, &domain()).unwrap(), Ca::open(&root, &domain()).unwrap());
    assert_eq!(first.bundle(), second.bundle());
    verifies(second.issue(&id(), HOUR).unwrap().certificates(), first.bundle()).unwrap();
}

#[test]
fn the_key_may_be_held_elsewhere() {
    let (ca, key) = (ca(), leaf_key().unwrap());
    let leaf = ca.sign(&id(), &key.subject_public_key_info(), HOUR).unwrap();
    verifies(&leaf, ca.bundle()).unwrap();
    assert_eq!(x509::public_key(&leaf).unwrap(), key.subject_public_key_info());
}

#[test]
fn only_p256_keys_are_signed() {
    let ca = ca();
    let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    for key in [p384.subject_public_key_info(), Vec::new(), vec![0; 91]] {
        assert!(matches!(ca.sign(&id(), &key, HOUR), Err(CaError::PublicKey)));
    }
}

#[test]
fn a_root_of_another_domain_or_another_key_is_refused() {
    let (a, b) = (StoredRoot::generate(&domain()).unwrap(), StoredRoot::generate(&domain()).unwrap());
    let other = TrustDomain::parse("other").unwrap();
    assert!(matches!(Ca::open(&a, &other), Err(CaError::OtherDomain { .. })));
    let mixed = StoredRoot { key: a.key.clone(), certificates: b.certificates.clone() };
    assert!(matches!(Ca::open(&mixed, &domain()), Err(CaError::KeyMismatch)));
    // A former generation behind the own certificate is kept in the bundle.
    let both = StoredRoot { key: a.key.clone(), certificates: a.certificates.clone() + &b.certificates };
    assert_eq!(Ca::open(&both, &domain()).unwrap().bundle().certificates().len(), 2);
}

#[test]
fn keys_do_not_show_in_debug_output() {
    let root = StoredRoot::generate(&domain()).unwrap();
    let ca = Ca::open(&root, &domain()).unwrap();
    let svid = ca.issue(&id(), HOUR).unwrap();
    let text = format!("{root:?} {ca:?} {svid:?}");
    assert!(!text.contains("PRIVATE") && !text.contains(&root.key[30..60]), "{text}");
    assert!(!text.contains(&format!("{:?}", &svid.key()[..8])), "{text}");
}

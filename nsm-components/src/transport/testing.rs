//! An identity for tests that need a real connection.

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};

use super::Source;
use crate::api::workload::{X509svid, X509svidResponse};

/// Of `spiffe://d/a`, by an authority that trusts itself alone.
pub(crate) fn source() -> Source {
    let (root_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let mut root = CertificateParams::default();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let bundle = root.self_signed(&root_key).unwrap().der().to_vec();
    let mut leaf = CertificateParams::default();
    leaf.subject_alt_names = vec![SanType::URI("spiffe://d/a".try_into().unwrap())];
    let svid = X509svid {
        spiffe_id: "spiffe://d/a".into(),
        x509_svid: leaf.signed_by(&key, &Issuer::new(root, root_key)).unwrap().der().to_vec(),
        x509_svid_key: key.serialize_der(),
        bundle,
        ..X509svid::default()
    };
    Source::of(X509svidResponse { svids: vec![svid], ..X509svidResponse::default() }).unwrap()
}

//! Identities for tests, from a root of their own.

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};

use super::Source;
use crate::api::workload::{X509svid, X509svidResponse};

/// One identity.
pub(super) fn source() -> Source {
    sources(&["spiffe://d/a"]).remove(0)
}

/// Identities that trust each other.
pub(crate) fn sources(ids: &[&str]) -> Vec<Source> {
    let root_key = KeyPair::generate().unwrap();
    let mut root = CertificateParams::default();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let bundle = root.self_signed(&root_key).unwrap().der().to_vec();
    let issuer = Issuer::new(root, root_key);
    let source = |id: &&str| {
        let (key, mut leaf) = (KeyPair::generate().unwrap(), CertificateParams::default());
        leaf.subject_alt_names = vec![SanType::URI((*id).try_into().unwrap())];
        let svid = X509svid {
            spiffe_id: (*id).into(),
            x509_svid: leaf.signed_by(&key, &issuer).unwrap().der().to_vec(),
            x509_svid_key: key.serialize_der(),
            bundle: bundle.clone(),
            ..X509svid::default()
        };
        Source::of(X509svidResponse { svids: vec![svid], ..X509svidResponse::default() }).unwrap()
    };
    ids.iter().map(source).collect()
}

//! The trust bundle: the CA certificates of the trust domain. Public, and more than one while the
//! root changes.

use rustls::RootCertStore;
use rustls_pki_types::{CertificateDer, pem::PemObject as _};

use super::{
    id::{IdError, TrustDomain},
    x509::{self, X509Error},
};

/// A bundle that cannot be used, and why.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// Not PEM.
    #[error("not certificates in PEM")]
    Pem(#[source] rustls_pki_types::pem::Error),
    /// A certificate in it cannot be used.
    #[error("certificate {0} cannot be used")]
    Certificate(usize, #[source] X509Error),
    /// The certificate's name is not that of a trust domain.
    #[error("certificate {0} names no trust domain")]
    Domain(usize, #[source] IdError),
    /// Certificates of two trust domains.
    #[error("it holds CAs of two trust domains, {0} and {1}")]
    TwoDomains(String, String),
    /// Nothing in it.
    #[error("it holds no certificate")]
    Empty,
    /// rustls does not take the certificate as a root.
    #[error("a certificate cannot be a root")]
    Root(#[source] rustls::Error),
}

/// CA certificates of one trust domain, at least one, in a fixed order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bundle {
    certificates: Vec<CertificateDer<'static>>,
    domain: TrustDomain,
}

impl Bundle {
    pub(super) fn from_pem(text: &str) -> Result<Self, BundleError> {
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
        Self::new(certificates.map_err(BundleError::Pem)?)
    }

    /// Certificates laid end to end.
    pub(super) fn from_der(der: &[u8]) -> Result<Self, BundleError> {
        Self::new(x509::split(der).map_err(|error| BundleError::Certificate(0, error))?)
    }

    fn new(certificates: Vec<CertificateDer<'static>>) -> Result<Self, BundleError> {
        let mut domain: Option<TrustDomain> = None;
        for (index, certificate) in certificates.iter().enumerate() {
            let id = x509::spiffe_id(certificate).map_err(|error| BundleError::Certificate(index, error))?;
            let name = id.as_str().strip_prefix("spiffe://").unwrap_or_default();
            let found = TrustDomain::parse(name).map_err(|error| BundleError::Domain(index, error))?;
            match &domain {
                Some(first) if *first != found => {
                    return Err(BundleError::TwoDomains(first.to_string(), found.to_string()));
                }
                _ => domain = Some(found),
            }
        }
        let domain = domain.ok_or(BundleError::Empty)?;
        Ok(Self { certificates, domain })
    }

    pub(super) fn domain(&self) -> &TrustDomain {
        &self.domain
    }

    pub(super) fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }

    /// As the Workload API sends it: DER end to end.
    pub(super) fn to_der(&self) -> Vec<u8> {
        self.certificates.iter().flat_map(|certificate| certificate.iter().copied()).collect()
    }

    /// As files and ConfigMaps hold it.
    pub(super) fn to_pem(&self) -> String {
        self.certificates.iter().map(|certificate| pem("CERTIFICATE", certificate)).collect()
    }

    /// Both bundles' certificates, own ones first; of another trust domain nothing is taken.
    pub(super) fn union(&self, other: &Self) -> Self {
        let mut union = self.clone();
        if self.domain == other.domain {
            let new = other.certificates.iter().filter(|c| !self.certificates.contains(c));
            union.certificates.extend(new.cloned());
        }
        union
    }

    /// As TLS verifies against it.
    pub(super) fn roots(&self) -> Result<RootCertStore, BundleError> {
        let mut roots = RootCertStore::empty();
        for certificate in &self.certificates {
            roots.add(certificate.clone()).map_err(BundleError::Root)?;
        }
        Ok(roots)
    }
}

/// PEM (RFC 7468): base64 in lines of 64 between its two marks.
fn pem(label: &str, der: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in der.chunks(48) {
        for group in line.chunks(3) {
            let bits = group.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte))
                << (8 * (3 - group.len()));
            for place in 0..4 {
                let sign = ALPHABET[(bits >> (18 - 6 * place) & 63) as usize];
                text.push(if place <= group.len() { char::from(sign) } else { '=' });
            }
        }
        text.push('\n');
    }
    text.push_str("-----END ");
    text.push_str(label);
    text.push_str("-----\n");
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::apps::identity::ca::StoredRoot;

    fn bundle(domain: &str) -> Bundle {
        let domain = TrustDomain::parse(domain).unwrap();
        Bundle::from_pem(&StoredRoot::generate(&domain).unwrap().certificates).unwrap()
    }

    #[test]
    fn a_bundle_is_the_same_after_pem_and_der() {
        let both = bundle("k8s.nsm").union(&bundle("k8s.nsm"));
        assert_eq!(both.certificates().len(), 2);
        assert_eq!(Bundle::from_pem(&both.to_pem()).unwrap(), both);
        assert_eq!(Bundle::from_der(&both.to_der()).unwrap(), both);
        assert_eq!(both.union(&both), both);
        assert_eq!(both.roots().unwrap().len(), 2);
    }

    #[test]
    fn a_bundle_has_one_trust_domain_and_is_not_empty() {
        let (a, b) = (bundle("a"), bundle("b"));
        assert_eq!(a.union(&b), a);
        let mixed = a.to_pem() + &b.to_pem();
        assert!(matches!(Bundle::from_pem(&mixed), Err(BundleError::TwoDomains(..))));
        assert!(matches!(Bundle::from_pem(""), Err(BundleError::Empty)));
        assert!(Bundle::from_pem("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n").is_err());
    }

    proptest! {
        #[test]
        fn pem_reads_back(der in proptest::collection::vec(any::<u8>(), 1..200)) {
            let read = CertificateDer::from_pem_slice(pem("CERTIFICATE", &der).as_bytes()).unwrap();
            prop_assert_eq!(&read[..], &der[..]);
        }
    }
}

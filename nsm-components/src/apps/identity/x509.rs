//! What is read from certificates: the name, the life, and where one ends.

use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use super::id::SpiffeId;

/// How far before now a certificate starts, so that a peer whose clock is behind takes it.
pub(super) const BACKDATE: Duration = Duration::from_secs(10);

/// A certificate that cannot be used, and why.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum X509Error {
    /// Not DER, or not a certificate.
    #[error("not an X.509 certificate in DER")]
    Malformed,
    /// No certificate at all.
    #[error("no certificate")]
    Empty,
    /// X.509-SVID §2: exactly one URI name.
    #[error("{0} URI names where a SPIFFE certificate has one")]
    Names(usize),
}

/// When a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Validity {
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
}

impl Validity {
    /// How long the certificate was meant to live when it was made.
    pub(super) fn lifetime(&self) -> Duration {
        let all = self.not_after.duration_since(self.not_before).unwrap_or_default();
        all.saturating_sub(BACKDATE)
    }
}

fn parse(der: &[u8]) -> Result<(&[u8], X509Certificate<'_>), X509Error> {
    X509Certificate::from_der(der).map_err(|_| X509Error::Malformed)
}

/// The single URI name of a certificate.
pub(super) fn spiffe_id(der: &[u8]) -> Result<SpiffeId, X509Error> {
    let (_, certificate) = parse(der)?;
    let names = certificate.subject_alternative_name().map_err(|_| X509Error::Malformed)?;
    let uris: Vec<&str> = names
        .iter()
        .flat_map(|names| &names.value.general_names)
        .filter_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None })
        .collect();
    match uris[..] {
        [uri] => Ok(SpiffeId::from_certificate(uri.to_owned())),
        _ => Err(X509Error::Names(uris.len())),
    }
}

/// The public key of a certificate: SubjectPublicKeyInfo, DER.
pub(super) fn public_key(der: &[u8]) -> Result<Vec<u8>, X509Error> {
    Ok(parse(der)?.1.public_key().raw.to_vec())
}

/// When a certificate is valid; a date before 1970 counts as 1970.
pub(super) fn validity(der: &[u8]) -> Result<Validity, X509Error> {
    let (_, certificate) = parse(der)?;
    let time = |timestamp: i64| {
        SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(timestamp).unwrap_or_default())
    };
    let validity = certificate.validity();
    Ok(Validity {
        not_before: time(validity.not_before.timestamp()),
        not_after: time(validity.not_after.timestamp()),
    })
}

/// Certificates laid end to end; at least one.
pub(super) fn split(mut der: &[u8]) -> Result<Vec<CertificateDer<'static>>, X509Error> {
    let mut certificates = Vec::new();
    while !der.is_empty() {
        let (rest, _) = parse(der)?;
        certificates.push(CertificateDer::from(der[..der.len() - rest.len()].to_vec()));
        der = rest;
    }
    if certificates.is_empty() { Err(X509Error::Empty) } else { Ok(certificates) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn arbitrary_bytes_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(split(&bytes).is_err());
            prop_assert!(spiffe_id(&bytes).is_err());
        }
    }
}

//! Mutual TLS by SPIFFE IDs (SPIFFE standard "X509-SVID"). Names of hosts play no part: a peer is
//! who its leaf's only URI name says, if a root of the trust bundle stands behind it.

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error as TlsError,
    RootCertStore, ServerConfig, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{
        NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::{CertifiedKey, SingleCertAndKey},
    version::{TLS12, TLS13},
};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::Error;
use crate::api::{access::domain, peer::Peer};

/// HTTP/2; Go's peers refuse a connection without it.
pub(super) const ALPN: &[u8] = b"h2";

/// An uncompressed point on P-256 (SEC 1 §2.3.3): this many bytes, the first of which is this.
const POINT: (usize, u8) = (65, 4);

pub(super) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    PROVIDER.clone()
}

/// What a leaf says of its owner: exactly one URI name, and a key on P-256 by which tokens can be
/// checked.
pub(super) fn peer(leaf: &CertificateDer<'_>) -> Result<Peer, Error> {
    let (_, leaf) = X509Certificate::from_der(leaf).map_err(|_| Error::BadCertificate("it is no X.509"))?;
    let names = leaf.subject_alternative_name().ok().flatten();
    let names = names.ok_or(Error::BadCertificate("it has no subject alternative name"))?;
    let mut uris = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    match (uris.next(), uris.next()) {
        (Some(id), None) if domain(id).is_some() => {
            let public_key = leaf.public_key().subject_public_key.data.to_vec();
            if public_key.len() != POINT.0 || public_key.first() != Some(&POINT.1) {
                return Err(Error::BadCertificate("its key is not on P-256, which tokens need"));
            }
            Ok(Peer { id: id.to_owned(), public_key, not_after: leaf.validity().not_after.timestamp() })
        }
        _ => Err(Error::BadCertificate("it has not exactly one SPIFFE ID")),
    }
}

/// For dials: certificate, key and roots of one SVID.
pub(super) fn client_config(own: &CertifiedKey, domains: Arc<Domains>) -> Result<ClientConfig, Error> {
    let verifier = Verifier { domains, provider: provider() };
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13, &TLS12])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own.clone())));
    config.alpn_protocols = vec![ALPN.to_vec()];
    // A resumed session would carry the certificate of the first handshake past its end.
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Ok(config)
}

/// For accepts: certificate, key and roots of one SVID.
pub(super) fn server_config(own: &CertifiedKey, domains: Arc<Domains>) -> Result<ServerConfig, Error> {
    let verifier = Verifier { domains, provider: provider() };
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13, &TLS12])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(own.clone())));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// Who stands behind the SVIDs of each trust domain. A root vouches for its own domain alone.
#[derive(Debug, Default)]
pub(super) struct Domains(BTreeMap<String, Authority>);

#[derive(Debug)]
struct Authority {
    roots: Arc<RootCertStore>,
    clients: Arc<dyn ClientCertVerifier>,
}

/// Takes any SVID that a root of its domain stands behind; what its owner may do is decided per
/// call.
#[derive(Debug)]
struct Verifier {
    domains: Arc<Domains>,
    provider: Arc<CryptoProvider>,
}

// === impl Domains ===

impl Domains {
    /// Adds a trust domain with its CA certificates.
    pub(super) fn add(&mut self, domain: &str, bundle: Vec<CertificateDer<'static>>) -> Result<(), Error> {
        let mut roots = RootCertStore::empty();
        for root in bundle {
            roots.add(root)?;
        }
        let roots = Arc::new(roots);
        let clients = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider())
            .build()
            .map_err(|error| TlsError::General(error.to_string()))?;
        self.0.insert(domain.to_owned(), Authority { roots, clients });
        Ok(())
    }

    /// Who may vouch for this leaf.
    fn authority(&self, leaf: &CertificateDer<'_>) -> Result<&Authority, TlsError> {
        let unusable = TlsError::InvalidCertificate(CertificateError::ApplicationVerificationFailure);
        let peer = peer(leaf).map_err(|_| unusable)?;
        let authority = domain(&peer.id).and_then(|domain| self.0.get(domain));
        authority.ok_or(TlsError::InvalidCertificate(CertificateError::UnknownIssuer))
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let parsed = ParsedCertificate::try_from(leaf)?;
        let roots = &self.domains.authority(leaf)?.roots;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, roots, intermediates, now, algorithms)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Verifier {
    /// No hints: the roots may change while the peer chooses.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, TlsError> {
        self.domains.authority(leaf)?.clients.verify_client_cert(leaf, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        ServerCertVerifier::verify_tls12_signature(self, message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        ServerCertVerifier::verify_tls13_signature(self, message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ServerCertVerifier::supported_verify_schemes(self)
    }
}

#[cfg(test)]
mod tests;

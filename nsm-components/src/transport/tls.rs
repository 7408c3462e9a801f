//! Mutual TLS by SPIFFE IDs (SPIFFE standard "X509-SVID"). Names of hosts play no part: a peer is
//! who its leaf's only URI name says, if a root of the trust bundle stands behind it.

use std::sync::Arc;

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error as TlsError,
    ServerConfig, SignatureScheme,
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
    sign::SingleCertAndKey,
    version::{TLS12, TLS13},
};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::{Error, Svid};
use crate::api::peer::Peer;

/// HTTP/2; Go's peers refuse a connection without it.
const ALPN: &[u8] = b"h2";

pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
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
        (Some(id), None) if id.starts_with("spiffe://") => Ok(Peer {
            id: id.to_owned(),
            public_key: leaf.public_key().subject_public_key.data.to_vec(),
            not_after: leaf.validity().not_after.timestamp(),
        }),
        _ => Err(Error::BadCertificate("it has not exactly one SPIFFE ID")),
    }
}

/// For one dial: certificate, key and roots of one SVID.
pub(super) fn client_config(svid: &Svid) -> Result<ClientConfig, Error> {
    let verifier = Verifier { roots: svid.roots.clone(), provider: provider(), clients: None };
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13, &TLS12])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from((*svid.certified).clone())));
    config.alpn_protocols = vec![ALPN.to_vec()];
    // A resumed session would carry the certificate of the first handshake past its end.
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Ok(config)
}

/// For one accept: certificate, key and roots of one SVID.
pub(super) fn server_config(svid: &Svid) -> Result<ServerConfig, Error> {
    let clients = WebPkiClientVerifier::builder_with_provider(svid.roots.clone(), provider())
        .build()
        .map_err(|error| TlsError::General(error.to_string()))?;
    let verifier = Verifier { roots: svid.roots.clone(), provider: provider(), clients: Some(clients) };
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13, &TLS12])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from((*svid.certified).clone())));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// Takes any SVID that a root stands behind; what its owner may do is decided per call.
#[derive(Debug)]
struct Verifier {
    roots: Arc<rustls::RootCertStore>,
    provider: Arc<CryptoProvider>,
    clients: Option<Arc<dyn ClientCertVerifier>>,
}

fn has_identity(leaf: &CertificateDer<'_>) -> Result<(), TlsError> {
    let refused = TlsError::InvalidCertificate(CertificateError::ApplicationVerificationFailure);
    peer(leaf).map(|_| ()).map_err(|_| refused)
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
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, algorithms)?;
        has_identity(leaf)?;
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
        let clients = self.clients.as_ref().ok_or(TlsError::General("no verifier of clients".into()))?;
        let verified = clients.verify_client_cert(leaf, intermediates, now)?;
        has_identity(leaf)?;
        Ok(verified)
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

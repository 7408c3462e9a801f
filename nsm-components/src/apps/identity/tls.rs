//! TLS between agents and the authority: the authority shows an SVID, agents bring a token.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    server::{ClientHello, NoServerSessionStorage, ParsedCertificate, ResolvesServerCert},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use tokio::time::Instant;
use tracing::warn;

use super::{
    ca::{Ca, CaError},
    id::SpiffeId,
    x509,
};

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// A server that shows its own SVID and asks for none.
pub(super) fn server_config(own: Arc<OwnSvid>) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(own);
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A resumed session would carry the certificate of the first handshake.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// A client that takes one server only.
pub(super) fn client_config(trust: Trust, server: SpiffeId) -> Result<ClientConfig, rustls::Error> {
    let provider = provider();
    let verifier = SpiffeServer { trust, server, provider: provider.clone() };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Ok(config)
}

/// By what a server is known besides its name.
#[derive(Debug)]
pub(super) enum Trust {
    /// Its chain ends in one of these.
    Roots(RootCertStore),
    /// Nothing: for a probe of the own process, which tells it nothing.
    Name,
}

/// The SVID of a process that signs its own, renewed by the handshake that finds it half gone.
pub(super) struct OwnSvid {
    ca: Arc<Ca>,
    id: SpiffeId,
    lifetime: Duration,
    current: Mutex<Current>,
}

struct Current {
    key: Arc<CertifiedKey>,
    since: Instant,
    since_wall: SystemTime,
}

// === impl OwnSvid ===

impl OwnSvid {
    pub(super) fn new(ca: Arc<Ca>, id: SpiffeId, lifetime: Duration) -> Result<Self, OwnSvidError> {
        let current = Mutex::new(Current::issue(&ca, &id, lifetime)?);
        Ok(Self { ca, id, lifetime, current })
    }

    fn get(&self) -> Arc<CertifiedKey> {
        let mut current = self.current.lock();
        let age = current.since.elapsed().max(current.since_wall.elapsed().unwrap_or_default());
        if age >= self.lifetime / 2 {
            match Current::issue(&self.ca, &self.id, self.lifetime) {
                Ok(new) => *current = new,
                Err(error) => warn!(%error, "cannot renew the own identity, keeping the old one"),
            }
        }
        current.key.clone()
    }
}

impl ResolvesServerCert for OwnSvid {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.get())
    }
}

impl fmt::Debug for OwnSvid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnSvid").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Why a process has no SVID of its own.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OwnSvidError {
    /// The CA did not sign.
    #[error("cannot sign the own identity")]
    Ca(#[from] CaError),
    /// TLS did not take it.
    #[error("TLS refuses the own identity")]
    Tls(#[from] rustls::Error),
}

impl Current {
    fn issue(ca: &Ca, id: &SpiffeId, lifetime: Duration) -> Result<Self, OwnSvidError> {
        let svid = ca.issue(id, lifetime)?;
        let chain = vec![CertificateDer::from(svid.certificates().to_vec())];
        let key = PrivatePkcs8KeyDer::from(svid.key().to_vec());
        let key = Arc::new(CertifiedKey::from_der(chain, key.into(), &provider())?);
        Ok(Self { key, since: Instant::now(), since_wall: SystemTime::now() })
    }
}

/// Verifies a server by chain and SPIFFE ID; a DNS name it has none.
#[derive(Debug)]
struct SpiffeServer {
    trust: Trust,
    server: SpiffeId,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for SpiffeServer {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Trust::Roots(roots) = &self.trust {
            rustls::client::verify_server_cert_signed_by_trust_anchor(
                &ParsedCertificate::try_from(leaf)?,
                roots,
                intermediates,
                now,
                self.provider.signature_verification_algorithms.all,
            )?;
        }
        match x509::spiffe_id(leaf) {
            Ok(id) if id == self.server => Ok(ServerCertVerified::assertion()),
            Ok(_) => Err(CertificateError::ApplicationVerificationFailure.into()),
            Err(_) => Err(CertificateError::BadEncoding.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

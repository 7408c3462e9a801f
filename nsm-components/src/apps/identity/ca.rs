//! The certificate authority: makes the root, and signs leaves with it. P-256 throughout.
//!
//! Source: X.509-SVID §2 to §4; the shapes are those that go-spiffe takes (interop §1).

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber,
    SubjectPublicKeyInfo,
};
use uuid::Uuid;

use super::{
    bundle::{Bundle, BundleError},
    id::{SpiffeId, TrustDomain},
    svid::Svid,
    x509::{self, BACKDATE, X509Error},
};

/// Life of a root: an operator that forgets the mesh for years still finds it working.
const ROOT_LIFETIME: Duration = Duration::from_hours(10 * 365 * 24);

/// What a CA cannot do, and why.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaError {
    /// The library that makes certificates refused.
    #[error("cannot {0}")]
    Rcgen(&'static str, #[source] rcgen::Error),
    /// The certificates beside the key cannot be used.
    #[error("the certificates beside the key cannot be used")]
    Bundle(#[from] BundleError),
    /// A certificate of our own making cannot be read.
    #[error("cannot read a certificate")]
    X509(#[from] X509Error),
    /// The root is of another trust domain.
    #[error(
        "the root is of trust domain {found}, not {wanted}: set NSM_TRUST_DOMAIN={found} or remove the root"
    )]
    OtherDomain {
        /// What the certificate says.
        found: String,
        /// What the settings say.
        wanted: String,
    },
    /// The first certificate is not the key's.
    #[error("the key and the first certificate do not belong together")]
    KeyMismatch,
    /// The root is past its end.
    #[error("the root has expired: remove it to make a new one, and restart what trusts it")]
    Expired,
    /// What should hold the root holds something else.
    #[error(
        "there is no text under {0:?}: remove the Secret to have a new root made, or write the old one back"
    )]
    NotStored(&'static str),
    /// The public key to sign is no P-256 key.
    #[error("the public key is no EC P-256 key in SubjectPublicKeyInfo DER")]
    PublicKey,
}

/// A root as it is kept: in a file, or in a Secret of type `kubernetes.io/tls`.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct StoredRoot {
    /// PKCS#8, PEM. Secret.
    pub(super) key: String,
    /// PEM; the key's own first, then those that are still or already trusted.
    pub(super) certificates: String,
}

/// A root that can sign.
pub(super) struct Ca {
    issuer: Issuer<'static, KeyPair>,
    bundle: Bundle,
    not_after: SystemTime,
}

// === impl StoredRoot ===

impl StoredRoot {
    /// A new root of this trust domain.
    pub(super) fn generate(domain: &TrustDomain) -> Result<Self, CaError> {
        Self::generate_at(domain, SystemTime::now(), ROOT_LIFETIME)
    }

    /// One that lives so long from then on.
    pub(super) fn generate_at(
        domain: &TrustDomain,
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<Self, CaError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
            .map_err(|e| CaError::Rcgen("make a root key", e))?;
        let mut params = params(&domain.id(), now, lifetime)?;
        // Roots of two generations need different names, or verifiers try the wrong key first.
        let generation = format!("identity root {}", &Uuid::new_v4().simple().to_string()[..8]);
        params.distinguished_name.push(DnType::CommonName, generation);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate =
            params.self_signed(&key).map_err(|e| CaError::Rcgen("make a root certificate", e))?;
        Ok(Self { key: key.serialize_pem(), certificates: certificate.pem() })
    }
}

impl fmt::Debug for StoredRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredRoot").field("key", &"(redacted)").finish_non_exhaustive()
    }
}

// === impl Ca ===

impl Ca {
    /// Takes over a stored root, if it is whole, of this trust domain and not expired.
    pub(super) fn open(root: &StoredRoot, domain: &TrustDomain) -> Result<Self, CaError> {
        let key = KeyPair::from_pem(&root.key).map_err(|e| CaError::Rcgen("read the root key", e))?;
        let bundle = Bundle::from_pem(&root.certificates)?;
        if bundle.domain() != domain {
            let (found, wanted) = (bundle.domain().to_string(), domain.to_string());
            return Err(CaError::OtherDomain { found, wanted });
        }
        let certificate = bundle.certificates().first().ok_or(BundleError::Empty)?;
        if x509::public_key(certificate)? != key.subject_public_key_info() {
            return Err(CaError::KeyMismatch);
        }
        let not_after = x509::validity(certificate)?.not_after;
        if not_after <= SystemTime::now() {
            return Err(CaError::Expired);
        }
        let issuer = Issuer::from_ca_cert_der(certificate, key)
            .map_err(|e| CaError::Rcgen("read the root certificate", e))?;
        Ok(Self { issuer, bundle, not_after })
    }

    /// What peers verify this CA's leaves with.
    pub(super) fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    /// A leaf for a key that somebody else holds: the certificate, DER.
    pub(super) fn sign(
        &self,
        id: &SpiffeId,
        public_key: &[u8],
        lifetime: Duration,
    ) -> Result<Vec<u8>, CaError> {
        let key = SubjectPublicKeyInfo::from_der(public_key).map_err(|_| CaError::PublicKey)?;
        // An uncompressed point (SEC 1 §2.3.3): anything else would be refused by every peer.
        if key.algorithm() != &PKCS_ECDSA_P256_SHA256 || key.der_bytes().len() != 65 {
            return Err(CaError::PublicKey);
        }
        self.leaf(id, &key, lifetime)
    }

    /// A key and a leaf for it.
    pub(super) fn issue(&self, id: &SpiffeId, lifetime: Duration) -> Result<Svid, CaError> {
        let key = leaf_key()?;
        let certificate = self.leaf(id, &key, lifetime)?;
        Ok(Svid::new(certificate, key.serialize_der(), self.bundle.clone())?)
    }

    fn leaf(&self, id: &SpiffeId, key: &impl PublicKeyData, lifetime: Duration) -> Result<Vec<u8>, CaError> {
        let now = SystemTime::now();
        // A leaf that outlives its root would only look valid.
        let left = self.not_after.duration_since(now).map_err(|_| CaError::Expired)?;
        let mut params = params(id, now, lifetime.min(left))?;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let leaf =
            params.signed_by(key, &self.issuer).map_err(|e| CaError::Rcgen("sign a certificate", e))?;
        Ok(leaf.der().to_vec())
    }
}

impl fmt::Debug for Ca {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ca").field("domain", self.bundle.domain()).finish_non_exhaustive()
    }
}

/// A fresh key for a leaf.
pub(super) fn leaf_key() -> Result<KeyPair, CaError> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|e| CaError::Rcgen("make a key", e))
}

/// What root and leaf share: one URI name, the dates, a random serial number.
fn params(id: &SpiffeId, now: SystemTime, lifetime: Duration) -> Result<CertificateParams, CaError> {
    let mut params = CertificateParams::default();
    let uri = id.as_str().try_into().map_err(|e| CaError::Rcgen("name a certificate", e))?;
    params.subject_alt_names = vec![SanType::URI(uri)];
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Network Service Mesh");
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let since = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    params.not_before = epoch + since(now).saturating_sub(BACKDATE);
    params.not_after = epoch + since(now) + lifetime;
    // RFC 5280 §4.1.2.2: positive and at most 20 bytes; a version 4 UUID has 122 random bits.
    let mut serial = *Uuid::new_v4().as_bytes();
    serial[0] &= 0x7f;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(params)
}

#[cfg(test)]
mod tests;

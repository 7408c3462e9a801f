//! An X.509-SVID as the Workload API hands it out: name, certificates, key.

use std::fmt;

use super::{
    bundle::Bundle,
    id::SpiffeId,
    x509::{self, Validity, X509Error},
};

/// Identity of one caller for some time.
pub(super) struct Svid {
    id: SpiffeId,
    certificates: Vec<u8>,
    key: Vec<u8>,
    bundle: Bundle,
    validity: Validity,
}

impl Svid {
    /// Leaf first, then intermediates, DER end to end; the leaf's key as PKCS#8 DER; and what peers
    /// verify it with. The leaf itself says who it is and for how long.
    pub(super) fn new(certificates: Vec<u8>, key: Vec<u8>, bundle: Bundle) -> Result<Self, X509Error> {
        let id = x509::spiffe_id(&certificates)?;
        let validity = x509::validity(&certificates)?;
        Ok(Self { id, certificates, key, bundle, validity })
    }

    pub(super) fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// DER end to end, leaf first.
    pub(super) fn certificates(&self) -> &[u8] {
        &self.certificates
    }

    /// PKCS#8 DER. Secret.
    pub(super) fn key(&self) -> &[u8] {
        &self.key
    }

    /// The CA certificates its issuer named.
    pub(super) fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    pub(super) fn validity(&self) -> Validity {
        self.validity
    }
}

impl fmt::Debug for Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Svid").field("id", &self.id).field("key", &"(redacted)").finish_non_exhaustive()
    }
}

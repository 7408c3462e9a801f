//! Identities for tests of this process's own making, and sources that change when told to.

use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use tokio::sync::watch;

use super::{Source, Svid};
use crate::api::workload::{X509svid, X509svidResponse};

/// A certificate authority.
pub(crate) struct Ca {
    issuer: Issuer<'static, KeyPair>,
    certificate: Vec<u8>,
}

// === impl Ca ===

impl Ca {
    pub(crate) fn new() -> Self {
        let (key, mut params) = (KeyPair::generate().unwrap(), CertificateParams::default());
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, uuid::Uuid::new_v4().to_string());
        let certificate = params.self_signed(&key).unwrap().der().to_vec();
        Self { issuer: Issuer::new(params, key), certificate }
    }

    /// DER.
    pub(crate) fn certificate(&self) -> Vec<u8> {
        self.certificate.clone()
    }

    /// A leaf, from then until then, and its key: DER and PKCS#8 DER.
    pub(crate) fn leaf_between(&self, id: &str, from: SystemTime, until: SystemTime) -> (Vec<u8>, Vec<u8>) {
        let (key, mut params) = (KeyPair::generate().unwrap(), CertificateParams::default());
        params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        let since = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        (params.not_before, params.not_after) = (epoch + since(from), epoch + since(until));
        (params.signed_by(&key, &self.issuer).unwrap().der().to_vec(), key.serialize_der())
    }

    /// A leaf of this key with these names, valid for long: DER and PKCS#8 DER.
    pub(crate) fn leaf_for(&self, key: &KeyPair, ids: &[&str]) -> (Vec<u8>, Vec<u8>) {
        let mut params = CertificateParams::default();
        params.subject_alt_names = ids.iter().map(|id| SanType::URI((*id).try_into().unwrap())).collect();
        (params.signed_by(key, &self.issuer).unwrap().der().to_vec(), key.serialize_der())
    }

    /// As the Workload API hands it out.
    pub(crate) fn svid(&self, id: &str, life: Duration) -> X509svidResponse {
        let now = SystemTime::now();
        let (x509_svid, x509_svid_key) = self.leaf_between(id, now - Duration::from_secs(10), now + life);
        let bundle = self.certificate();
        let svid = X509svid { spiffe_id: id.into(), x509_svid, x509_svid_key, bundle, ..X509svid::default() };
        X509svidResponse { svids: vec![svid], ..X509svidResponse::default() }
    }
}

/// An answer with the roots of another one as well.
pub(crate) fn with_roots_of(mut answer: X509svidResponse, other: &Ca) -> X509svidResponse {
    answer.svids[0].bundle.extend(other.certificate());
    answer
}

/// Changes what a source has.
pub(crate) struct Hand(watch::Sender<Option<std::sync::Arc<Svid>>>);

impl Hand {
    pub(crate) fn give(&self, answer: X509svidResponse) {
        self.0.send_replace(Some(std::sync::Arc::new(Svid::from_response(answer, "test").unwrap())));
    }
}

/// Of `spiffe://d/a`, by an authority that trusts itself alone.
pub(crate) fn source() -> Source {
    controlled(Ca::new().svid("spiffe://d/a", Duration::from_hours(1))).0
}

/// A source that has this until it is given something else.
pub(crate) fn controlled(answer: X509svidResponse) -> (Source, Hand) {
    let (sender, current) = watch::channel(None);
    let hand = Hand(sender);
    hand.give(answer);
    (Source::watching(current), hand)
}

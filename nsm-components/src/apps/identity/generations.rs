//! The CAs of one trust domain over time. A new one is made ready in the bundle, then signs; the
//! old one leaves the bundle when nothing that it signed can be valid any more.
//!
//! What is due follows from what is stored and the time alone. So a process that was stopped in
//! any phase goes on where it was, and a phase that passed meanwhile is over.
//!
//! ```text
//!            made          signs_from            next signs      + longest_life
//! old CA  ───────────────────┬───── signs ──────────┬─── in the bundle ───┐
//! new CA                     │      made ── ready ──┴───── signs ─────────┼──
//! ```

use std::time::{Duration, SystemTime};

use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use serde::{Deserialize, Serialize};

use super::{
    bundle::{Bundle, BundleError},
    ca::{Ca, CaError, StoredRoot},
    id::TrustDomain,
    jwt::{JwtError, JwtKey, JwtKeys},
    x509,
};

/// How much longer than a leaf lives each phase lasts: clocks differ, and signing takes a moment.
const MARGIN: Duration = Duration::from_secs(2);

/// Why there is no CA to sign with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GenerationError {
    /// A CA cannot be made or used.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// A key for tokens cannot be made or used.
    #[error(transparent)]
    Jwt(#[from] JwtError),
}

/// How long things live.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lives {
    /// A CA; at half of it the next one is made ready.
    pub(super) ca: Duration,
    /// What it signs, at most; and how long a new CA is in the bundle before it signs. By then
    /// everybody whose SVID is valid has got another one, and the bundle with it.
    pub(super) leaf: Duration,
}

/// One CA as it is kept.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredGeneration {
    /// PKCS#8, PEM. Secret.
    key: String,
    /// PKCS#8, PEM: signs JWT-SVIDs. Secret.
    jwt_key: String,
    /// PEM.
    certificate: String,
    /// Seconds since the epoch.
    signs_from: u64,
    /// The longest life of anything it may have signed, in seconds.
    longest_life: u64,
}

/// All CAs as they are kept, in the order in which they sign.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Stored {
    generations: Vec<StoredGeneration>,
}

/// One CA, ready for use.
#[derive(Debug)]
pub(super) struct Generation {
    pub(super) ca: Ca,
    pub(super) jwt: JwtKey,
    signs_from: u64,
}

/// All CAs, ready for use; at least one.
#[derive(Debug)]
pub(super) struct Generations(Vec<Generation>);

/// Seconds since the epoch.
fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn new_key() -> Result<String, CaError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256);
    Ok(key.map_err(|error| CaError::Rcgen("make a key for tokens", error))?.serialize_pem())
}

// === impl StoredGeneration ===

impl StoredGeneration {
    fn new(domain: &TrustDomain, now: SystemTime, signs_from: u64, lives: Lives) -> Result<Self, CaError> {
        let StoredRoot { key, certificates } = StoredRoot::generate_at(domain, now, lives.ca)?;
        let longest_life = lives.leaf.as_secs();
        Ok(Self { key, jwt_key: new_key()?, certificate: certificates, signs_from, longest_life })
    }

    /// When it was made and when it ends.
    fn validity(&self) -> Result<(u64, u64), CaError> {
        let certificate = CertificateDer::from_pem_slice(self.certificate.as_bytes());
        let certificate = certificate.map_err(BundleError::Pem)?;
        let validity = x509::validity(&certificate)?;
        Ok((seconds(validity.not_before), seconds(validity.not_after)))
    }

    /// When the next one is to be made ready.
    fn middle(&self) -> Result<u64, CaError> {
        let (made, ends) = self.validity()?;
        Ok(u64::midpoint(made, ends))
    }
}

// === impl Stored ===

impl Stored {
    /// Does what is due: makes the first CA, makes the next one ready, lets go of old ones. With
    /// `rotate` the next one is due now.
    pub(super) fn advance(
        &mut self,
        domain: &TrustDomain,
        now: SystemTime,
        lives: Lives,
        rotate: bool,
    ) -> Result<(), CaError> {
        let at = seconds(now);
        self.drop_ended(at)?;
        let signing = self.signing(at);
        let Some(signing) = self.generations.get_mut(signing) else {
            self.generations = vec![StoredGeneration::new(domain, now, at, lives)?];
            return Ok(());
        };
        signing.longest_life = signing.longest_life.max(lives.leaf.as_secs());
        if let Some(newest) = self.generations.last()
            && newest.signs_from <= at
            && (rotate || newest.middle()? <= at)
        {
            let signs_from = at + (lives.leaf + MARGIN).as_secs();
            self.generations.push(StoredGeneration::new(domain, now, signs_from, lives)?);
        }
        Ok(())
    }

    fn drop_ended(&mut self, now: u64) -> Result<(), CaError> {
        let mut kept = Vec::with_capacity(self.generations.len());
        let ends: Vec<_> = (0..self.generations.len()).map(|index| self.leaves(index)).collect();
        for (generation, leaves) in self.generations.drain(..).zip(ends) {
            if generation.validity()?.1 > now && leaves.is_none_or(|leaves| leaves > now) {
                kept.push(generation);
            }
        }
        self.generations = kept;
        Ok(())
    }

    /// Place of the one that signs.
    fn signing(&self, now: u64) -> usize {
        self.generations.iter().rposition(|generation| generation.signs_from <= now).unwrap_or(0)
    }

    /// When one leaves the bundle, if its successor is known.
    fn leaves(&self, index: usize) -> Option<u64> {
        let successor = self.generations.get(index + 1)?;
        Some(successor.signs_from + self.generations.get(index)?.longest_life + MARGIN.as_secs())
    }

    /// When the newest one signs, and when the one before it leaves the bundle.
    pub(super) fn rotation(&self) -> Option<(u64, u64)> {
        let before = self.generations.len().checked_sub(2)?;
        Some((self.generations.last()?.signs_from, self.leaves(before)?))
    }

    /// The next time at which something is due or another one signs.
    pub(super) fn next_change(&self, now: u64) -> Option<u64> {
        let middle = self.generations.last().and_then(|newest| newest.middle().ok());
        let signing = self.generations.iter().map(|generation| generation.signs_from);
        let leaving = (0..self.generations.len()).filter_map(|index| self.leaves(index));
        signing.chain(leaving).chain(middle).filter(|time| *time > now).min()
    }
}

impl std::fmt::Debug for Stored {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stored").field("generations", &self.generations.len()).finish_non_exhaustive()
    }
}

// === impl Generations ===

impl Generations {
    /// Takes over what is stored, if all of it is whole and of this trust domain.
    pub(super) fn open(stored: &Stored, domain: &TrustDomain) -> Result<Self, GenerationError> {
        let open = |stored: &StoredGeneration| {
            let root = StoredRoot { key: stored.key.clone(), certificates: stored.certificate.clone() };
            let (ca, jwt) = (Ca::open(&root, domain)?, JwtKey::open(&stored.jwt_key)?);
            Ok(Generation { ca, jwt, signs_from: stored.signs_from })
        };
        let all: Result<Vec<_>, GenerationError> = stored.generations.iter().map(open).collect();
        let all = all?;
        if all.is_empty() { Err(CaError::Bundle(BundleError::Empty).into()) } else { Ok(Self(all)) }
    }

    /// The one that signs at this time.
    pub(super) fn signing(&self, now: SystemTime) -> Option<&Generation> {
        let now = seconds(now);
        self.0.iter().rfind(|generation| generation.signs_from <= now).or_else(|| self.0.first())
    }

    /// What peers verify with.
    pub(super) fn bundle(&self) -> Option<Bundle> {
        self.0.iter().map(|generation| generation.ca.bundle().clone()).reduce(|all, one| all.union(&one))
    }

    /// What tokens are verified with.
    pub(super) fn jwt_keys(&self, domain: &TrustDomain) -> JwtKeys {
        JwtKeys::new(domain.clone(), self.0.iter().map(|generation| &generation.jwt))
    }
}

#[cfg(test)]
mod tests;

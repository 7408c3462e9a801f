//! WireGuard tunnels: their keys, and what the kernel has to know of one (dataplane §6).

use std::{fmt, net::SocketAddr, str::FromStr};

use aws_lc_rs::{agreement, agreement::X25519, encoding::AsBigEndian, encoding::Curve25519SeedBin};
use base64::{Engine, prelude::BASE64_STANDARD};

/// Bytes of a key.
const KEY: usize = 32;

/// A private key. It is in this process and in the kernel, and nowhere else: it has no text.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PrivateKey([u8; KEY]);

/// A public key; its text is base64, as in the parameters of a mechanism.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PublicKey([u8; KEY]);

/// One end of a tunnel. The device is made in the underlay's namespace, where its UDP socket stays, and born in
/// the pod. All of it can be changed on a device that stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WireguardLink {
    /// Own key.
    pub private: PrivateKey,
    /// Own UDP port, which no other device of the underlay's namespace has.
    pub port: u16,
    /// The only peer, from and to which every address passes.
    pub peer: PublicKey,
    /// Where the peer is, until packets of it come from elsewhere: the kernel follows them.
    pub endpoint: SocketAddr,
}

/// A key could not be made or read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The text of a public key.
    #[error("a WireGuard key is 32 bytes in base64, 44 characters")]
    Text,
    /// The source of randomness, or arithmetic that refuses the key.
    #[error("an X25519 key cannot be made on this machine")]
    Make,
}

// === impl PrivateKey ===

impl PrivateKey {
    /// A new one.
    pub fn generate() -> Result<Self, KeyError> {
        let made = agreement::PrivateKey::generate(&X25519).map_err(|_| KeyError::Make)?;
        let seed: Curve25519SeedBin<'_> = made.as_be_bytes().map_err(|_| KeyError::Make)?;
        seed.as_ref().try_into().map(Self::from_bytes).map_err(|_| KeyError::Make)
    }

    /// From its bytes, with the bits set and cleared that the kernel sets and clears (RFC 7748 §5), so that it
    /// is read back as it was given.
    pub fn from_bytes(mut bytes: [u8; KEY]) -> Self {
        bytes[0] &= 0xf8;
        bytes[KEY - 1] = (bytes[KEY - 1] & 0x7f) | 0x40;
        Self(bytes)
    }

    /// For the kernel alone.
    pub(super) fn bytes(self) -> [u8; KEY] {
        self.0
    }

    /// What peers may know.
    pub fn public(self) -> Result<PublicKey, KeyError> {
        let key = agreement::PrivateKey::from_private_key(&X25519, &self.0).map_err(|_| KeyError::Make)?;
        let public = key.compute_public_key().map_err(|_| KeyError::Make)?;
        public.as_ref().try_into().map(PublicKey).map_err(|_| KeyError::Make)
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(…)")
    }
}

// === impl PublicKey ===

impl PublicKey {
    pub(super) fn from_bytes(bytes: [u8; KEY]) -> Self {
        Self(bytes)
    }

    pub(super) fn bytes(self) -> [u8; KEY] {
        self.0
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let bytes = BASE64_STANDARD.decode(text).map_err(|_| KeyError::Text)?;
        bytes.try_into().map(Self).map_err(|_| KeyError::Text)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64_STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

// === impl WireguardLink ===

impl WireguardLink {
    /// Whether a device that has this needs no change. Where the peer is it finds out itself.
    pub(super) fn is_served_by(&self, observed: &Self) -> bool {
        (self.private, self.port, self.peer) == (observed.private, observed.port, observed.peer)
    }
}

#[cfg(test)]
mod tests;

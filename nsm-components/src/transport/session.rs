//! One TLS connection between two processes: both leaves, and the tokens one gives the other.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use parking_lot::Mutex;
use rustls::pki_types::CertificateDer;
use tonic::metadata::{MetadataMap, MetadataValue};

use super::{CLIENT_TOKEN, CLIENT_TOKEN_EXPIRES, Counts, Error, Source, Svid, issued::Issued, tls, token};
use crate::api::peer::Peer;

/// A token is used again until this part of its life is over: signing costs more than everything
/// else in a Request.
const REUSED_FOR: u32 = 8;

/// Tokens of the peer that are remembered to hold: the newest, and those before it that are still on
/// their way.
const REMEMBERED: usize = 4;
/// Tokens for others that are kept as this connection's peer can judge them.
const KEPT: usize = 64;

/// A token and the end of its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Compact JWS.
    pub text: Arc<str>,
    /// Seconds since the epoch.
    pub expires: i64,
}

/// Both sides of a TLS connection. Tokens are signed by the key of the very certificate the peer
/// saw, so a renewed SVID does not spoil a connection that stands.
#[derive(Debug)]
pub struct Session {
    pub(super) mine: Arc<Svid>,
    /// The other side.
    pub peer: Peer,
    certificate: Vec<u8>,
    established: i64,
    issued: Mutex<Option<(Token, i64)>>,
    /// Tokens that the peer's key signed.
    verified: Mutex<VecDeque<Arc<str>>>,
    /// Tokens of this process for others, as they were and as the peer can judge them.
    shown: Mutex<VecDeque<(Arc<str>, Arc<str>)>>,
    counts: Arc<Counts>,
    given_out: Arc<Issued>,
}

pub(super) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

// === impl Session ===

impl Session {
    /// Between this process and the owner of that leaf.
    pub(super) fn new(
        mine: Arc<Svid>,
        leaf: Option<&CertificateDer<'_>>,
        source: &Source,
    ) -> Result<Self, Error> {
        let leaf = leaf.ok_or(Error::BadCertificate("there is none"))?;
        Ok(Self {
            mine,
            peer: tls::peer(leaf)?,
            certificate: leaf.to_vec(),
            established: now(),
            issued: Mutex::default(),
            verified: Mutex::default(),
            shown: Mutex::default(),
            counts: source.counts().clone(),
            given_out: source.issued().clone(),
        })
    }

    /// The leaf that the peer showed, DER.
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// SPIFFE ID this process showed.
    pub fn own_id(&self) -> &str {
        &self.mine.leaf.id
    }

    /// A token for the peer with at most this life; both leaves limit it (protocol §3.2).
    pub fn token(&self, life: Duration) -> Result<Token, Error> {
        let now = now();
        let seconds = i64::try_from(life.as_secs()).unwrap_or(i64::MAX).max(1);
        let mut issued = self.issued.lock();
        if let Some((token, at)) = issued.as_ref()
            && now - at < seconds / i64::from(REUSED_FOR)
            && token.expires > now
        {
            self.counts.signatures_saved.add();
            return Ok(token.clone());
        }
        let end = now.saturating_add(seconds).min(self.end());
        let claims =
            token::Claims { sub: self.mine.leaf.id.clone(), aud: vec![self.peer.id.clone()], exp: end };
        let token = Token { text: token::sign(&claims, &self.mine.signer)?.into(), expires: end };
        self.counts.signatures.add();
        self.given_out.add(&token.text, &self.mine);
        *issued = Some((token.clone(), now));
        Ok(token)
    }

    /// The token that came with a call. It ends with the leaf that the peer showed, as an honest
    /// peer's does, whatever it says: a connection that nobody refreshes is not kept for longer.
    pub fn received(&self, metadata: &MetadataMap) -> Option<Token> {
        let token = Token::read(metadata)?;
        Some(Token { expires: token.expires.min(self.peer.not_after), ..token })
    }

    /// Whether the key of the certificate that the peer showed here signed this token. One that did is
    /// remembered: the same token comes with many calls. Its end of life is not looked at.
    pub fn verify(&self, text: &str) -> bool {
        if self.verified.lock().iter().any(|known| **known == *text) {
            self.counts.verifications_saved.add();
            return true;
        }
        self.counts.verifications.add();
        if token::verify(text, &self.peer.public_key).is_err() {
            return false;
        }
        let mut verified = self.verified.lock();
        verified.truncate(REMEMBERED - 1);
        verified.push_front(text.into());
        true
    }

    /// A token that this process gave to another peer, so that this one can judge it as well: by the
    /// key of the certificate it saw. After a renewal the two connections may have different keys.
    /// What this process did not give out stays as it is, whatever it says of itself.
    pub fn show(&self, text: &str) -> Result<Arc<str>, Error> {
        if self.given_out.is_signed_by(text, &self.mine) != Some(false) {
            return Ok(text.into());
        }
        let mut shown = self.shown.lock();
        if let Some((_, known)) = shown.iter().find(|(as_it_was, _)| **as_it_was == *text) {
            return Ok(known.clone());
        }
        let Ok(claims) = token::read(text) else { return Ok(text.into()) };
        self.counts.signatures.add();
        let own: Arc<str> = token::sign(&claims, &self.mine.signer)?.into();
        shown.truncate(KEPT - 1);
        shown.push_front((text.into(), own.clone()));
        Ok(own)
    }

    /// Whether half the time that both leaves gave this connection is over: time for a new one.
    pub(super) fn is_stale(&self) -> bool {
        now() > self.established + (self.end() - self.established) / 2
    }

    /// When the first of both leaves ends, in seconds since the epoch.
    pub(super) fn end(&self) -> i64 {
        self.mine.leaf.not_after.min(self.peer.not_after)
    }
}

/// `2026-04-01T10:00:00Z` for seconds since the epoch.
fn rfc3339(seconds: i64) -> String {
    let at = UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    humantime::format_rfc3339(at).to_string()
}

// === impl Token ===

impl Token {
    /// Puts the token into a call's metadata.
    pub fn write(&self, metadata: &mut MetadataMap) {
        if let (Ok(text), Ok(expires)) =
            (MetadataValue::try_from(&*self.text), MetadataValue::try_from(rfc3339(self.expires)))
        {
            metadata.insert(CLIENT_TOKEN, text);
            metadata.insert(CLIENT_TOKEN_EXPIRES, expires);
        }
    }

    /// The token in a call's metadata; each key must be there once.
    pub fn read(metadata: &MetadataMap) -> Option<Self> {
        let one = |key| {
            let mut values = metadata.get_all(key).iter();
            let value = values.next()?.to_str().ok()?;
            values.next().is_none().then_some(value)
        };
        // Offsets are real: peers write their local time zone.
        let expires: jiff::Timestamp = one(CLIENT_TOKEN_EXPIRES)?.parse().ok()?;
        Some(Self { text: one(CLIENT_TOKEN)?.into(), expires: expires.as_second() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::testing::{Ca, controlled};

    #[tokio::test]
    async fn a_token_holds_no_longer_than_the_leaf_of_whoever_brought_it() {
        let (ca, at) = (Ca::new(), SystemTime::now());
        let end = at + Duration::from_mins(1);
        let leaf = CertificateDer::from(ca.leaf_between("spiffe://d/b", at - Duration::from_mins(1), end).0);
        let (source, _hand) = controlled(ca.svid("spiffe://d/a", Duration::from_hours(1)));
        let session = Session::new(source.current().unwrap(), Some(&leaf), &source).unwrap();
        for (life, left) in [(30, 30..=30), (i64::from(u32::MAX), 59..=60)] {
            let mut metadata = MetadataMap::new();
            let start = i64::try_from(at.duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap();
            Token { text: "a.b.c".into(), expires: start + life }.write(&mut metadata);
            let expires = session.received(&metadata).unwrap().expires;
            assert!(left.contains(&(expires - start)), "{life} s: {expires} - {start}");
        }
    }

    #[test]
    fn a_token_is_read_with_any_offset_and_only_when_it_is_there_once() {
        let mut metadata = MetadataMap::new();
        metadata.insert(CLIENT_TOKEN, MetadataValue::from_static("a.b.c"));
        metadata
            .insert(CLIENT_TOKEN_EXPIRES, MetadataValue::from_static("2026-11-23T13:21:18.359564158+09:00"));
        let token = Token::read(&metadata).unwrap();
        assert_eq!(rfc3339(token.expires), "2026-11-23T04:21:18Z");
        metadata.append(CLIENT_TOKEN, MetadataValue::from_static("d.e.f"));
        assert_eq!(Token::read(&metadata), None);
    }

    #[test]
    fn a_written_token_is_read_again() {
        let token = Token { text: "a.b.c".into(), expires: 1_795_000_000 };
        let mut metadata = MetadataMap::new();
        token.write(&mut metadata);
        assert_eq!(Token::read(&metadata), Some(token));
    }
}

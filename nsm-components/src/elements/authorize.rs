//! `authorize`: only who holds the path may use it. Equal in effect to upstream's default policies
//! `tokens_valid`, `tokens_expired`, `tokens_chained` and `prev_token_signed` (protocol §3.3).
//!
//! It stands before the session: a refused Request leaves nothing. A Close is taken with expired
//! tokens too, or what expired could never be closed.

use async_trait::async_trait;

use crate::{
    api::{peer::Peer, trust::Trust},
    chain::{Clock, Cx, Element, Error, Kind, Next, Reply, Request, Result},
    transport::token::{self, Claims},
};

/// See the module.
pub struct Authorize {
    clock: Clock,
    only: Option<Trust>,
}

/// What the tokens on the way to this process must show.
#[derive(Clone, Copy)]
pub(super) struct Judge<'a> {
    /// Seconds since the epoch; absent when expired tokens will do.
    pub now: Option<f64>,
    /// The process that called.
    pub peer: &'a Peer,
}

fn denied(what: impl std::fmt::Display) -> Error {
    Error::new(Kind::Denied, format_args!("no sufficient privileges: {what}"))
}

impl Judge<'_> {
    /// Judges the tokens of all segments up to this process's own, which is the last; the one
    /// before it is the caller's.
    pub(in crate::elements) fn check(self, tokens: &[&str]) -> Result<()> {
        let previous =
            tokens.len().checked_sub(2).ok_or_else(|| denied("the path has no previous segment"))?;
        let mut claims: Vec<Claims> = Vec::with_capacity(tokens.len());
        for (index, text) in tokens.iter().enumerate() {
            let read = if index == previous {
                token::verify(text, &self.peer.public_key)
            } else {
                token::read(text)
            };
            let read = read
                .map_err(|why| denied(format_args!("the token of segment {index} does not hold: {why}")))?;
            #[allow(clippy::cast_precision_loss)] // exact until the year 285,000,000
            if self.now.is_some_and(|now| now >= read.exp as f64) {
                return Err(denied(format_args!("the token of segment {index}, of {}, expired", read.sub)));
            }
            if index == previous && read.sub != self.peer.id {
                return Err(denied(format_args!("{} brought a token of {}", self.peer.id, read.sub)));
            }
            claims.push(read);
        }
        for (index, pair) in claims.windows(2).enumerate() {
            if !pair[0].aud.contains(&pair[1].sub) {
                let message = format_args!(
                    "the token of segment {index} is for {}, not for {}",
                    pair[0].aud.join(","),
                    pair[1].sub
                );
                return Err(denied(message));
            }
        }
        Ok(())
    }
}

impl Authorize {
    /// Judges tokens by this clock.
    pub fn new(clock: Clock) -> Self {
        Self { clock, only: None }
    }

    /// The same, and lets only processes of the mesh call.
    pub fn mesh_only(clock: Clock, trust: Trust) -> Self {
        Self { clock, only: Some(trust) }
    }

    fn check(&self, cx: &Cx, request: &Request, expired_too: bool) -> Result<()> {
        let Some(caller) = &cx.caller else { return Ok(()) };
        if self.only.as_ref().is_some_and(|trust| !trust.trusts(&caller.peer.id)) {
            return Err(denied(format_args!("{} is no process of the mesh", caller.peer.id)));
        }
        let path = request.connection.path.as_ref().ok_or_else(|| denied("there is no path"))?;
        let own = path.index as usize;
        let tokens: Vec<&str> =
            path.path_segments.iter().take(own + 1).map(|segment| segment.token.as_str()).collect();
        let now = (!expired_too).then(|| self.clock.seconds());
        Judge { now, peer: &caller.peer }.check(&tokens)
    }
}

#[async_trait]
impl Element for Authorize {
    fn name(&self) -> &'static str {
        "authorize"
    }

    async fn request(&self, cx: &Cx, request: Request, next: Next<'_>) -> Result<Reply> {
        self.check(cx, &request, false)?;
        next.request(cx, request).await
    }

    async fn close(&self, cx: &Cx, request: Request, next: Next<'_>) -> Result<()> {
        self.check(cx, &request, true)?;
        next.close(cx, request).await
    }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{Algorithm, EncodingKey, Header};
    use rcgen::{KeyPair, PublicKeyData};

    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn token(key: &KeyPair, sub: &str, aud: &str, exp: i64) -> String {
        let claims = Claims { sub: sub.into(), aud: vec![aud.into()], exp };
        let key = EncodingKey::from_ec_der(&key.serialize_der());
        jsonwebtoken::encode(&Header::new(Algorithm::ES256), &claims, &key).unwrap()
    }

    /// nsc → nsmgr → forwarder, judged at the forwarder.
    fn peer(id: &str, key: &KeyPair) -> Peer {
        Peer { id: id.into(), public_key: key.der_bytes().to_vec(), not_after: i64::MAX }
    }

    fn judge(tokens: [&str; 3], key: &KeyPair, now: Option<i64>) -> Result<()> {
        #[allow(clippy::cast_precision_loss)]
        let now = now.map(|now| now as f64);
        Judge { now, peer: &peer("nsmgr", key) }.check(&tokens)
    }

    fn refused(result: Result<()>, why: &str) {
        let error = result.unwrap_err();
        assert_eq!(error.kind, Kind::Denied);
        assert!(error.message.contains(why), "{why} in {}", error.message);
    }

    #[test]
    fn a_whole_chain_of_tokens_is_let_through_and_each_break_is_refused() {
        let [nsc, nsmgr, forwarder] = [(); 3].map(|()| KeyPair::generate().unwrap());
        let first = token(&nsc, "nsc", "nsmgr", NOW + 60);
        let second = token(&nsmgr, "nsmgr", "forwarder", NOW + 60);
        let third = token(&forwarder, "forwarder", "nsmgr", NOW + 60);
        let whole = [first.as_str(), &second, &third];
        judge(whole, &nsmgr, Some(NOW)).unwrap();
        refused(judge(whole, &nsc, Some(NOW)), "not signed by the peer");
        refused(judge(whole, &nsmgr, Some(NOW + 60)), "expired");
        refused(judge([&first, &second, "x"], &nsmgr, Some(NOW)), "not readable");
        let stranger = token(&nsmgr, "stranger", "forwarder", NOW + 60);
        refused(judge([&first, &stranger, &third], &nsmgr, Some(NOW)), "nsmgr brought a token of stranger");
        let elsewhere = token(&nsc, "nsc", "elsewhere", NOW + 60);
        refused(judge([&elsewhere, &second, &third], &nsmgr, Some(NOW)), "is for elsewhere, not for nsmgr");
    }

    #[test]
    fn a_close_is_taken_with_expired_tokens() {
        let [nsc, nsmgr] = [(); 2].map(|()| KeyPair::generate().unwrap());
        let first = token(&nsc, "nsc", "nsmgr", NOW - 60);
        let second = token(&nsmgr, "nsmgr", "nsc", NOW - 60);
        Judge { now: None, peer: &peer("nsc", &nsc) }.check(&[&first, &second]).unwrap();
    }

    #[test]
    fn a_request_that_claims_to_come_from_nobody_is_refused() {
        let key = KeyPair::generate().unwrap();
        let own = token(&key, "nsmgr", "nsc", NOW + 60);
        refused(Judge { now: None, peer: &peer("nsc", &key) }.check(&[&own]), "no previous segment");
        refused(Judge { now: None, peer: &peer("nsc", &key) }.check(&[]), "no previous segment");
    }
}

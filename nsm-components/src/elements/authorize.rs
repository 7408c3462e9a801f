//! `authorize`: only who holds the path may use it. Equal in effect to upstream's default policies
//! `tokens_valid`, `tokens_expired`, `tokens_chained` and `prev_token_signed` (protocol §3.3).
//!
//! It stands before the session: a refused Request leaves nothing. A Close is taken with expired
//! tokens too, or what expired could never be closed.

use async_trait::async_trait;

use super::opa::{self, Policies};
use crate::{
    api::{Path, trust::Trust},
    chain::{Caller, Clock, Cx, Element, Error, Kind, Next, Reply, Request, Result},
    transport::token::{self, Claims, Refusal},
};

/// See the module.
pub struct Authorize {
    clock: Clock,
    only: Option<Trust>,
    policies: Policies,
}

/// What the tokens on the way to this process must show.
#[derive(Clone, Copy)]
pub(super) struct Judge<'a> {
    /// Seconds since the epoch; absent when expired tokens will do.
    pub now: Option<f64>,
    /// The process that called.
    pub caller: &'a Caller,
}

fn denied(what: impl std::fmt::Display) -> Error {
    Error::new(Kind::Denied, format_args!("no sufficient privileges: {what}"))
}

impl Judge<'_> {
    /// Judges the tokens of all segments before this process's own; the last of them is the caller's.
    pub(in crate::elements) fn check(self, tokens: &[&str]) -> Result<()> {
        let previous =
            tokens.len().checked_sub(1).ok_or_else(|| denied("the path has no previous segment"))?;
        let mut claims: Vec<Claims> = Vec::with_capacity(tokens.len());
        for (index, text) in tokens.iter().enumerate() {
            let read = token::read(text);
            // The others were judged by those they were shown to.
            let read = read.and_then(|claims| {
                let signed = index < previous || self.caller.link.is_signed(text);
                if signed { Ok(claims) } else { Err(Refusal::Signature) }
            });
            let read = read
                .map_err(|why| denied(format_args!("the token of segment {index} does not hold: {why}")))?;
            #[allow(clippy::cast_precision_loss)] // exact until the year 285,000,000
            if self.now.is_some_and(|now| now >= read.exp as f64) {
                return Err(denied(format_args!("the token of segment {index}, of {}, expired", read.sub)));
            }
            let peer = &self.caller.peer.id;
            if index == previous && read.sub != *peer {
                return Err(denied(format_args!("{peer} brought a token of {}", read.sub)));
            }
            claims.push(read);
        }
        let own = self.caller.link.own_id();
        let holders = claims.iter().skip(1).map(|claims| claims.sub.as_str()).chain([own]);
        for (index, (claims, holder)) in claims.iter().zip(holders).enumerate() {
            if !claims.aud.iter().any(|aud| aud == holder) {
                let aud = claims.aud.join(",");
                let message = format_args!("the token of segment {index} is for {aud}, not for {holder}");
                return Err(denied(message));
            }
        }
        Ok(())
    }
}

impl Authorize {
    /// Judges tokens by this clock.
    pub fn new(clock: Clock) -> Self {
        Self { clock, only: None, policies: Policies::default() }
    }

    /// The same, and lets only processes of the mesh call.
    pub fn mesh_only(clock: Clock, trust: Trust) -> Self {
        Self { clock, only: Some(trust), policies: Policies::default() }
    }

    /// The same, and these policies must agree.
    #[must_use]
    pub fn with(self, policies: Policies) -> Self {
        Self { policies, ..self }
    }

    async fn check(&self, cx: &Cx, request: &Request, expired_too: bool) -> Result<()> {
        let Some(caller) = &cx.caller else { return Ok(()) };
        if self.only.as_ref().is_some_and(|trust| !trust.trusts(&caller.peer.id)) {
            return Err(denied(format_args!("{} is no process of the mesh", caller.peer.id)));
        }
        let path = request.connection.path.as_ref().ok_or_else(|| denied("there is no path"))?;
        let own = path.index as usize;
        if own >= path.path_segments.len() {
            return Err(denied(format_args!("the path has no segment {own}")));
        }
        let tokens: Vec<&str> =
            path.path_segments.iter().take(own).map(|segment| segment.token.as_str()).collect();
        let now = (!expired_too).then(|| self.clock.seconds());
        Judge { now, caller }.check(&tokens)?;
        if self.policies.is_empty() {
            return Ok(());
        }
        self.policies.judge(input(caller, path)?).await
    }
}

/// What policies judge: the path up to this process, with its own token, and who called.
fn input(caller: &Caller, path: &Path) -> Result<serde_json::Value> {
    let own = path.index as usize;
    let mut segments: Vec<_> = path.path_segments.iter().take(own + 1).cloned().collect();
    if let Some(last) = segments.last_mut() {
        last.token = caller.link.own_token()?.0.to_string();
    }
    Ok(opa::path(own, &segments, caller.link.certificate()))
}

#[async_trait]
impl Element for Authorize {
    fn name(&self) -> &'static str {
        "authorize"
    }

    async fn request(&self, cx: &Cx, request: Request, next: Next<'_>) -> Result<Reply> {
        self.check(cx, &request, false).await?;
        next.request(cx, request).await
    }

    async fn close(&self, cx: &Cx, request: Request, next: Next<'_>) -> Result<()> {
        self.check(cx, &request, true).await?;
        next.close(cx, request).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rcgen::{KeyPair, PublicKeyData};

    use super::*;
    use crate::{
        api::peer::Peer,
        elements::testing::{KeyOf, token},
    };

    const NOW: i64 = 1_800_000_000;

    fn caller(id: &str, key: &KeyPair) -> Caller {
        let peer = Peer { id: id.into(), public_key: Vec::new(), not_after: i64::MAX };
        Caller { link: Arc::new(KeyOf("forwarder", key.der_bytes().to_vec())), ..Caller::test(peer) }
    }

    /// nsc → nsmgr → forwarder, judged at the forwarder.
    fn judge(tokens: [&str; 2], key: &KeyPair, now: Option<i64>) -> Result<()> {
        #[allow(clippy::cast_precision_loss)]
        let now = now.map(|now| now as f64);
        Judge { now, caller: &caller("nsmgr", key) }.check(&tokens)
    }

    fn refused(result: Result<()>, why: &str) {
        let error = result.unwrap_err();
        assert_eq!(error.kind, Kind::Denied);
        assert!(error.message.contains(why), "{why} in {}", error.message);
    }

    #[test]
    fn a_whole_chain_of_tokens_is_let_through_and_each_break_is_refused() {
        let [nsc, nsmgr] = [(); 2].map(|()| KeyPair::generate().unwrap());
        let first = token(&nsc, "nsc", "nsmgr", NOW + 60);
        let second = token(&nsmgr, "nsmgr", "forwarder", NOW + 60);
        let whole = [first.as_str(), &second];
        judge(whole, &nsmgr, Some(NOW)).unwrap();
        refused(judge(whole, &nsc, Some(NOW)), "not signed by the peer");
        refused(judge(whole, &nsmgr, Some(NOW + 60)), "expired");
        refused(judge(["x", &second], &nsmgr, Some(NOW)), "not readable");
        let stranger = token(&nsmgr, "stranger", "forwarder", NOW + 60);
        refused(judge([&first, &stranger], &nsmgr, Some(NOW)), "nsmgr brought a token of stranger");
        let elsewhere = token(&nsc, "nsc", "elsewhere", NOW + 60);
        refused(judge([&elsewhere, &second], &nsmgr, Some(NOW)), "is for elsewhere, not for nsmgr");
        let replayed = token(&nsmgr, "nsmgr", "another-forwarder", NOW + 60);
        refused(judge([&first, &replayed], &nsmgr, Some(NOW)), "is for another-forwarder, not for forwarder");
    }

    #[test]
    fn a_close_is_taken_with_expired_tokens() {
        let key = KeyPair::generate().unwrap();
        let token = token(&key, "nsmgr", "forwarder", NOW - 60);
        Judge { now: None, caller: &caller("nsmgr", &key) }.check(&[&token]).unwrap();
    }

    #[test]
    fn a_request_that_claims_to_come_from_nobody_is_refused() {
        let key = KeyPair::generate().unwrap();
        refused(Judge { now: None, caller: &caller("nsc", &key) }.check(&[]), "no previous segment");
    }
}

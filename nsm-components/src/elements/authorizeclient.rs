//! `authorize` of clients: the answer must come along the path it shows. Equal in effect to
//! upstream's default policies `tokens_valid`, `tokens_expired`, `tokens_chained` and
//! `next_token_signed` (protocol §3.3, §3.4). Users' policies judge what these let through. A Close is
//! the client's own and asked of none: one that could not end would only wait for its tokens.

use std::sync::Arc;

use async_trait::async_trait;
use tracing::{debug, warn};

use super::opa::{self, Policies};
use crate::{
    api::{Connection, peer::Peer},
    chain::{Clock, Cx, Element, Error, Kind, Link, Next, Reply, Request, Result},
    transport::{Channels, token},
};

/// See the module. It stands right before `connect`.
pub struct AuthorizeClient {
    clock: Clock,
    channels: Channels,
    policies: Policies,
}

/// Why an answer is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Doubt {
    /// Another key signed it than the one of the server's certificate: it may have a new one.
    Key(String),
    /// Anything else.
    Other(String),
}

/// Judges all tokens of an answer from `server`, on this connection, to the process at the path's index.
fn check(answer: &Connection, server: &Peer, link: &dyn Link, now: f64) -> std::result::Result<(), Doubt> {
    let other = |what: String| Doubt::Other(what);
    let next = answer.path.as_ref().map_or(0, |path| path.index as usize) + 1;
    let mut claims: Vec<token::Claims> = Vec::new();
    for (index, segment) in answer.segments().iter().enumerate() {
        let read = token::read(&segment.token)
            .map_err(|why| other(format!("the token of segment {index} does not hold: {why}")))?;
        #[allow(clippy::cast_precision_loss)] // exact until the year 285,000,000
        if now >= read.exp as f64 {
            return Err(other(format!("the token of segment {index}, of {}, expired", read.sub)));
        }
        claims.push(read);
    }
    let of_server = claims.get(next).ok_or_else(|| other("the path has no next segment".to_owned()))?;
    if of_server.sub != server.id {
        return Err(other(format!("{} answered with a token of {}", server.id, of_server.sub)));
    }
    for (index, pair) in claims.windows(2).enumerate() {
        if !pair[0].aud.contains(&pair[1].sub) {
            let audience = pair[0].aud.join(",");
            return Err(other(format!(
                "the token of segment {index} is for {audience}, not for {}",
                pair[1].sub
            )));
        }
    }
    if link.is_signed(&answer.segments()[next].token) {
        return Ok(());
    }
    Err(Doubt::Key(format!("the token of {} is not signed by the key it showed", server.id)))
}

fn denied(doubt: Doubt) -> Error {
    let (Doubt::Key(why) | Doubt::Other(why)) = doubt;
    Error::new(Kind::Denied, format_args!("no sufficient privileges: {why}"))
}

/// Who answered last.
fn server(cx: &Cx) -> std::result::Result<(Peer, Arc<dyn Link>), Doubt> {
    let server = cx.memory.with(|memory| memory.server.clone());
    server.ok_or_else(|| Doubt::Other("nobody has answered".to_owned()))
}

impl AuthorizeClient {
    /// Judges tokens by this clock; `channels` are those of `connect`.
    pub fn new(clock: Clock, channels: Channels) -> Self {
        Self { clock, channels, policies: Policies::default() }
    }

    /// The same, and these policies must agree.
    #[must_use]
    pub fn with(self, policies: Policies) -> Self {
        Self { policies, ..self }
    }

    fn check(&self, cx: &Cx, answer: &Connection) -> std::result::Result<(), Doubt> {
        let (server, link) = server(cx)?;
        check(answer, &server, &*link, self.clock.seconds())
    }

    /// What users' policies say of an answer that holds.
    async fn judge(&self, cx: &Cx, answer: &Connection) -> Result<()> {
        let path = answer.path.as_ref().filter(|_| !self.policies.is_empty());
        let Some(path) = path else { return Ok(()) };
        let (_, link) = server(cx).map_err(denied)?;
        let input = opa::path(path.index as usize, &path.path_segments, link.certificate());
        self.policies.judge(input).await
    }

    /// Asks once more over a new connection, on which the server shows the certificate it has now.
    async fn ask_again(&self, cx: &Cx, request: Request, next: Next<'_>) -> Result<Reply> {
        if let Some(address) = &cx.next_hop
            && let Ok(channel) = self.channels.get(address).await
        {
            debug!(%address, "signed by another key than the one that was shown: asking again");
            self.channels.discard(address, &channel);
        }
        next.request(cx, request).await
    }
}

#[async_trait]
impl Element for AuthorizeClient {
    fn name(&self) -> &'static str {
        "authorize"
    }

    async fn request(&self, cx: &Cx, request: Request, next: Next<'_>) -> Result<Reply> {
        let is_first = request.connection.segments().len() <= 1;
        let mut reply = next.request(cx, request.clone()).await?;
        let mut checked = self.check(cx, &reply.connection);
        if matches!(checked, Err(Doubt::Key(_))) {
            reply = self.ask_again(cx, request, next).await?;
            checked = self.check(cx, &reply.connection);
        }
        let judged = match checked {
            Ok(()) => self.judge(cx, &reply.connection).await,
            Err(doubt) => Err(denied(doubt)),
        };
        let Err(refused) = judged else { return Ok(reply) };
        if is_first {
            let Reply { connection, files } = reply;
            let undo = Request { connection, files, ..Request::default() };
            if let Err(error) = next.close(&cx.undo(), undo).await {
                warn!(%error, "could not close what was answered wrongly");
            }
        }
        Err(refused)
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{KeyPair, PublicKeyData};

    use super::*;
    use crate::{
        api::{Path, PathSegment},
        elements::testing::{KeyOf, token},
    };

    const NOW: i64 = 1_795_000_000;

    fn answer(tokens: &[&str]) -> Connection {
        let segment = |token: &&str| PathSegment { token: (*token).into(), ..Default::default() };
        let path_segments = tokens.iter().map(segment).collect();
        Connection { path: Some(Path { index: 0, path_segments }), ..Connection::default() }
    }

    #[test]
    fn an_answer_along_its_path_is_taken_and_each_break_is_refused() {
        let [nsc, nsmgr, nse] = [(); 3].map(|()| KeyPair::generate().unwrap());
        let server = Peer { id: "nsmgr".into(), public_key: Vec::new(), not_after: 0 };
        let first = token(&nsc, "nsc", "nsmgr", NOW + 60);
        let second = token(&nsmgr, "nsmgr", "nse", NOW + 60);
        let last = token(&nse, "nse", "nsmgr", NOW + 60);
        #[allow(clippy::cast_precision_loss)]
        let judge = |tokens: &[&str], key: &KeyPair, now: i64| {
            check(&answer(tokens), &server, &KeyOf("nsc", key.der_bytes().into()), now as f64)
        };
        judge(&[&first, &second, &last], &nsmgr, NOW).unwrap();
        assert!(matches!(judge(&[&first, &second, &last], &nse, NOW), Err(Doubt::Key(_))));
        let refused = |tokens: &[&str], now: i64, why: &str| match judge(tokens, &nsmgr, now) {
            Err(Doubt::Other(text)) => assert!(text.contains(why), "{why} in {text}"),
            other => panic!("{why}: {other:?}"),
        };
        refused(&[&first, &second, &last], NOW + 60, "expired");
        refused(&[&first], NOW, "no next segment");
        refused(&[&first, &second, ""], NOW, "does not hold");
        let stranger = token(&nsmgr, "stranger", "nse", NOW + 60);
        refused(&[&first, &stranger, &last], NOW, "nsmgr answered with a token of stranger");
        let elsewhere = token(&nsmgr, "nsmgr", "elsewhere", NOW + 60);
        refused(&[&first, &elsewhere, &last], NOW, "is for elsewhere, not for nse");
    }
}

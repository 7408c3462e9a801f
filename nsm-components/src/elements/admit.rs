//! `admit`: a bound on the Requests a process works on at once, with turns for its callers. It stands
//! first, before anything costs. Close and Monitor are never held up by it.
//!
//! A process of the mesh asks for many; its Requests count as those of the client they began with.

use std::sync::Arc;

use async_trait::async_trait;

use super::access::client;
use crate::{
    api::{Counter, trust::Trust},
    chain::{Caller, Cx, Element, Error, Kind, Next, Reply, Request, Result},
    daemon::{Admission, Refusal},
};

/// How Requests ended: those that were answered, and the others by kind.
#[derive(Debug, Default)]
pub struct Outcomes([Counter; RESULTS.len()]);

/// Names of outcomes.
const RESULTS: [&str; 10] = [
    "ok",
    "invalid",
    "denied",
    "not_found",
    "taken",
    "exhausted",
    "unavailable",
    "deadline",
    "internal",
    "gone",
];

impl Outcomes {
    fn count(&self, result: &Result<Reply>) {
        let at = match result.as_ref().map_err(|error| error.kind) {
            Ok(_) => 0,
            Err(Kind::Invalid) => 1,
            Err(Kind::Denied) => 2,
            Err(Kind::NotFound) => 3,
            Err(Kind::Taken) => 4,
            Err(Kind::Exhausted) => 5,
            Err(Kind::Unavailable) => 6,
            Err(Kind::Deadline) => 7,
            Err(Kind::Internal) => 8,
            Err(Kind::Gone) => 9,
        };
        self.0[at].add();
    }

    /// How many ended in each way, by its name.
    pub fn read(&self) -> Vec<(&'static str, u64)> {
        RESULTS.iter().copied().zip(self.0.iter().map(Counter::get)).collect()
    }
}

/// See the module.
#[derive(Debug)]
pub struct Admit {
    admission: Arc<Admission>,
    trust: Trust,
    outcomes: Arc<Outcomes>,
}

impl Admit {
    /// Lets Requests in as `admission` says. Who is trusted is believed whose Request it passes on.
    /// How they end is counted there.
    pub fn new(admission: Arc<Admission>, trust: Trust, outcomes: Arc<Outcomes>) -> Self {
        Self { admission, trust, outcomes }
    }

    /// Whose turn it is: the current segment is still the caller's own here, what counts is before.
    fn client(&self, caller: &Caller, request: &Request) -> String {
        let before = request.connection.path.as_ref().map_or(0, |path| path.index as usize);
        client(&self.trust, &caller.peer.id, &request.connection, before)
    }
}

fn refused(refusal: &Refusal) -> Error {
    let kind = match refusal {
        Refusal::Full { .. } | Refusal::Share { .. } => Kind::Exhausted,
        Refusal::Late { .. } => Kind::Deadline,
        Refusal::Stopping => Kind::Unavailable,
    };
    Error::new(kind, refusal)
}

#[async_trait]
impl Element for Admit {
    fn name(&self) -> &'static str {
        "admit"
    }

    async fn request(&self, cx: &Cx, request: Request, next: Next<'_>) -> Result<Reply> {
        let result = self.admit(cx, request, next).await;
        self.outcomes.count(&result);
        result
    }
}

impl Admit {
    async fn admit(&self, cx: &Cx, request: Request, next: Next<'_>) -> Result<Reply> {
        let Some(caller) = &cx.caller else { return next.request(cx, request).await };
        let level = request.connection.path.as_ref().map_or(0, |path| path.index as usize);
        let place = self.admission.enter(&self.client(caller, &request), level, cx.deadline).await;
        let place = place.map_err(|refusal| refused(&refusal))?;
        // It goes along: a Request whose caller went away is still worked on.
        next.request(&Cx { place: Some(Arc::new(place)), ..cx.clone() }, request).await
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::Notify;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{
        api::{Connection, peer::Peer},
        chain::{Chain, Policy, Session, SystemClock},
        daemon::Load,
        elements::testing::Slow,
    };

    struct Process {
        admission: Arc<Admission>,
        chain: Chain,
        answer: Arc<Notify>,
    }

    fn process(limit: usize) -> Process {
        let admission = Admission::new(limit, CancellationToken::new());
        let answer = Arc::new(Notify::new());
        let inner = Chain::new([Arc::new(Slow(answer.clone())) as Arc<dyn Element>]);
        let admit = Admit::new(admission.clone(), Trust::Prefixes(Vec::new()), Arc::default());
        let session = Session::new(inner, Policy::Expire, Arc::new(SystemClock));
        let chain = Chain::new([Arc::new(admit) as Arc<dyn Element>, Arc::new(session)]);
        Process { admission, chain, answer }
    }

    fn cx(id: &str, limit: Duration) -> Cx {
        let peer = Peer { id: id.into(), public_key: Vec::new(), not_after: 0 };
        Cx { caller: Some(Arc::new(Caller::test(peer))), ..Cx::within(limit) }
    }

    fn request(id: &str) -> Request {
        Request { connection: Connection { id: id.into(), ..Default::default() }, ..Default::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_keeps_its_place_when_its_caller_goes_away_and_gives_it_back_when_it_is_done() {
        let Process { admission, chain, answer } = process(1);
        let second = Duration::from_secs(1);
        let gone = chain.start().request(&cx("a", second), request("1")).await.unwrap_err();
        assert_eq!((gone.kind, admission.load().running), (Kind::Deadline, 1));
        let late = chain.start().request(&cx("b", second), request("2")).await.unwrap_err();
        assert!(late.message.contains("NSM_MAX_REQUESTS_IN_FLIGHT=1"), "{late}");
        answer.notify_one();
        while admission.load().running > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        answer.notify_one();
        chain.start().request(&cx("b", second), request("3")).await.unwrap();
        assert_eq!(admission.load(), Load { refused: 1, ..Load::default() });
    }

    #[tokio::test(start_paused = true)]
    async fn a_close_goes_through_however_many_requests_wait() {
        let Process { admission, chain, .. } = process(1);
        let limit = Duration::from_secs(5);
        let (one, two) = (cx("a", limit), cx("a", limit));
        let mut held = Box::pin(chain.start().request(&one, request("1")));
        let mut waits = Box::pin(chain.start().request(&two, request("2")));
        assert!(futures::poll!(&mut held).is_pending());
        assert!(futures::poll!(&mut waits).is_pending());
        assert_eq!(admission.load().waiting, 1);
        chain.start().close(&cx("b", limit), request("3")).await.unwrap();
    }

    #[test]
    fn what_a_process_of_the_mesh_passes_on_counts_as_its_clients_and_nobody_elses_word_does() {
        let key = rcgen::KeyPair::generate().unwrap().serialize_der();
        let key = jsonwebtoken::EncodingKey::from_ec_der(&key);
        let segment = |sub: &str| {
            let claims = serde_json::json!({"sub": sub, "aud": ["x"], "exp": 1});
            let header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::ES256);
            let token = jsonwebtoken::encode(&header, &claims, &key).unwrap();
            crate::api::PathSegment { token, ..Default::default() }
        };
        let way = |ids: &[&str]| {
            let path_segments =
                ids.iter().map(|id| segment(id)).chain([crate::api::PathSegment::default()]).collect();
            let index = u32::try_from(ids.len()).unwrap();
            let mut request = request("1");
            request.connection.path = Some(crate::api::Path { index, path_segments });
            request
        };
        let trust = Trust::Prefixes(vec!["spiffe://d/mesh/".into()]);
        let admit = Admit::new(Admission::new(1, CancellationToken::new()), trust, Arc::default());
        let client =
            |id: &str, ids: &[&str]| admit.client(cx(id, Duration::ZERO).caller.as_ref().unwrap(), &way(ids));
        assert_eq!(client("spiffe://d/mesh/nsmgr", &["spiffe://d/client"]), "spiffe://d/client");
        assert_eq!(client("spiffe://d/pod", &["spiffe://d/client"]), "spiffe://d/pod");
        // Who forges a client before itself takes its own places.
        let forged = ["spiffe://d/victim", "spiffe://d/rogue", "spiffe://d/mesh/nsmgr"];
        assert_eq!(client("spiffe://d/mesh/forwarder", &forged), "spiffe://d/rogue");
    }
}

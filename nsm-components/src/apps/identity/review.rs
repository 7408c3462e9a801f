//! Which agent a token belongs to: TokenReview, and what has to be in its answer.

use std::{collections::HashMap, time::Duration};

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::{Api, Client, api::PostParams};
use parking_lot::Mutex;
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};

use crate::{api::names, settings::ObjectRef};

/// Reviews at one time: whoever reaches the port may ask for one, and the API server pays.
const REVIEWS: usize = 32;

const PATIENCE: Duration = Duration::from_secs(5);

/// How long a yes is remembered: all pods of a node renew with the same token. That the agent's pod
/// still lives is looked up each time, so this only outlasts the end of the token itself.
const REMEMBERED: Duration = Duration::from_mins(5);

/// Yeses remembered: one or two for each node.
const MEMORY: usize = 16_384;

/// Keys that the API server adds for a token that is bound to a pod.
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";

/// Why a token is not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReviewError {
    #[error("cannot ask the API server about the token")]
    Api(#[source] kube::Error),
    #[error("the API server did not answer about the token in {PATIENCE:?}")]
    Slow,
    #[error("the token is not valid for {audience}: {0}", audience = names::AUTHORITY_AUDIENCE)]
    NotValid(String),
    #[error("the token is of {0}, which is no agent")]
    OtherAccount(String),
    #[error("the token is not bound to a pod on a node: mount it as a projected volume")]
    NotBound,
}

/// What a token says of the agent that holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Agent {
    pub(super) pod_uid: String,
    pub(super) node: String,
}

/// Asks the API server about tokens.
pub(super) struct Reviewer {
    client: Client,
    account: ObjectRef,
    permits: Semaphore,
    /// Token to its agent, and when that was. Never shown.
    known: Mutex<HashMap<String, (Agent, Instant)>>,
}

impl Reviewer {
    /// Takes tokens of this account alone.
    pub(super) fn new(client: Client, account: ObjectRef) -> Self {
        Self { client, account, permits: Semaphore::new(REVIEWS), known: Mutex::default() }
    }

    /// The agent that holds this token.
    pub(super) async fn review(&self, token: &str) -> Result<Agent, ReviewError> {
        if let Some((agent, since)) = self.known.lock().get(token)
            && since.elapsed() < REMEMBERED
        {
            return Ok(agent.clone());
        }
        let agent = self.ask(token).await?;
        let mut known = self.known.lock();
        if known.len() >= MEMORY {
            known.retain(|_, (_, since)| since.elapsed() < REMEMBERED);
        }
        if known.len() < MEMORY {
            known.insert(token.to_owned(), (agent.clone(), Instant::now()));
        }
        Ok(agent)
    }

    async fn ask(&self, token: &str) -> Result<Agent, ReviewError> {
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: Some(token.to_owned()),
                audiences: Some(vec![names::AUTHORITY_AUDIENCE.to_owned()]),
            },
            ..TokenReview::default()
        };
        let api: Api<TokenReview> = Api::all(self.client.clone());
        let answer = timeout(PATIENCE, async {
            let _permit = self.permits.acquire().await;
            api.create(&PostParams::default(), &review).await
        });
        let answer = answer.await.map_err(|_| ReviewError::Slow)?.map_err(ReviewError::Api)?;
        judge(answer.status.unwrap_or_default(), &self.account)
    }
}

/// The agent, if the answer names one. An API server that does not know audiences leaves them out:
/// its yes is about another audience.
fn judge(status: TokenReviewStatus, account: &ObjectRef) -> Result<Agent, ReviewError> {
    let ours = |audiences: Vec<String>| audiences.iter().any(|name| name == names::AUTHORITY_AUDIENCE);
    if status.authenticated != Some(true) || !status.audiences.is_some_and(ours) {
        return Err(ReviewError::NotValid(status.error.unwrap_or_else(|| "not authenticated".to_owned())));
    }
    let user = status.user.unwrap_or_default();
    let username = user.username.unwrap_or_default();
    if username != format!("system:serviceaccount:{}:{}", account.namespace, account.name) {
        return Err(ReviewError::OtherAccount(username));
    }
    let extra = user.extra.unwrap_or_default();
    let one = |key: &str| match extra.get(key).map(Vec::as_slice) {
        Some([value]) if !value.is_empty() => Ok(value.clone()),
        _ => Err(ReviewError::NotBound),
    };
    Ok(Agent { pod_uid: one(POD_UID)?, node: one(NODE_NAME)? })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    type Change = fn(&mut Value);

    fn judged(change: impl FnOnce(&mut Value)) -> Result<Agent, ReviewError> {
        let mut status = json!({
            "authenticated": true,
            "audiences": ["nsm-identity"],
            "user": {
                "username": "system:serviceaccount:nsm-system:nsm-identity-agent",
                "extra": { NODE_NAME: ["node1"], POD_UID: ["u-1"] },
            },
        });
        change(&mut status);
        let account = ObjectRef { namespace: "nsm-system".into(), name: "nsm-identity-agent".into() };
        judge(serde_json::from_value(status).unwrap(), &account)
    }

    #[test]
    fn only_a_bound_token_of_the_agents_account_for_this_audience_is_taken() {
        let agent = judged(|_| {}).unwrap();
        assert_eq!(agent, Agent { pod_uid: "u-1".into(), node: "node1".into() });
        let not_valid: [Change; 5] = [
            |status| status["authenticated"] = json!(false),
            |status| status["authenticated"] = Value::Null,
            |status| status["audiences"] = Value::Null,
            |status| status["audiences"] = json!([]),
            |status| status["audiences"] = json!(["https://kubernetes.default.svc"]),
        ];
        for change in not_valid {
            assert!(matches!(judged(change), Err(ReviewError::NotValid(_))));
        }
        for name in ["nsm-system:default", "other:nsm-identity-agent"] {
            let refused = judged(|status| {
                status["user"]["username"] = json!(format!("system:serviceaccount:{name}"));
            });
            assert!(matches!(refused, Err(ReviewError::OtherAccount(_))), "{name}");
        }
        let not_bound: [Change; 3] = [
            |status| status["user"]["extra"] = Value::Null,
            |status| status["user"]["extra"][NODE_NAME] = json!([]),
            |status| status["user"]["extra"][POD_UID] = json!(["a", "b"]),
        ];
        for change in not_bound {
            assert!(matches!(judged(change), Err(ReviewError::NotBound)));
        }
    }
}

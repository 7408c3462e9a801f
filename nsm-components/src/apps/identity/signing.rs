//! What agents ask of the authority.
//!
//! An agent proves its node by a token that is bound to its pod, and names a pod by UID. All else
//! comes from the authority's own watch, so a stolen agent gets identities of its own node's pods
//! and nothing more.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tonic::{Request, Response, Status};
use tracing::{debug, info};

use super::{
    ca::{Ca, CaError},
    id::{IdError, SpiffeId, TrustDomain},
    pods::{PodFacts, Pods},
    review::{Agent, ReviewError, Reviewer},
};
use crate::{
    api::{
        identity::{SignRequest, SignResponse, identity_authority_server::IdentityAuthority},
        with_causes,
    },
    settings::ObjectRef,
};

/// How long a pod is awaited that the watch has not shown yet.
const POD_PATIENCE: Duration = Duration::from_secs(5);

/// Why an agent gets nothing.
#[derive(Debug, thiserror::Error)]
enum SignError {
    #[error("no bearer token in the metadata `authorization`")]
    NoToken,
    #[error(transparent)]
    Review(#[from] ReviewError),
    #[error("the agent's own pod {0} is not a running pod of {1} on node {2}")]
    NotAnAgent(String, String, String),
    #[error("no pod with UID {0} is known to the API server")]
    UnknownPod(String),
    #[error("pod {uid} is on node {node}, not on the agent's node {agent}")]
    OtherNode { uid: String, node: String, agent: String },
    #[error("pod {0} has ended")]
    Ended(String),
    #[error(transparent)]
    Id(#[from] IdError),
    #[error(transparent)]
    Ca(#[from] CaError),
}

/// The service that agents call.
pub(super) struct Signing {
    names: Names,
    reviewer: Reviewer,
    pods: Pods,
    ca: Arc<Ca>,
    lifetime: Duration,
}

/// Which ID a pod has.
pub(super) struct Names {
    domain: TrustDomain,
    /// The agents' account; its namespace is that of the mesh's own daemons.
    agents: ObjectRef,
}

#[async_trait]
impl IdentityAuthority for Signing {
    async fn sign(&self, request: Request<SignRequest>) -> Result<Response<SignResponse>, Status> {
        match self.answer(request).await {
            Ok(response) => Ok(Response::new(response)),
            Err(error) => {
                info!(error = with_causes(&error), "refused to sign");
                Err(status(&error))
            }
        }
    }
}

// === impl Signing ===

impl Signing {
    pub(super) fn new(names: Names, reviewer: Reviewer, pods: Pods, ca: Arc<Ca>, lifetime: Duration) -> Self {
        Self { names, reviewer, pods, ca, lifetime }
    }

    async fn answer(&self, request: Request<SignRequest>) -> Result<SignResponse, SignError> {
        let token = bearer(&request).ok_or(SignError::NoToken)?;
        let agent = self.reviewer.review(token).await?;
        self.check_agent(&agent).await?;
        let SignRequest { pod_uid, public_key } = request.into_inner();
        let pod = self.pods.get(&pod_uid, POD_PATIENCE).await;
        let pod = pod.ok_or_else(|| SignError::UnknownPod(pod_uid.clone()))?;
        let id = self.names.of(&agent, &pod_uid, &pod)?;
        let certificates = self.ca.sign(&id, &public_key, self.lifetime)?;
        debug!(%id, node = agent.node, "signed");
        Ok(SignResponse { spiffe_id: id.to_string(), certificates, bundle: self.ca.bundle().to_der() })
    }

    /// A token outlives its pod by some seconds, so the pod is looked at as well.
    async fn check_agent(&self, agent: &Agent) -> Result<(), SignError> {
        let account = &self.names.agents;
        let is_agent = |pod: &PodFacts| {
            pod.running
                && pod.namespace == account.namespace
                && pod.service_account == account.name
                && pod.node == agent.node
        };
        match self.pods.get(&agent.pod_uid, POD_PATIENCE).await {
            Some(pod) if is_agent(&pod) => Ok(()),
            _ => Err(SignError::NotAnAgent(
                agent.pod_uid.clone(),
                format!("{}/{}", account.namespace, account.name),
                agent.node.clone(),
            )),
        }
    }
}

// === impl Names ===

impl Names {
    /// In this trust domain, for agents of this account.
    pub(super) fn new(domain: TrustDomain, agents: ObjectRef) -> Self {
        Self { domain, agents }
    }

    /// The ID of a pod for this agent, if it is one of the agent's node and lives.
    fn of(&self, agent: &Agent, uid: &str, pod: &PodFacts) -> Result<SpiffeId, SignError> {
        let uid = || uid.to_owned();
        if pod.node != agent.node {
            let (node, agent) = (pod.node.clone(), agent.node.clone());
            return Err(SignError::OtherNode { uid: uid(), node, agent });
        }
        if !pod.running {
            return Err(SignError::Ended(uid()));
        }
        let PodFacts { namespace, service_account, name, node, .. } = pod;
        // Only the mesh's administrators make pods in its namespace.
        let id = if pod.of_daemon_set && *namespace == self.agents.namespace {
            self.domain.daemon(namespace, service_account, node)
        } else {
            self.domain.workload(namespace, service_account, name)
        };
        Ok(id?)
    }
}

fn bearer<T>(request: &Request<T>) -> Option<&str> {
    let value = request.metadata().get("authorization")?.to_str().ok()?;
    value.strip_prefix("Bearer ").map(str::trim).filter(|token| !token.is_empty())
}

fn status(error: &SignError) -> Status {
    let text = with_causes(error);
    match error {
        SignError::NoToken
        | SignError::NotAnAgent(..)
        | SignError::Review(
            ReviewError::NotValid(_) | ReviewError::OtherAccount(_) | ReviewError::NotBound,
        ) => Status::unauthenticated(text),
        SignError::Review(ReviewError::Api(_) | ReviewError::Slow) => Status::unavailable(text),
        SignError::UnknownPod(_) => Status::not_found(text),
        SignError::OtherNode { .. } | SignError::Ended(_) => Status::permission_denied(text),
        SignError::Ca(CaError::PublicKey) => Status::invalid_argument(text),
        SignError::Id(_) | SignError::Ca(_) => Status::internal(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn daemons_of_the_mesh_are_named_by_node_and_all_else_by_pod() {
        let agents = ObjectRef { namespace: "nsm-system".into(), name: "nsm-identity-agent".into() };
        let names = Names::new(TrustDomain::parse("k8s.nsm").unwrap(), agents);
        let agent = Agent { pod_uid: "0".into(), node: "node1".into() };
        let pod = |namespace: &str, of_daemon_set| PodFacts {
            namespace: namespace.into(),
            service_account: "sa".into(),
            name: "pod-1".into(),
            node: "node1".into(),
            of_daemon_set,
            running: true,
        };
        let id = |pod: &PodFacts| names.of(&agent, "1", pod).unwrap().to_string();
        assert_eq!(id(&pod("nsm-system", true)), "spiffe://k8s.nsm/ns/nsm-system/sa/sa/node/node1");
        assert_eq!(id(&pod("nsm-system", false)), "spiffe://k8s.nsm/ns/nsm-system/sa/sa/pod/pod-1");
        // Anybody may make a DaemonSet elsewhere.
        assert_eq!(id(&pod("default", true)), "spiffe://k8s.nsm/ns/default/sa/sa/pod/pod-1");

        let ended = PodFacts { running: false, ..pod("default", false) };
        assert!(matches!(names.of(&agent, "1", &ended), Err(SignError::Ended(_))));
        let elsewhere = PodFacts { node: "node2".into(), ..pod("default", false) };
        assert!(matches!(names.of(&agent, "1", &elsewhere), Err(SignError::OtherNode { .. })));
    }
}

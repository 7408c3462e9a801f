//! What is looked at once before a leader begins: whether the API server is one that is supported, and
//! whether the admission policies of the installation are in force.

use std::time::Duration;

use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use kube::{Api, Client};
use tokio::time::{sleep, timeout};
use tracing::warn;

use crate::{
    names::policy,
    server::{self, Server},
};

/// How long one look may take, and how long to wait for another after it failed.
const TIMEOUT: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_secs(1);

/// Looks until all questions are answered.
///
/// # Cancel safety
/// Nothing is lost when this is dropped.
pub async fn check(client: &Client) -> Server {
    loop {
        match timeout(TIMEOUT, look(client)).await {
            Ok(Ok(server)) => return server,
            Ok(Err(error)) => {
                warn!(error = &error as &dyn std::error::Error, "the API server cannot be looked at yet");
            }
            Err(_) => warn!("no answer of the API server about itself"),
        }
        sleep(RETRY).await;
    }
}

async fn look(client: &Client) -> Result<Server, kube::Error> {
    let version = client.apiserver_version().await?;
    let policies: Api<ValidatingAdmissionPolicy> = Api::all(client.clone());
    let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(client.clone());
    let mut missing = Vec::new();
    for name in policy::ALL {
        if policies.get_opt(name).await?.is_none() {
            missing.push(format!("ValidatingAdmissionPolicy {name}"));
        }
        let denies = |binding: &ValidatingAdmissionPolicyBinding| {
            let spec = binding.spec.as_ref();
            let actions = spec.and_then(|spec| spec.validation_actions.clone()).unwrap_or_default();
            actions.iter().any(|action| action == "Deny")
        };
        if !bindings.get_opt(name).await?.is_some_and(|binding| denies(&binding)) {
            missing.push(format!("ValidatingAdmissionPolicyBinding {name} with the action Deny"));
        }
    }
    Ok(Server { refusal: server::refusal(&version.major, &version.minor), unprotected: missing })
}

//! Service accounts as tests act under them.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};
use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    core::v1::{Pod, ServiceAccount},
};
use kube::{Api, Client, api::PostParams};
use serde_json::{Value, json};

use super::{ControlPlane, Proxy, plane};

/// A service account with a token: it may do what it is allowed to, and nothing else.
#[derive(Clone, Debug)]
pub struct Account {
    kubeconfig: PathBuf,
    user: String,
}

impl Account {
    /// Has a token made for an account that exists.
    pub async fn new(plane: &ControlPlane, namespace: &str, name: &str) -> Result<Self> {
        Self::bound(plane, namespace, name, None).await
    }

    /// The account as a pod on this node has it: the token says which node. The pod is made if need be.
    pub async fn on_node(plane: &ControlPlane, namespace: &str, name: &str, node: &str) -> Result<Self> {
        let pods: Api<Pod> = Api::namespaced(plane.client().await?, namespace);
        let pod = json!({
            "metadata": {"name": format!("{name}-on-{node}")},
            "spec": {
                "serviceAccountName": name, "nodeName": node, "terminationGracePeriodSeconds": 0,
                "containers": [{"name": "a", "image": "e2e.test/a:1"}],
            },
        });
        let made = match pods.create(&PostParams::default(), &serde_json::from_value(pod)?).await {
            Err(kube::Error::Api(status)) if status.is_already_exists() => {
                pods.get(&format!("{name}-on-{node}")).await?
            }
            made => made.context("a pod on a node")?,
        };
        let reference = BoundObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            name: made.metadata.name,
            uid: made.metadata.uid,
        };
        Self::bound(plane, namespace, name, Some(reference)).await
    }

    async fn bound(
        plane: &ControlPlane,
        namespace: &str,
        name: &str,
        bound_object_ref: Option<BoundObjectReference>,
    ) -> Result<Self> {
        let accounts: Api<ServiceAccount> = Api::namespaced(plane.client().await?, namespace);
        let pod = bound_object_ref.as_ref().and_then(|pod| pod.name.clone()).unwrap_or_default();
        let spec =
            TokenRequestSpec { expiration_seconds: Some(3600), bound_object_ref, ..Default::default() };
        let request = TokenRequest { spec, ..Default::default() };
        let answer = accounts.create_token_request(name, &PostParams::default(), &request).await;
        let answer = answer.with_context(|| format!("token of {namespace}/{name}"))?;
        let token = answer.status.context("a token without a status")?.token;
        let user = format!("system:serviceaccount:{namespace}:{name}");
        let kubeconfig = plane.folder().join(format!("{namespace}.{name}.{pod}.kubeconfig"));
        let mut config: Value = serde_saphyr::from_str(&fs::read_to_string(plane.kubeconfig())?)?;
        for entry in config["users"].as_array_mut().into_iter().flatten() {
            entry["user"] = json!({"token": token});
        }
        // JSON is YAML.
        fs::write(&kubeconfig, config.to_string())?;
        Ok(Self { kubeconfig, user })
    }

    /// The same account, which reaches the API server by way of a proxy.
    pub fn through(&self, proxy: &Proxy) -> Result<Self> {
        let mut config: Value = serde_saphyr::from_str(&fs::read_to_string(&self.kubeconfig)?)?;
        for entry in config["clusters"].as_array_mut().into_iter().flatten() {
            entry["cluster"] = json!({"server": proxy.url()});
        }
        let kubeconfig = self.kubeconfig.with_extension("proxied");
        fs::write(&kubeconfig, config.to_string())?;
        Ok(Self { kubeconfig, user: self.user.clone() })
    }

    /// A client with the rights of the account.
    pub async fn client(&self) -> Result<Client> {
        plane::client(&self.kubeconfig).await
    }

    /// How the API server calls the account.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The file that says how to act as the account.
    pub fn kubeconfig(&self) -> &PathBuf {
        &self.kubeconfig
    }
}

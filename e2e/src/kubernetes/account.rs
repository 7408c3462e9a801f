//! Service accounts as tests act under them.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};
use k8s_openapi::api::{
    authentication::v1::{TokenRequest, TokenRequestSpec},
    core::v1::ServiceAccount,
};
use kube::{Api, Client, api::PostParams};
use serde_json::{Value, json};

use super::{ControlPlane, plane};

/// A service account with a token: it may do what it is allowed to, and nothing else.
#[derive(Clone, Debug)]
pub struct Account {
    kubeconfig: PathBuf,
    user: String,
}

impl Account {
    /// Has a token made for an account that exists.
    pub async fn new(plane: &ControlPlane, namespace: &str, name: &str) -> Result<Self> {
        let accounts: Api<ServiceAccount> = Api::namespaced(plane.client().await?, namespace);
        let spec = TokenRequestSpec { expiration_seconds: Some(3600), ..Default::default() };
        let request = TokenRequest { spec, ..Default::default() };
        let answer = accounts.create_token_request(name, &PostParams::default(), &request).await;
        let answer = answer.with_context(|| format!("token of {namespace}/{name}"))?;
        let token = answer.status.context("a token without a status")?.token;
        let user = format!("system:serviceaccount:{namespace}:{name}");
        let kubeconfig = plane.folder().join(format!("{namespace}.{name}.kubeconfig"));
        let mut config: Value = serde_saphyr::from_str(&fs::read_to_string(plane.kubeconfig())?)?;
        for entry in config["users"].as_array_mut().into_iter().flatten() {
            entry["user"] = json!({"token": token});
        }
        // JSON is YAML.
        fs::write(&kubeconfig, config.to_string())?;
        Ok(Self { kubeconfig, user })
    }

    /// A client with the rights of the account.
    pub async fn client(&self) -> Result<Client> {
        plane::client(&self.kubeconfig).await
    }

    /// How the API server calls the account.
    pub fn user(&self) -> &str {
        &self.user
    }

    pub(super) fn kubeconfig(&self) -> &PathBuf {
        &self.kubeconfig
    }
}

//! Whether the identity process of this pod serves, for `exec` probes.

use std::{path::Path, time::Duration};

use hyper_util::rt::TokioIo;
use tokio::{net::UnixStream, time::timeout};
use tonic::{
    Code, Request,
    transport::{Endpoint, Uri},
};

use super::{
    agent,
    id::{IdError, TrustDomain},
    tls::{self, Trust},
    workload_api::SECURITY_HEADER,
};
use crate::{
    api::{
        with_causes,
        workload::{X509BundlesRequest, spiffe_workload_api_client::SpiffeWorkloadApiClient},
    },
    settings::{IdentityAgent, IdentityAuthority, Target},
};

const PATIENCE: Duration = Duration::from_secs(5);

/// Why the process does not count as serving.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// The settings are not those of a process that serves.
    #[error("{0} cannot be probed")]
    Address(String),
    /// The trust domain cannot be used.
    #[error(transparent)]
    Id(#[from] IdError),
    /// TLS cannot be set up.
    #[error("TLS cannot be set up")]
    Tls(#[from] rustls::Error),
    /// Nothing answers, or not in time.
    #[error("{address} does not serve: {why}")]
    NotServing {
        /// Where.
        address: String,
        /// What came instead.
        why: String,
    },
}

/// Whether the agent answers on its socket. It does so also while it waits for the authority: its
/// callers then wait with it, and a restart would not help them.
pub async fn probe_agent(settings: &IdentityAgent) -> Result<(), ProbeError> {
    let Target::Unix(path) = &settings.listen_on else {
        return Err(ProbeError::Address(settings.listen_on.to_string()));
    };
    let not_serving = |why: String| ProbeError::NotServing { address: settings.listen_on.to_string(), why };
    match timeout(PATIENCE, ask_for_bundles(path)).await {
        Ok(asked) => asked.map_err(not_serving),
        Err(_) => Err(not_serving(format!("no answer in {PATIENCE:?}"))),
    }
}

async fn ask_for_bundles(path: &Path) -> Result<(), String> {
    let path = path.to_owned();
    let connector = tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    let channel = Endpoint::from_static("http://localhost").connect_with_connector(connector).await;
    let channel = channel.map_err(|error| with_causes(&error))?;
    let mut request = Request::new(X509BundlesRequest {});
    request.metadata_mut().insert(SECURITY_HEADER, tonic::metadata::MetadataValue::from_static("true"));
    match SpiffeWorkloadApiClient::new(channel).fetch_x509_bundles(request).await {
        Ok(_) => Ok(()),
        // Judged, so served: who probes from outside a pod is nobody.
        Err(status) if status.code() == Code::PermissionDenied => Ok(()),
        Err(status) => Err(status.to_string()),
    }
}

/// Whether the authority completes a handshake under its own name, which it does once it has its
/// root, has published the bundle and knows the pods.
pub async fn probe_authority(settings: &IdentityAuthority) -> Result<(), ProbeError> {
    let address = match &settings.listen_on {
        Target::Tcp(address) => local(address),
        Target::Unix(_) => return Err(ProbeError::Address(settings.listen_on.to_string())),
    };
    let domain = TrustDomain::parse(&settings.trust_domain)?;
    let config = tls::client_config(Trust::Name, domain.authority(&settings.agent_account.namespace)?)?;
    let not_serving = |why: String| ProbeError::NotServing { address: address.clone(), why };
    match timeout(PATIENCE, agent::connect(&address, config)).await {
        Ok(connected) => connected.map(drop).map_err(|error| not_serving(with_causes(&error))),
        Err(_) => Err(not_serving(format!("no answer in {PATIENCE:?}"))),
    }
}

/// The address to connect to for one to listen on.
fn local(address: &str) -> String {
    match address.rsplit_once(':') {
        Some(("" | "0.0.0.0" | "[::]", port)) => format!("localhost:{port}"),
        _ => address.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_for_all_is_probed_on_this_host() {
        for address in [":5010", "0.0.0.0:5010", "[::]:5010"] {
            assert_eq!(local(address), "localhost:5010");
        }
        assert_eq!(local("10.0.0.1:5010"), "10.0.0.1:5010");
    }
}

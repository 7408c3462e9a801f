//! The root in a Secret of type `kubernetes.io/tls`: made once, by whichever replica comes first.

use std::collections::BTreeMap;

use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use tracing::info;

use super::{
    ca::{CaError, StoredRoot},
    id::TrustDomain,
};
use crate::settings::ObjectRef;

const KEY: &str = "tls.key";
const CERTIFICATES: &str = "tls.crt";

/// Why there is no root.
#[derive(Debug, thiserror::Error)]
pub(super) enum RootError {
    /// The API server did not do it; it may later, a 403 included: just after its start it does not
    /// know its own rules yet.
    #[error("cannot {0} the Secret")]
    Api(&'static str, #[source] kube::Error),
    /// The API server is there and does not answer.
    #[error("the API server did not answer in {0:?}")]
    Slow(std::time::Duration),
    /// No root could be made.
    #[error(transparent)]
    Ca(#[from] CaError),
}

/// The root, made now if there is none. Of several replicas all get the root of the first.
pub(super) async fn load_or_create(
    client: &Client,
    place: &ObjectRef,
    domain: &TrustDomain,
) -> Result<StoredRoot, RootError> {
    let api: Api<Secret> = Api::namespaced(client.clone(), &place.namespace);
    let found = api.get_opt(&place.name).await.map_err(|error| RootError::Api("read", error))?;
    if let Some(secret) = found {
        return Ok(read(&secret)?);
    }
    let root = StoredRoot::generate(domain)?;
    match api.create(&PostParams::default(), &secret(place, &root)).await {
        Ok(_) => {
            info!(secret = %place.name, namespace = %place.namespace, "made a root");
            Ok(root)
        }
        Err(kube::Error::Api(status)) if status.is_already_exists() => {
            let secret = api.get(&place.name).await.map_err(|error| RootError::Api("read", error))?;
            Ok(read(&secret)?)
        }
        Err(error) => Err(RootError::Api("create", error)),
    }
}

fn secret(place: &ObjectRef, root: &StoredRoot) -> Secret {
    let bytes = |text: &String| ByteString(text.clone().into_bytes());
    Secret {
        metadata: ObjectMeta {
            name: Some(place.name.clone()),
            namespace: Some(place.namespace.clone()),
            ..ObjectMeta::default()
        },
        type_: Some("kubernetes.io/tls".to_owned()),
        data: Some(BTreeMap::from([
            (KEY.to_owned(), bytes(&root.key)),
            (CERTIFICATES.to_owned(), bytes(&root.certificates)),
        ])),
        ..Secret::default()
    }
}

fn read(secret: &Secret) -> Result<StoredRoot, CaError> {
    let text = |key: &'static str| {
        let bytes = secret.data.as_ref().and_then(|data| data.get(key));
        let text = bytes.and_then(|bytes| String::from_utf8(bytes.0.clone()).ok());
        text.ok_or(CaError::NotStored(key))
    };
    Ok(StoredRoot { key: text(KEY)?, certificates: text(CERTIFICATES)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_reads_back_and_a_foreign_secret_is_named() {
        let root = StoredRoot::generate(&TrustDomain::parse("k8s.nsm").unwrap()).unwrap();
        let place = ObjectRef { namespace: "a".into(), name: "b".into() };
        assert_eq!(read(&secret(&place, &root)).unwrap(), root);
        assert!(matches!(read(&Secret::default()), Err(CaError::NotStored(KEY))));
    }
}

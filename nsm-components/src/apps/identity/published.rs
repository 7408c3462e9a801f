//! The trust bundle in its ConfigMap: published by the authority, followed by every agent.

use std::collections::BTreeMap;

use futures::TryStreamExt as _;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client,
    api::{ObjectMeta, Patch, PatchParams},
    runtime::{WatchStreamExt as _, watcher},
};
use tracing::{info, warn};

use super::{
    backoff::WatchBackoff,
    bundle::{Bundle, BundleError},
};
use crate::{api::names, settings::ObjectRef};

/// Owner of the field that holds the bundle.
const FIELD_MANAGER: &str = "nsm-identity-authority";

/// Writes the bundle; when it is there already, this changes nothing.
pub(super) async fn publish(client: &Client, place: &ObjectRef, bundle: &Bundle) -> kube::Result<()> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), &place.namespace);
    let map = ConfigMap {
        metadata: ObjectMeta { name: Some(place.name.clone()), ..ObjectMeta::default() },
        data: Some(BTreeMap::from([(names::BUNDLE_KEY.to_owned(), bundle.to_pem())])),
        ..ConfigMap::default()
    };
    let manager = PatchParams::apply(FIELD_MANAGER).force();
    api.patch(&place.name, &manager, &Patch::Apply(&map)).await.map(drop)
}

/// Calls `changed` with every bundle that is published. Ends only when dropped: while there is no
/// API server, no ConfigMap or no bundle in it, what was known stays.
pub(super) async fn follow(client: &Client, place: &ObjectRef, mut changed: impl FnMut(Bundle)) {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), &place.namespace);
    let mut maps = Box::pin(watcher::watch_object(api, &place.name).backoff(WatchBackoff::default()));
    let (name, namespace) = (&place.name, &place.namespace);
    loop {
        match maps.try_next().await {
            Ok(Some(Some(map))) => match read(&map) {
                Ok(bundle) => {
                    info!(roots = bundle.certificates().len(), "the trust bundle was published");
                    changed(bundle);
                }
                Err(error) => {
                    warn!(%error, name, namespace, "the published trust bundle cannot be used, keeping the known one");
                }
            },
            Ok(Some(None)) => warn!(name, namespace, "no trust bundle is published, keeping the known one"),
            Ok(None) => return,
            Err(error) => warn!(%error, name, namespace, "cannot follow the trust bundle, will try again"),
        }
    }
}

fn read(map: &ConfigMap) -> Result<Bundle, BundleError> {
    let text = map.data.as_ref().and_then(|data| data.get(names::BUNDLE_KEY));
    Bundle::from_pem(text.map_or("", String::as_str))
}

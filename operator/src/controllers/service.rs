//! A `NetworkService`: its status, from what the nodes report.

use std::sync::Arc;

use futures::{FutureExt, future::BoxFuture};
use k8s_openapi::jiff::Timestamp;
use kube::{ResourceExt, runtime::controller::Action};
use nsm_crds::NetworkService;

use super::{Context, Error, object_key};
use crate::status;

pub(super) fn reconcile(
    service: Arc<NetworkService>,
    context: Arc<Context>,
) -> BoxFuture<'static, Result<Action, Error>> {
    async move { run(&service, &context).await }.boxed()
}

async fn run(service: &NetworkService, context: &Context) -> Result<Action, Error> {
    if service.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let key = (service.namespace().unwrap_or_default(), service.name_any());
    let newer = context.services.newer_than(&key, service.resource_version().as_deref());
    let old = newer.as_ref().or(service.status.as_ref());
    let nodes = context.known.nodes();
    let rollup = status::network_service(nodes.iter().map(AsRef::as_ref), &key.1);
    let new = status::service(old, service.metadata.generation, &key.1, rollup, Timestamp::now());
    if old != Some(&new) {
        let written = context.writer.status(service, &new).await?;
        context.services.remember(key, written.resource_version().as_deref(), new);
    }
    context.attempts.succeeded(&object_key(service));
    Ok(Action::await_change())
}

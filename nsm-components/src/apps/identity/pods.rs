//! What the API server says about pods: by UID, and no more of each than identities need.

use std::{collections::HashMap, time::Duration};

use futures::TryStreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, ResourceExt as _,
    runtime::{WatchStreamExt as _, watcher},
};
use tokio::sync::watch;
use tracing::{info, warn};

use super::backoff::WatchBackoff;

/// A pod as its identity depends on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PodFacts {
    pub(super) namespace: String,
    pub(super) service_account: String,
    pub(super) name: String,
    /// The node it was bound to; a pod that waits for one is not kept.
    pub(super) node: String,
    /// Made by a DaemonSet.
    pub(super) of_daemon_set: bool,
    /// Not all its containers have ended for good.
    pub(super) running: bool,
}

/// UID to pod.
type ByUid = HashMap<String, PodFacts>;

/// The pods of the cluster, followed by [`follow`].
#[derive(Clone, Debug)]
pub(super) struct Pods(watch::Receiver<Option<ByUid>>);

impl Pods {
    /// Nothing is known yet; the other half is for [`follow`].
    pub(super) fn new() -> (watch::Sender<Option<ByUid>>, Self) {
        let (sender, receiver) = watch::channel(None);
        (sender, Self(receiver))
    }

    /// Waits for the first complete list.
    pub(super) async fn known(&self) {
        // An error means that the follower is gone, with the process.
        let _ = self.0.clone().wait_for(Option::is_some).await;
    }

    /// The pod with this UID, awaited for a while: a container may run before the watch says so.
    pub(super) async fn get(&self, uid: &str, patience: Duration) -> Option<PodFacts> {
        let mut pods = self.0.clone();
        let get = |pods: &Option<ByUid>| pods.as_ref().and_then(|pods| pods.get(uid)).cloned();
        let wait = async {
            let pods = pods.wait_for(|pods| get(pods).is_some()).await.ok()?;
            get(&pods)
        };
        tokio::time::timeout(patience, wait).await.ok().flatten()
    }
}

/// Keeps `pods` as the API server has them. Ends only when dropped: while there is no API server,
/// what was known stays.
pub(super) async fn follow(client: &Client, pods: watch::Sender<Option<ByUid>>) {
    let api: Api<Pod> = Api::all(client.clone());
    let mut events = Box::pin(watcher(api, watcher::Config::default()).backoff(WatchBackoff::default()));
    let mut list = ByUid::new();
    loop {
        match events.try_next().await {
            Ok(Some(event)) => apply(event, &mut list, &pods),
            Ok(None) => return,
            Err(error) => warn!(%error, "cannot follow the pods, will try again"),
        }
    }
}

fn apply(event: watcher::Event<Pod>, list: &mut ByUid, pods: &watch::Sender<Option<ByUid>>) {
    match event {
        watcher::Event::Init => list.clear(),
        watcher::Event::InitApply(pod) => list.extend(facts(&pod)),
        watcher::Event::InitDone => {
            info!(pods = list.len(), "the pods are known");
            pods.send_replace(Some(std::mem::take(list)));
        }
        watcher::Event::Apply(pod) => pods.send_modify(|pods| {
            pods.get_or_insert_default().extend(facts(&pod));
        }),
        watcher::Event::Delete(pod) => pods.send_modify(|pods| {
            if let (Some(pods), Some(uid)) = (pods, pod.uid()) {
                pods.remove(&uid);
            }
        }),
    }
}

fn facts(pod: &Pod) -> Option<(String, PodFacts)> {
    let spec = pod.spec.as_ref()?;
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let of_daemon_set = pod.owner_references().iter().any(|owner| {
        owner.controller == Some(true) && owner.kind == "DaemonSet" && owner.api_version.starts_with("apps/")
    });
    let facts = PodFacts {
        namespace: pod.namespace()?,
        service_account: spec.service_account_name.clone()?,
        name: pod.name_any(),
        node: spec.node_name.clone().filter(|node| !node.is_empty())?,
        of_daemon_set,
        running: !matches!(phase, Some("Succeeded" | "Failed")),
    };
    Some((pod.uid()?, facts))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(uid: &str, name: &str, node: Option<&str>) -> Pod {
        serde_json::from_value(json!({
            "metadata": { "uid": uid, "name": name, "namespace": "default" },
            "spec": { "containers": [], "serviceAccountName": "web", "nodeName": node },
        }))
        .unwrap()
    }

    #[test]
    fn a_list_replaces_what_was_known_only_when_it_is_complete() {
        let (sender, pods) = Pods::new();
        let mut list = ByUid::new();
        let mut then = |event| apply(event, &mut list, &sender);
        then(watcher::Event::Init);
        then(watcher::Event::InitApply(pod("1", "a", Some("n"))));
        assert!(pods.0.borrow().is_none());
        then(watcher::Event::InitDone);
        then(watcher::Event::Apply(pod("2", "b", None)));
        then(watcher::Event::Apply(pod("3", "c", Some("n"))));
        let known = |pods: &Pods| {
            let mut uids: Vec<_> = pods.0.borrow().as_ref().unwrap().keys().cloned().collect();
            uids.sort();
            uids
        };
        assert_eq!(known(&pods), ["1", "3"]);
        then(watcher::Event::Init);
        then(watcher::Event::InitApply(pod("3", "c", Some("n"))));
        assert_eq!(known(&pods), ["1", "3"]);
        then(watcher::Event::InitDone);
        assert_eq!(known(&pods), ["3"]);
        then(watcher::Event::Delete(pod("3", "c", Some("n"))));
        assert!(known(&pods).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_is_awaited_and_not_for_ever() {
        let (sender, pods) = Pods::new();
        assert_eq!(pods.get("1", Duration::from_secs(3)).await, None);
        let waiting = tokio::spawn({
            let pods = pods.clone();
            async move { pods.get("1", Duration::from_secs(3)).await }
        });
        tokio::task::yield_now().await;
        apply(watcher::Event::Apply(pod("1", "a", Some("n"))), &mut ByUid::new(), &sender);
        let found = waiting.await.unwrap().unwrap();
        assert_eq!((found.name.as_str(), found.service_account.as_str()), ("a", "web"));
        assert!(found.running && !found.of_daemon_set);
    }
}

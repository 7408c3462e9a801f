//! Leases on the API server: one a node, and one by which registries choose who ends entries.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kube::{
    Api, Client, ResourceExt,
    api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions},
};
use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    follow::Sink,
    objects::{gone, within},
};
use crate::{
    election::{Decision, Election, claim, released},
    elements::registry::{LeaseServer, Leases, Refusal},
};

/// Label of all Leases of registries: which kind of Lease it is.
const LABEL: &str = "networkservicemesh.io/lease";

/// Value of the label on Leases of nodes.
const NODE: &str = "node";

/// Value of the label on the Lease of the election.
const ELECTION: &str = "election";

/// Name of the Lease by which one registry is chosen.
const NAME: &str = "nsm-registry";

/// Names of Leases of nodes begin so; the node's follows.
const OF_NODE: &str = "nsm-node-";

/// Field manager of Leases of nodes.
const MANAGER: &str = "nsm-registry";

/// Limit of one request about the Lease of the election: three fit into the time a holder has.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Leases in the registry's namespace.
#[derive(Clone)]
pub(super) struct Server(Api<Lease>);

impl Server {
    pub(super) fn new(client: &Client, namespace: &str) -> Self {
        Self(Api::namespaced(client.clone(), namespace))
    }
}

/// The Leases that are followed.
pub(super) fn followed(client: &Client, namespace: &str) -> (Api<DynamicObject>, &'static str) {
    let resource = ApiResource::erase::<Lease>(&());
    (Api::namespaced_with(client.clone(), namespace, &resource), LABEL)
}

#[async_trait]
impl LeaseServer for Server {
    async fn renew(&self, node: &str, lasting: Duration, version: Option<u64>) -> Result<u64, Refusal> {
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(format!("{OF_NODE}{node}")),
                labels: Some([(LABEL.to_owned(), NODE.to_owned())].into()),
                resource_version: version.map(|version| version.to_string()),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(node.to_owned()),
                lease_duration_seconds: Some(i32::try_from(lasting.as_secs().max(1)).unwrap_or(i32::MAX)),
                renew_time: Some(MicroTime(Timestamp::now())),
                ..LeaseSpec::default()
            }),
        };
        let params = PatchParams::apply(MANAGER).force();
        let name = format!("{OF_NODE}{node}");
        let renewed = within(self.0.patch(&name, &params, &Patch::Apply(lease))).await?;
        Ok(version_of(&renewed))
    }

    async fn delete(&self, node: &str, version: u64) -> Result<(), Refusal> {
        let resource_version = Some(version.to_string());
        let preconditions = Preconditions { resource_version, ..Preconditions::default() };
        let params = DeleteParams::default().preconditions(preconditions);
        gone(within(self.0.delete(&format!("{OF_NODE}{node}"), &params)).await.map(drop))
    }
}

fn version_of(lease: &Lease) -> u64 {
    lease.resource_version().and_then(|version| version.parse().ok()).unwrap_or(0)
}

/// What the watch of Leases feeds.
#[derive(Clone)]
pub(super) struct Seen {
    pub(super) leases: Leases,
    pub(super) candidate: Arc<Candidate>,
}

/// The node of a Lease, with its version and how long it is good for.
fn of_node(lease: &Lease) -> Option<(String, u64, Duration)> {
    let name = lease.name_any();
    let node = name.strip_prefix(OF_NODE)?;
    let seconds = lease.spec.as_ref()?.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
    Some((node.to_owned(), version_of(lease), Duration::from_secs(seconds.unwrap_or(0))))
}

fn read(object: DynamicObject) -> Option<Lease> {
    object.try_parse().inspect_err(|error| warn!(%error, "a Lease that cannot be read")).ok()
}

impl Sink for Seen {
    fn list(&self, objects: Vec<DynamicObject>, _: u64) {
        let leases: Vec<_> = objects.into_iter().filter_map(read).collect();
        self.leases.list(leases.iter().filter_map(of_node).collect());
        self.candidate.heard(leases.into_iter().find(|lease| lease.name_any() == NAME));
    }

    fn observe(&self, object: DynamicObject) {
        let Some(lease) = read(object) else { return };
        match of_node(&lease) {
            Some((node, version, lasting)) => self.leases.observe(&node, version, lasting),
            None if lease.name_any() == NAME => self.candidate.heard(Some(lease)),
            None => {}
        }
    }

    fn gone(&self, object: DynamicObject) {
        let Some(lease) = read(object) else { return };
        match of_node(&lease) {
            Some((node, version, _)) => self.leases.gone(&node, version),
            None if lease.name_any() == NAME => self.candidate.heard(None),
            None => {}
        }
    }
}

/// Takes part in the election of who ends entries.
pub(super) struct Candidate {
    api: Api<Lease>,
    election: Mutex<Election>,
    news: Notify,
}

impl Candidate {
    pub(super) fn new(client: &Client, namespace: &str, me: &str) -> Self {
        let api = Api::namespaced(client.clone(), namespace);
        Self { api, election: Mutex::new(Election::new(me)), news: Notify::new() }
    }

    /// Whether this process is the one, now.
    pub(super) fn leads(&self) -> bool {
        self.election.lock().leads_until().is_some_and(|until| Instant::now() < until)
    }

    fn heard(&self, lease: Option<Lease>) {
        self.election.lock().observe(lease, Instant::now());
        self.news.notify_one();
    }

    /// Runs until the stop, then gives the Lease away if it has it.
    pub(super) async fn run(&self, stop: &CancellationToken) {
        while !stop.is_cancelled() {
            let decision = self.election.lock().decide(Instant::now());
            let wait = match decision {
                Decision::Create => {
                    self.write(None).await;
                    continue;
                }
                Decision::Write(lease) => {
                    self.write(Some(*lease)).await;
                    continue;
                }
                Decision::Wait(until) => Some(until),
                Decision::Learn => None,
            };
            let due = async {
                match wait {
                    Some(until) => sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = due => {}
                () = self.news.notified() => {}
                () = stop.cancelled() => {}
            }
        }
        self.release().await;
    }

    /// Writes the own name into the Lease: this one, or a new one.
    async fn write(&self, lease: Option<Lease>) {
        let (began, led) = (Instant::now(), self.leads());
        let me = self.election.lock().me().to_owned();
        let mut wanted = claim(lease, NAME, &me);
        wanted.metadata.labels.get_or_insert_default().insert(LABEL.to_owned(), ELECTION.to_owned());
        let params = PostParams::default();
        let request = async {
            if wanted.metadata.resource_version.is_some() {
                self.api.replace(NAME, &params, &wanted).await
            } else {
                self.api.create(&params, &wanted).await
            }
        };
        let written = timeout(TIMEOUT, request).await;
        let mut election = self.election.lock();
        let why = match written {
            Ok(Ok(written)) => {
                election.wrote(written, began, Instant::now());
                if !led {
                    info!(identity = me, "this registry ends what nobody refreshes");
                }
                return;
            }
            Ok(Err(kube::Error::Api(status))) if status.code == 409 => {
                election.failed(Instant::now());
                return;
            }
            Ok(Err(error)) => crate::api::with_causes(&error),
            Err(_) => "no answer in time".to_owned(),
        };
        election.failed(Instant::now());
        drop(election);
        warn!(why, "the Lease of the registries could not be written; it is tried again");
    }

    /// Gives the Lease away, so that another one need not wait.
    async fn release(&self) {
        let Some(lease) = self.election.lock().held().cloned().map(released) else { return };
        let params = PostParams::default();
        if !matches!(timeout(TIMEOUT, self.api.replace(NAME, &params, &lease)).await, Ok(Ok(_))) {
            warn!("the Lease could not be given away: another registry takes it when its time is over");
        }
    }
}

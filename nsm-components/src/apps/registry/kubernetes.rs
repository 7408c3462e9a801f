//! A registry whose entries are custom resources of the API server.

use std::sync::Arc;

use http::{HeaderValue, header::USER_AGENT};
use kube::{Client, Config, api::DynamicObject};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use super::{
    super::{Error, mesh::Mesh},
    follow::{Follow, Sink},
    leases::{Candidate, Seen, Server, followed},
    objects::{Kind, object},
};
use crate::{
    api::registry::{NetworkService, NetworkServiceEndpoint},
    elements::registry::{Keeper, Leases, Objects, Reach, Resource, Shared},
};

/// What is followed, as it is called in figures and messages.
const SERVICES: &str = "network services";
const ENDPOINTS: &str = "endpoints";
const LEASES: &str = "Leases";

/// Storages of both kinds, and what keeps them.
pub(super) struct Kubernetes {
    pub(super) services: Arc<Objects<NetworkService>>,
    pub(super) endpoints: Arc<Objects<NetworkServiceEndpoint>>,
    pub(super) reach: Reach,
    pub(super) leases: Leases,
    pub(super) candidate: Arc<Candidate>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// What a watch of objects feeds.
struct Fed<T>(Arc<Objects<T>>);

impl<T: Resource> Sink for Fed<T> {
    fn list(&self, objects: Vec<DynamicObject>, version: u64) {
        self.0.list(objects.into_iter().map(object).collect(), version);
    }

    fn observe(&self, seen: DynamicObject) {
        self.0.observe(object(seen));
    }

    fn gone(&self, seen: DynamicObject) {
        self.0.gone(&object(seen));
    }
}

/// A client that says who it is, and whose errors are told at once: who registers tries again.
async fn client(replica: &str) -> Result<Client, Error> {
    let mut config =
        Config::infer().await.map_err(|error| Error::Storage(kube::Error::InferConfig(error).into()))?;
    config.default_retry = false;
    if let Ok(agent) = HeaderValue::from_str(&format!("nsm-registry/{replica}")) {
        config.headers.push((USER_AGENT, agent));
    }
    Client::try_from(config).map_err(|error| Error::Storage(error.into()))
}

impl Kubernetes {
    /// Follows all that there is, from now on.
    pub(super) async fn start(mesh: &Mesh, namespace: &str, replica: Option<&str>) -> Result<Self, Error> {
        let replica = replica.map_or_else(|| format!("registry-{}", Uuid::new_v4()), str::to_owned);
        let client = client(&replica).await?;
        let reach = Reach::new([SERVICES, ENDPOINTS, LEASES]);
        let leases = Leases::new(Arc::new(Server::new(&client, namespace)), mesh.token_life);
        let shared = Shared {
            namespace: namespace.to_owned(),
            leases: leases.clone(),
            reach: reach.clone(),
            clock: mesh.clock.clone(),
            life: mesh.token_life,
        };
        let (of_services, of_endpoints) = (Kind::services(&client), Kind::endpoints(&client));
        let services = Arc::new(Objects::new(shared.clone(), Arc::new(of_services.clone())));
        let endpoints = Arc::new(Objects::new(shared.clone(), Arc::new(of_endpoints.clone())));
        let candidate = Arc::new(Candidate::new(&client, namespace, &replica));
        let (tasks, stop) = (TaskTracker::new(), mesh.stop.clone());
        let follow = |what, api, labels| (what, api, labels, reach.clone());
        tasks.spawn(until(&stop, run(follow(SERVICES, of_services.everywhere(), ""), Fed(services.clone()))));
        tasks.spawn(until(
            &stop,
            run(follow(ENDPOINTS, of_endpoints.everywhere(), ""), Fed(endpoints.clone())),
        ));
        let (api, labels) = followed(&client, namespace);
        let seen = Seen { leases: leases.clone(), candidate: candidate.clone() };
        tasks.spawn(until(&stop, run(follow(LEASES, api, labels), seen)));
        let keeper = Keeper { endpoints: endpoints.clone(), shared };
        let leading = candidate.clone();
        tasks.spawn(until(&stop, keeper.run(move || leading.leads())));
        let (electing, until_stop) = (candidate.clone(), stop.clone());
        tasks.spawn(async move { electing.run(&until_stop).await });
        tasks.close();
        Ok(Self { services, endpoints, reach, leases, candidate, tasks, stop })
    }

    /// Ends, with the Lease given away.
    pub(super) async fn end(self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }
}

/// What one watch needs but its sink.
type Watched = (&'static str, kube::Api<DynamicObject>, &'static str, Reach);

fn run<S: Sink>((what, api, labels, reach): Watched, sink: S) -> impl Future<Output = ()> {
    Follow { api, labels, what, reach, sink }.run()
}

/// Runs a task until the stop.
fn until(
    stop: &CancellationToken,
    task: impl Future<Output = ()> + Send + 'static,
) -> impl Future<Output = ()> + Send + 'static {
    let stop = stop.clone();
    async move {
        stop.run_until_cancelled(task).await;
    }
}

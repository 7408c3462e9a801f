//! Registries before a real API server, and managers that the test plays.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use nsm_components::{
    api::{
        peer::Address,
        registry::{
            NetworkService, NetworkServiceEndpoint, NetworkServiceEndpointQuery,
            network_service_endpoint_registry_client::NetworkServiceEndpointRegistryClient,
        },
        registry_path::{RegistryPath, Segment},
    },
    chain::{self, Events, Query, RegistryChain, RegistryCx, RegistryElement},
    elements::registry::{Connect, STALE, Wire},
    transport::{Channels, token::Claims},
};
use nsm_e2e::{
    kubernetes::{Account, Fate, Proxy, eventually},
    mesh::program,
    netns::Netns,
    process::{Process, Recipe},
};
use tempfile::TempDir;

use super::identities::Identities;
use crate::stage::{MESH, Stage};

/// How long a call may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// Account of the registries.
const ACCOUNT: &str = "registry";

/// Everything a story needs, ended in this order.
pub(crate) struct Registries {
    pub(crate) replicas: BTreeMap<usize, Process>,
    pub(crate) stage: Stage,
    pub(crate) account: Account,
    identities: Identities,
    workload_api: PathBuf,
    proxy: Option<Proxy>,
    life: Duration,
    folder: TempDir,
}

/// What calls a registry: an nsmgr, with endpoints behind it.
pub(crate) struct Manager {
    id: String,
    channels: Channels,
    life: Duration,
}

/// A manager's chains to one registry.
pub(crate) struct Client<'a, T> {
    manager: &'a Manager,
    chain: RegistryChain<T>,
}

/// An endpoint of a service, reached by its manager.
pub(crate) fn endpoint(name: &str, service: &str) -> NetworkServiceEndpoint {
    NetworkServiceEndpoint {
        name: name.into(),
        network_service_names: vec![service.to_owned()],
        url: "tcp://10.0.0.1:5001".into(),
        ..NetworkServiceEndpoint::default()
    }
}

/// What finds endpoints of a service.
pub(crate) fn of_service(service: &str) -> NetworkServiceEndpoint {
    NetworkServiceEndpoint { network_service_names: vec![service.to_owned()], ..Default::default() }
}

impl Registries {
    /// This many registries over a control plane of their own, with tokens of this life.
    pub(crate) async fn start(count: usize, life: Duration) -> Result<Self> {
        Self::start_by(count, life, false).await
    }

    /// The same, and the API server may go [away](Self::away).
    pub(crate) async fn start_through_proxy(count: usize, life: Duration) -> Result<Self> {
        Self::start_by(count, life, true).await
    }

    async fn start_by(count: usize, life: Duration, proxied: bool) -> Result<Self> {
        let stage = Stage::installed().await?;
        stage.apply(RIGHTS).await?;
        let account = Account::new(&stage.plane, MESH, ACCOUNT).await?;
        let proxy = if proxied { Some(Proxy::start(&stage.plane).await?) } else { None };
        let account = proxy.as_ref().map_or(Ok(account.clone()), |proxy| account.through(proxy))?;
        let folder = tempfile::tempdir()?;
        let identities = Identities::new(folder.path().to_owned());
        let workload_api = identities.serve("spiffe://d/ns/nsm-system/sa/registry/pod/registry");
        let mut registries =
            Self { replicas: BTreeMap::new(), stage, account, identities, workload_api, proxy, life, folder };
        for number in 0..count {
            registries.add(number)?;
        }
        registries.ready().await?;
        Ok(registries)
    }

    fn socket(&self, number: usize) -> PathBuf {
        self.folder.path().join(format!("registry-{number}.listen.sock"))
    }

    /// Where a registry shows its figures.
    pub(crate) fn metrics(&self, number: usize) -> PathBuf {
        self.folder.path().join(format!("registry-{number}.metrics.sock"))
    }

    /// Starts one more.
    pub(crate) fn add(&mut self, number: usize) -> Result<()> {
        let unix = |path: PathBuf| format!("unix://{}", path.display());
        let name = format!("registry-{number}");
        let environment = [
            ("NSM_NAME", "registry".to_owned()),
            ("POD_NAME", name.clone()),
            ("NSM_LOG_LEVEL", "debug,hyper=info,h2=info,tower=info,rustls=info".to_owned()),
            ("NSM_LISTEN_ON", unix(self.socket(number))),
            ("NSM_METRICS_LISTEN_ON", unix(self.metrics(number))),
            ("NSM_MAX_TOKEN_LIFETIME", format!("{}s", self.life.as_secs())),
            ("SPIFFE_ENDPOINT_SOCKET", unix(self.workload_api.clone())),
            ("NSM_TRUSTED_IDS", "spiffe://d/ns/nsm-system".to_owned()),
            ("NSM_REGISTRY_STORAGE", "CRD".to_owned()),
            ("NSM_NAMESPACE", MESH.to_owned()),
            ("KUBECONFIG", self.account.kubeconfig().display().to_string()),
        ];
        let recipe = Recipe {
            log: self.folder.path().join(format!("{name}.log")),
            name,
            netns: Netns::own()?,
            program: program()?,
            arguments: vec!["registry".to_owned()],
            environment: environment.map(|(name, value)| (name.to_owned(), value)).into(),
        };
        self.replicas.insert(number, Process::start(recipe)?);
        Ok(())
    }

    /// Waits until all can answer.
    pub(crate) async fn ready(&self) -> Result<()> {
        let prober = self.nsmgr(&format!("prober-{}", self.replicas.len())).await;
        for number in self.replicas.keys() {
            eventually("a registry to answer", async || {
                let found = prober.to::<NetworkService>(self, *number).find(NetworkService::default()).await;
                found.map(drop).with_context(|| self.replicas[number].log_tail(20))
            })
            .await?;
        }
        Ok(())
    }

    /// The API server answers nobody, or everybody again.
    pub(crate) fn away(&self, away: bool) -> Result<()> {
        let proxy = self.proxy.as_ref().context("no proxy")?;
        proxy.judge(move |_, _| if away { Fate::Refuse(503) } else { Fate::Pass });
        proxy.cut();
        Ok(())
    }

    /// A manager with this identity.
    pub(crate) async fn manager(&self, id: &str) -> Manager {
        let source = self.identities.source(id);
        eventually("an identity", async || Ok(source.current()?)).await.unwrap();
        Manager { id: id.into(), channels: Channels::new(source, LIMIT), life: self.life }
    }

    /// The manager of a node.
    pub(crate) async fn nsmgr(&self, node: &str) -> Manager {
        self.manager(&format!("spiffe://d/ns/nsm-system/sa/nsmgr/node/{node}")).await
    }

    /// Fails when one ended by itself.
    pub(crate) fn ensure_running(&mut self) -> Result<()> {
        for (number, replica) in &mut self.replicas {
            ensure!(!replica.is_over(), "registry {number} ended by itself: {}", replica.log_tail(30));
        }
        Ok(())
    }
}

impl Manager {
    /// One of the registries, as this manager calls it.
    pub(crate) fn to<T: Wire>(&self, registries: &Registries, number: usize) -> Client<'_, T> {
        let address = Address::Unix(registries.socket(number));
        let connect = Connect::new(self.channels.clone(), address, self.life).by_url();
        let chain = RegistryChain::new([Arc::new(connect) as Arc<dyn RegistryElement<T>>]);
        Client { manager: self, chain }
    }

    /// For how long what a registry answers may be old, by its own word.
    pub(crate) async fn stale(&self, registries: &Registries, number: usize) -> Result<Option<u64>> {
        let channel = self.channels.get(&Address::Unix(registries.socket(number))).await?;
        let query = NetworkServiceEndpointQuery {
            network_service_endpoint: Some(NetworkServiceEndpoint::default()),
            watch: false,
        };
        let mut call = tonic::Request::new(query);
        channel.token(self.life)?.write(call.metadata_mut());
        let answer = NetworkServiceEndpointRegistryClient::new(channel.grpc.clone()).find(call).await?;
        let said = answer.metadata().get(STALE).and_then(|value| value.to_str().ok());
        Ok(said.map(str::parse).transpose()?)
    }

    /// The path of a registration that its owner began, by a token that nobody but the manager verifies.
    fn path(&self, owner: &str) -> RegistryPath {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let expires = i64::try_from((now + self.life).as_secs()).unwrap_or(i64::MAX);
        let claims = Claims { sub: owner.to_owned(), aud: vec![self.id.clone()], exp: expires };
        let key = EncodingKey::from_ec_der(&rcgen::KeyPair::generate().unwrap().serialize_der());
        let token = jsonwebtoken::encode(&Header::new(Algorithm::ES256), &claims, &key).unwrap();
        let segments = vec![Segment { token }, Segment::default()];
        RegistryPath { index: 1, path_segments: Some(segments) }
    }
}

impl<T: Wire> Client<'_, T> {
    fn cx(&self, owner: &str) -> RegistryCx {
        let cx = RegistryCx::within(LIMIT);
        *cx.path.lock() = self.manager.path(owner);
        cx
    }

    /// Registers for an owner, who is a pod of this name.
    pub(crate) async fn register(&self, owner: &str, entry: T) -> chain::Result<T> {
        self.chain.start().register(&self.cx(&owner_id(owner)), entry).await
    }

    pub(crate) async fn unregister(&self, owner: &str, entry: T) -> chain::Result<()> {
        self.chain.start().unregister(&self.cx(&owner_id(owner)), entry).await
    }

    /// What there is now.
    pub(crate) async fn find(&self, like: T) -> chain::Result<Vec<T>> {
        let found = self.chain.start().find(&RegistryCx::within(LIMIT), Query::once(like)).await?;
        let found: Vec<_> = found.collect().await;
        found.into_iter().map(|event| event.map(|event| event.entry)).collect()
    }

    /// The same and what changes.
    pub(crate) async fn watch(&self, like: T) -> chain::Result<Events<T>> {
        self.chain.start().find(&RegistryCx::within(LIMIT), Query::changes(like)).await
    }
}

/// SPIFFE ID of a pod.
pub(crate) fn owner_id(pod: &str) -> String {
    format!("spiffe://d/ns/demo/sa/default/pod/{pod}")
}

/// The next event, in time.
pub(crate) async fn next<T>(events: &mut Events<T>) -> Result<chain::Event<T>> {
    let event = tokio::time::timeout(LIMIT, events.next()).await.context("nothing was told")?;
    Ok(event.context("the watch ended")??)
}

/// The account of the registries with the rights that the operator gives it.
const RIGHTS: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: nsm-system}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: registry, namespace: nsm-system}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: nsm-registry}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: nsm-registry}
subjects: [{kind: ServiceAccount, name: registry, namespace: nsm-system}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: nsm-registry-writer, namespace: nsm-system}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: nsm-registry-writer}
subjects: [{kind: ServiceAccount, name: registry, namespace: nsm-system}]";

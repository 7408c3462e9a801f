//! What most stories begin with: the installation applied, the operator running, a mesh.

use std::{ops::Deref, sync::OnceLock};

use anyhow::{Context, Result, anyhow, ensure};
use k8s_openapi::{
    api::{apps::v1::DaemonSet, core::v1::Node},
    apimachinery::pkg::apis::meta::v1::Condition,
};
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use nsm_crds::{NSMConfig, NSMConfigStatus};
use nsm_e2e::kubernetes::{
    Account, Audit, ControlPlane, Kubelet, Operator, apply, apply_file, documents, eventually, repository,
    without_revision,
};
use serde_json::json;
use tokio::sync::{Mutex, MutexGuard};

/// Namespace of the mesh.
pub(crate) const MESH: &str = "nsm-system";

/// Namespace and account of the operator.
pub(crate) const OPERATOR: &str = "nsm-operator";

/// Name of the pod that the operator would be.
pub(crate) const POD: &str = "operator-0";

/// Nodes there would be.
pub(crate) const NODES: i32 = 2;

/// Everything a story needs, ended in this order.
pub(crate) struct Stage {
    pub(crate) operator: Option<Operator>,
    pub(crate) kubelet: Option<Kubelet>,
    pub(crate) audit: Audit,
    pub(crate) client: Client,
    pub(crate) account: Account,
    pub(crate) plane: Plane,
}

/// The control plane of a story.
pub(crate) enum Plane {
    /// Nobody else's.
    Own(ControlPlane),
    /// One that stories use one after another, while they hold its lock.
    Shared(&'static ControlPlane, #[expect(dead_code, reason = "held, not read")] MutexGuard<'static, ()>),
}

impl Deref for Plane {
    type Target = ControlPlane;

    fn deref(&self) -> &ControlPlane {
        match self {
            Self::Own(plane) => plane,
            Self::Shared(plane, _) => plane,
        }
    }
}

/// A control plane for one story at a time.
struct Shared {
    plane: OnceLock<ControlPlane>,
    lock: Mutex<()>,
}

impl Shared {
    const fn new() -> Self {
        Self { plane: OnceLock::new(), lock: Mutex::const_new(()) }
    }

    async fn take(&'static self, start: fn() -> Result<ControlPlane>) -> Plane {
        let turn = self.lock.lock().await;
        Plane::Shared(self.plane.get_or_init(|| start().unwrap()), turn)
    }
}

impl Stage {
    /// A control plane of its own, where the installation is applied; the operator does not run yet.
    pub(crate) async fn installed() -> Result<Self> {
        Self::on(Plane::Own(ControlPlane::start()?)).await
    }

    /// There is a mesh, and it is ready; no controllers, two nodes. Nobody else uses the control plane.
    pub(crate) async fn with_own_mesh() -> Result<Self> {
        Self::installed().await?.make_mesh().await
    }

    /// There is a mesh, and it is ready; no controllers, two nodes. Other stories use the control
    /// plane before and after this one.
    pub(crate) async fn with_mesh() -> Result<Self> {
        static SHARED: Shared = Shared::new();
        Self::on(SHARED.take(ControlPlane::start).await).await?.cleared()?.make_mesh().await
    }

    /// There is a mesh, and it is ready; Kubernetes' controllers run, and there are no nodes. Other
    /// stories use the control plane before and after this one.
    pub(crate) async fn with_mesh_and_controllers() -> Result<Self> {
        static SHARED: Shared = Shared::new();
        let plane = SHARED.take(ControlPlane::start_with_controllers).await;
        let mut stage = Self::on(plane).await?.cleared()?;
        stage.kubelet = Some(Kubelet::for_pods(stage.client.clone()));
        stage.make_mesh().await
    }

    async fn on(plane: Plane) -> Result<Self> {
        let client = plane.client().await?;
        apply_file(&client, &repository().join("charts/install.yaml")).await?;
        let account = Account::new(&plane, OPERATOR, OPERATOR).await?;
        // Kinds and rights count a moment after they are there.
        let configs: Api<NSMConfig> = Api::all(account.client().await?);
        eventually("the operator's rights", async || Ok(configs.list(&ListParams::default()).await?)).await?;
        let audit = plane.audit().await?;
        Ok(Self { operator: None, kubelet: None, audit, client, account, plane })
    }

    /// Nothing is left of what users and nodes wrote in an earlier story.
    fn cleared(self) -> Result<Self> {
        let all = ["delete", "nsmnode,netsvc,nse", "--all", "--all-namespaces", "--wait=false"];
        self.plane.kubectl(&all)?;
        self.plane.kubectl(&["delete", "nodes", "--all", "--wait=false"])?;
        // Without a garbage collector their Deployments stay.
        let made = ["delete", "deployments", "--selector", "operator.networkservicemesh.io/template"];
        self.plane.kubectl(&[&made[..], &["--all-namespaces", "--wait=false"]].concat())?;
        Ok(self)
    }

    async fn make_mesh(mut self) -> Result<Self> {
        let client = self.client.clone();
        self.kubelet.get_or_insert_with(|| Kubelet::for_workloads(client, NODES));
        self.start_operator()?;
        self.apply(CONFIG).await?;
        self.ready().await?;
        Ok(self)
    }

    pub(crate) fn start_operator(&mut self) -> Result<()> {
        self.operator = Some(Operator::start(&self.plane, &self.account, POD)?);
        Ok(())
    }

    pub(crate) async fn stop_operator(&mut self) -> Result<()> {
        let operator = self.operator.take().context("no operator runs")?;
        let status = operator.stop().await?;
        ensure!(status.success(), "the operator ended with {status}");
        Ok(())
    }

    /// The only DaemonSet of a node daemon.
    pub(crate) async fn daemon_set(&self, daemon: &str) -> Result<DaemonSet> {
        let mut all = self.daemon_sets().await?;
        all.retain(|set| without_revision(&set.name_any()) == daemon);
        let [only] =
            <[DaemonSet; 1]>::try_from(all).map_err(|all| anyhow!("{} DaemonSets of {daemon}", all.len()))?;
        Ok(only)
    }

    /// A node that there would be; the next story begins without.
    pub(crate) async fn add_node(&self, name: &str) -> Result<()> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let node = json!({"metadata": {"name": name}});
        nodes.create(&PostParams::default(), &serde_json::from_value(node)?).await?;
        let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(ready)).await?;
        Ok(())
    }

    /// All DaemonSets of the mesh.
    pub(crate) async fn daemon_sets(&self) -> Result<Vec<DaemonSet>> {
        let daemons: Api<DaemonSet> = Api::namespaced(self.client.clone(), MESH);
        Ok(daemons.list(&ListParams::default()).await?.items)
    }

    /// Applies manifests as a user.
    pub(crate) async fn apply(&self, text: &str) -> Result<()> {
        for object in documents(text)? {
            apply(&self.client, &object).await?;
        }
        Ok(())
    }

    /// Waits until the mesh is ready and the operator has seen the newest settings.
    pub(crate) async fn ready(&self) -> Result<NSMConfigStatus> {
        self.config("the mesh to be ready", |config, ready| {
            ensure!(ready.status == "True", "{}: {}", ready.reason, ready.message);
            ensure!(ready.observed_generation == config.metadata.generation, "of an older generation");
            Ok(())
        })
        .await
    }

    /// Waits until this holds for the `NSMConfig` and its condition `Ready`.
    pub(crate) async fn config(
        &self,
        what: &str,
        holds: impl Fn(&NSMConfig, &Condition) -> Result<()>,
    ) -> Result<NSMConfigStatus> {
        let configs: Api<NSMConfig> = Api::all(self.client.clone());
        eventually(what, async || {
            let config = configs.get("default").await?;
            let status = config.status.clone().context("no status")?;
            holds(&config, condition(&status.conditions, "Ready")?)?;
            Ok(status)
        })
        .await
    }
}

/// The whole mesh, with defaults.
pub(crate) const CONFIG: &str = "
apiVersion: operator.networkservicemesh.io/v1alpha1
kind: NSMConfig
metadata: {name: default}
spec: {}";

/// The condition of this type.
pub(crate) fn condition<'a>(conditions: &'a [Condition], kind: &str) -> Result<&'a Condition> {
    conditions
        .iter()
        .find(|condition| condition.type_ == kind)
        .with_context(|| format!("no condition {kind}"))
}

/// Fails unless this is the status of a condition that holds.
pub(crate) fn condition_true(status: Option<&str>) -> Result<()> {
    ensure!(status == Some("True"), "the condition is {status:?}");
    Ok(())
}

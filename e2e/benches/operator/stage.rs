//! An API server, an operator, and a mesh that is ready.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use kube::{Api, Client, api::ListParams};
use nsm_crds::NSMConfig;
use nsm_e2e::kubernetes::{
    Account, Audit, ControlPlane, Kubelet, Operator, apply, apply_file, documents, eventually, repository,
};
use serde_json::Value;
use tokio::time::sleep;

/// How long the operator asks for nothing when it is at rest.
const QUIET: Duration = Duration::from_secs(3);

/// Longest time to get there.
const LIMIT: Duration = Duration::from_mins(2);

const CONFIG: &str = "
apiVersion: operator.networkservicemesh.io/v1alpha1
kind: NSMConfig
metadata: {name: default}
spec: {}";

/// Ended in this order.
pub(crate) struct Stage {
    operator: Option<Operator>,
    _kubelet: Kubelet,
    pub(crate) audit: Audit,
    pub(crate) client: Client,
    pub(crate) account: Account,
    plane: ControlPlane,
    /// Starts so far: each has a log of its own.
    starts: usize,
}

impl Stage {
    pub(crate) async fn start() -> Result<Self> {
        let plane = ControlPlane::start()?;
        let client = plane.client().await?;
        apply_file(&client, &repository().join("charts/install.yaml")).await?;
        let account = Account::new(&plane, "nsm-operator", "nsm-operator").await?;
        // Kinds and rights count a moment after they are there.
        let configs: Api<NSMConfig> = Api::all(account.client().await?);
        eventually("the operator's rights", async || Ok(configs.list(&ListParams::default()).await?)).await?;
        let audit = plane.audit().await?;
        let kubelet = Kubelet::for_workloads(client.clone(), 2);
        let mut stage = Self { operator: None, _kubelet: kubelet, audit, client, account, plane, starts: 0 };
        stage.start_operator()?;
        for object in documents(CONFIG)? {
            apply(&stage.client, &object).await?;
        }
        let configs: Api<NSMConfig> = Api::all(stage.client.clone());
        eventually("a mesh that is ready", async || {
            let status = configs.get("default").await?.status.context("no status")?;
            let ready = status.conditions.iter().any(|one| one.type_ == "Ready" && one.status == "True");
            ensure!(ready, "{:?}", status.conditions);
            Ok(())
        })
        .await?;
        Ok(stage)
    }

    pub(crate) fn operator(&self) -> Result<&Operator> {
        self.operator.as_ref().context("no operator runs")
    }

    fn pod(&self) -> String {
        format!("operator-{}", self.starts)
    }

    pub(crate) fn start_operator(&mut self) -> Result<()> {
        self.starts += 1;
        // As it is installed: of each event one line, and not what the tests want to know; and how long it takes.
        let level = [("NSM_LOG_LEVEL", "info,nsm_operator::controllers=debug")];
        self.operator = Some(Operator::start_with(&self.plane, &self.account, &self.pod(), &level)?);
        Ok(())
    }

    pub(crate) async fn stop_operator(&mut self) -> Result<()> {
        let operator = self.operator.take().context("no operator runs")?;
        operator.stop().await.map(drop)
    }

    /// Waits until the operator leads and asks for nothing.
    pub(crate) async fn settle(&self) -> Result<()> {
        let end = Instant::now() + LIMIT;
        let mut mark = self.audit.mark().await?;
        loop {
            sleep(QUIET).await;
            let asked = self.audit.of(self.account.user(), mark).await?;
            if asked.count() == 0 {
                return Ok(());
            }
            ensure!(Instant::now() < end, "the operator is not at rest: {:?}", asked.words());
            mark = self.audit.mark().await?;
        }
    }

    /// How long the operator took from its start until all watches were up, by its own log.
    pub(crate) async fn synced(&self) -> Result<Duration> {
        let operator = self.operator()?;
        let said = |text: &str| -> Result<Timestamp> {
            let log = operator.log();
            let line = log.lines().find(|line| line.contains(text)).with_context(|| text.to_owned())?;
            let line: Value = serde_json::from_str(line)?;
            Ok(line["timestamp"].as_str().context("a line without a time")?.parse()?)
        };
        eventually("all watches to be up", async || {
            let (begun, up) = (said("the operator starts")?, said("all watches are up")?);
            Ok(Duration::try_from(up.duration_since(begun))?)
        })
        .await
    }
}

//! Every object of the mesh, edited and deleted one by one; every setting, changed one by one; and
//! someone who undoes what the operator does.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use k8s_openapi::{
    api::core::v1::ServiceAccount, apiextensions_apiserver::pkg::apis::apiextensions::v1::JSONSchemaProps,
};
use kube::{
    Api, CustomResourceExt, ResourceExt,
    api::{DeleteParams, DynamicObject, Patch, PatchParams},
    core::ApiResource,
};
use nsm_crds::NSMConfig;
use nsm_e2e::kubernetes::{eventually, without_revision};
use serde_json::{Value, json};

use crate::stage::{MESH, Stage, condition};

/// What makes an object one of the mesh's.
const MEMBER: &str = "applyset.kubernetes.io/part-of";
const LABEL: &str = "app.kubernetes.io/part-of";

/// Accounts that pods of the mesh have tokens of.
const WITH_TOKENS: [&str; 4] = ["nsm-identity-authority", "nsm-identity-agent", "nsmgr", "registry"];

/// Those of Deployments, whose pods Kubernetes itself replaces.
const DEPLOYMENTS: [&str; 2] = ["nsm-identity-authority", "registry"];

/// How soon an edit is written back.
const SOON: Duration = Duration::from_secs(1);

#[tokio::test]
async fn each_object_that_is_edited_or_deleted_is_written_back_within_a_second_and_nothing_else() {
    let stage = Stage::with_mesh().await.unwrap();
    let mut members = members(&stage).unwrap();
    // With another account daemons get another revision, and so another name.
    members.sort_by_key(|member| member.resource == "serviceaccounts");
    assert_eq!(members.len(), 22, "{members:?}");
    let unlabelled = Patch::Merge(json!({"metadata": {"labels": {LABEL: Value::Null}}}));
    for member in &members {
        let api = member.api(&stage);
        let mark = stage.audit.mark().await.unwrap();
        let begun = Instant::now();
        api.patch(&member.name, &PatchParams::default(), &unlabelled).await.unwrap();
        eventually("the label to be put back", async || {
            ensure!(api.get(&member.name).await?.labels().contains_key(LABEL), "{} has none", member.name);
            Ok(())
        })
        .await
        .unwrap();
        assert!(begun.elapsed() <= SOON, "{} after {:?}", member.name, begun.elapsed());
        // Without a controller of namespaces one that is deleted never ends.
        if member.resource != "namespaces" {
            let old = api.get(&member.name).await.unwrap().uid();
            let begun = Instant::now();
            api.delete(&member.name, &DeleteParams::default()).await.unwrap();
            eventually("the object to be made again", async || {
                ensure!(api.get(&member.name).await?.uid() != old, "{} is the old one", member.name);
                Ok(())
            })
            .await
            .unwrap();
            assert!(begun.elapsed() <= SOON, "{} after {:?}", member.name, begun.elapsed());
        }
        // Pods that have a token of an account that is gone are made anew.
        let restarts = member.resource == "serviceaccounts" && WITH_TOKENS.contains(&member.name.as_str());
        let of_workload =
            |words: &String| restarts && words.ends_with(&format!("s nsm-system/{}", member.name));
        let words = eventually("all writes", async || {
            stage.ready().await?;
            let asked = stage.audit.of(stage.account.user(), mark).await?.writes().granted();
            let words = asked.filter(|request| !request.is_status()).words();
            let of_restart =
                words.iter().filter(|words| of_workload(words) && !words.contains("serviceaccounts"));
            // The old revision gives way, the new one is made, the old one goes, and the new one is everywhere.
            let expected = if !restarts {
                0
            } else if DEPLOYMENTS.contains(&member.name.as_str()) {
                1
            } else {
                4
            };
            ensure!(of_restart.count() == expected, "{words:?}");
            Ok(words)
        })
        .await
        .unwrap();
        stage.ready().await.unwrap();
        let expected = member.write();
        let most = if member.resource == "namespaces" { 1 } else { 2 };
        let (own, others): (Vec<_>, Vec<_>) = words.into_iter().partition(|words| *words == expected);
        assert_eq!(own, vec![expected; most]);
        assert!(others.iter().all(of_workload), "{} {others:?}", member.name);
    }
}

#[tokio::test]
async fn each_setting_changes_only_what_depends_on_it() {
    const ALL: [&str; 5] = ["nsm-identity-authority", "nsm-identity-agent", "registry", "nsmgr", "forwarder"];
    const MEMBERS: [&str; 3] = ["registry", "nsmgr", "forwarder"];
    let settings: BTreeMap<&str, (Value, &[&str])> = BTreeMap::from([
        ("images.mesh", (json!("nsm.local/nsm:other"), &ALL[..])),
        ("images.pullPolicy", (json!("Never"), &ALL[..])),
        ("logLevel", (json!("DEBUG"), &ALL[..])),
        ("identity.svidLifetime", (json!("2h"), &ALL[..1])),
        (
            "identity.trustDomain",
            (json!("other.nsm"), &["nsm-identity-authority", "registry", "nsmgr", "forwarder"]),
        ),
        ("maxTokenLifetime", (json!("20m"), &MEMBERS[..])),
        ("identity.authority.overrides", (requests("nsm-identity-authority"), &ALL[..1])),
        ("identity.agent.overrides", (requests("nsm-identity-agent"), &ALL[1..2])),
        (
            "registry.storage",
            (
                json!("Memory"),
                &["delete clusterrolebindings nsm-registry", "nsm-registry-writer", "registry"],
            ),
        ),
        ("registry.replicas", (json!(3), &ALL[2..3])),
        ("registry.overrides", (requests("registry"), &ALL[2..3])),
        ("manager.overrides", (requests("nsmgr"), &ALL[3..4])),
        ("forwarders", (json!([{"name": "forwarder", "overrides": requests("forwarder")}]), &ALL[4..])),
        ("deletionPolicy", (json!("Orphan"), &[])),
        ("teardownTimeout", (json!("5m"), &[])),
    ]);
    let fields = fields();
    let known: BTreeSet<&str> = settings.keys().copied().chain(["namespace"]).collect();
    assert_eq!(fields.iter().map(String::as_str).collect::<BTreeSet<_>>(), known, "say what depends on each");

    let stage = Stage::with_mesh().await.unwrap();
    stage.ready().await.unwrap();
    for (path, (value, dependents)) in settings {
        let mark = stage.audit.mark().await.unwrap();
        set(&stage, path, &value).await;
        stage.ready().await.unwrap();
        let asked = stage.audit.of(stage.account.user(), mark).await.unwrap().writes();
        let mut written: Vec<_> = asked
            .filter(|request| !request.is_status() && !request.uri.contains("dryRun"))
            .words()
            .into_iter()
            .filter_map(|words| Some(words.rsplit('/').next()?.to_owned()))
            .collect();
        let mut expected: Vec<_> = dependents.iter().map(|name| (*name).to_owned()).collect();
        written.sort();
        // Of a daemon the old revision gives way, the new one is made, and the old one goes.
        written.dedup();
        expected.sort();
        assert_eq!(written, expected, "{path}");
        set(&stage, path, &Value::Null).await;
        stage.ready().await.unwrap();
    }
}

#[tokio::test]
async fn someone_who_undoes_every_repair_is_named_and_not_fought() {
    let stage = Stage::with_mesh().await.unwrap();
    stage.ready().await.unwrap();
    let accounts: Api<ServiceAccount> = Api::namespaced(stage.client.clone(), MESH);
    let rival = PatchParams { field_manager: Some("rival".into()), ..PatchParams::default() };
    let edit = Patch::Merge(json!({"metadata": {"labels": {LABEL: "of-the-rival"}}}));
    let mark = stage.audit.mark().await.unwrap();
    for _ in 0..3 {
        accounts.patch("registry", &rival, &edit).await.unwrap();
        put_back(&accounts).await.unwrap();
    }
    accounts.patch("registry", &rival, &edit).await.unwrap();
    let status = stage
        .config("the fight to be noticed", |config, ready| {
            let status = config.status.clone().unwrap_or_default();
            let stalled = condition(&status.conditions, "Stalled")?;
            ensure!(stalled.status == "True" && stalled.reason == "NonConverging", "{stalled:?}");
            ensure!(ready.status == "False", "it says to be ready");
            Ok(())
        })
        .await
        .unwrap();
    let message = &condition(&status.conditions, "Stalled").unwrap().message;
    for part in [
        "ServiceAccount nsm-system/registry",
        "/metadata/labels/app.kubernetes.io/part-of",
        "belongs to rival",
    ] {
        assert!(message.contains(part), "{part} in {message}");
    }
    // The others are looked after as before.
    let unlabelled = Patch::Merge(json!({"metadata": {"labels": {LABEL: Value::Null}}}));
    accounts.patch("nsmgr", &PatchParams::default(), &unlabelled).await.unwrap();
    eventually("another object to be put back", async || {
        ensure!(accounts.get("nsmgr").await?.labels().contains_key(LABEL), "it is not");
        Ok(())
    })
    .await
    .unwrap();
    let asked = stage.audit.of(stage.account.user(), mark).await.unwrap().writes();
    let fought = asked.filter(|request| request.words() == "patch serviceaccounts nsm-system/registry");
    assert_eq!(fought.count(), 3);

    // Someone has settled it.
    let retry = json!({"metadata": {"annotations": {"operator.networkservicemesh.io/retry": "1"}}});
    let configs: Api<NSMConfig> = Api::all(stage.client.clone());
    configs.patch("default", &PatchParams::default(), &Patch::Merge(retry)).await.unwrap();
    put_back(&accounts).await.unwrap();
    stage.ready().await.unwrap();
}

/// What is laid over the template of a workload with this container.
fn requests(container: &str) -> Value {
    json!({"spec": {"containers": [{"name": container, "resources": {"requests": {"cpu": "25m"}}}]}})
}

async fn put_back(accounts: &Api<ServiceAccount>) -> Result<()> {
    eventually("the label to be put back", async || {
        let account = accounts.get("registry").await?;
        let label = account.labels().get(LABEL).map(String::as_str);
        ensure!(label == Some("network-service-mesh"), "it is {label:?}");
        Ok(())
    })
    .await
}

/// Sets one field, or its default again.
async fn set(stage: &Stage, path: &str, value: &Value) {
    let nested = path.rsplit('.').fold(value.clone(), |value, name| json!({name: value}));
    let configs: Api<NSMConfig> = Api::all(stage.client.clone());
    let change = Patch::Merge(json!({"spec": nested}));
    configs.patch("default", &PatchParams::default(), &change).await.unwrap();
}

/// Paths of all settings there are.
fn fields() -> Vec<String> {
    let crd = NSMConfig::crd();
    let schema = crd.spec.versions[0].schema.as_ref().unwrap().open_api_v3_schema.as_ref().unwrap();
    let mut found = Vec::new();
    leaves(&schema.properties.as_ref().unwrap()["spec"], "", &mut found);
    found
}

fn leaves(schema: &JSONSchemaProps, path: &str, found: &mut Vec<String>) {
    match &schema.properties {
        Some(properties) => {
            for (name, below) in properties {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                leaves(below, &path, found);
            }
        }
        None => found.push(path.to_owned()),
    }
}

/// An object of the mesh.
#[derive(Debug)]
struct Member {
    resource: &'static str,
    kind: ApiResource,
    namespace: String,
    name: String,
}

impl Member {
    fn api(&self, stage: &Stage) -> Api<DynamicObject> {
        let client = stage.client.clone();
        if self.namespace.is_empty() {
            Api::all_with(client, &self.kind)
        } else {
            Api::namespaced_with(client, &self.namespace, &self.kind)
        }
    }

    /// A write of it in the words of the audit log.
    fn write(&self) -> String {
        let name = if self.resource == "daemonsets" { without_revision(&self.name) } else { &self.name };
        let place = match (self.namespace.as_str(), self.resource) {
            // A namespace is in itself.
            ("", "namespaces") => format!("{}/", self.name),
            ("", _) => String::new(),
            (namespace, _) => format!("{namespace}/"),
        };
        format!("patch {} {place}{name}", self.resource)
    }
}

/// All objects of the apply set.
fn members(stage: &Stage) -> Result<Vec<Member>> {
    const KINDS: [(&str, &str, &str); 8] = [
        ("namespaces", "", "Namespace"),
        ("serviceaccounts", "", "ServiceAccount"),
        ("rolebindings", "rbac.authorization.k8s.io", "RoleBinding"),
        ("clusterrolebindings", "rbac.authorization.k8s.io", "ClusterRoleBinding"),
        ("poddisruptionbudgets", "policy", "PodDisruptionBudget"),
        ("services", "", "Service"),
        ("deployments", "apps", "Deployment"),
        ("daemonsets", "apps", "DaemonSet"),
    ];
    let mut members = Vec::new();
    for (resource, group, kind) in KINDS {
        let text = stage.plane.kubectl(&["get", resource, "-A", "-l", MEMBER, "-o", "json"])?;
        let list: Value = serde_json::from_str(&text)?;
        for item in list["items"].as_array().into_iter().flatten() {
            let text = |name: &str| item["metadata"][name].as_str().unwrap_or_default().to_owned();
            let version = if group.is_empty() { "v1".to_owned() } else { format!("{group}/v1") };
            let kind = ApiResource {
                group: group.into(),
                version: "v1".into(),
                api_version: version,
                kind: kind.into(),
                plural: resource.into(),
            };
            members.push(Member { resource, kind, namespace: text("namespace"), name: text("name") });
        }
    }
    Ok(members)
}

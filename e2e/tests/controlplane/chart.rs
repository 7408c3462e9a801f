//! The chart, as Helm takes it.

use std::{
    fs,
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use k8s_openapi::{
    api::{apps::v1::Deployment, batch::v1::Job},
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use nsm_e2e::kubernetes::{ControlPlane, documents, eventually, repository};
use serde_json::json;

use crate::stage::OPERATOR;

/// Name of the Job that removes the mesh before the operator goes.
const HOOK: &str = "nsm-operator-remove-mesh";

/// What the command prints.
fn run(mut command: Command) -> Result<String> {
    let output = command.output().context("start the command")?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

fn helm(plane: &ControlPlane, arguments: &[&str]) -> Result<Command> {
    let chart = repository().join("charts/nsm-operator");
    let mut command = plane.helm(arguments)?;
    command.args(["--namespace", OPERATOR]);
    if arguments[0] != "uninstall" {
        command.arg(chart);
    }
    Ok(command)
}

#[tokio::test]
async fn the_chart_passes_lint_and_what_it_renders_an_api_server() {
    let plane = ControlPlane::start().unwrap();
    let lint = ["lint", "--strict", "--kube-version", "1.34.0", "--values"];
    let values = repository().join("charts/nsm-operator/values.yaml");
    let mut linted = plane.helm(&lint).unwrap();
    linted.arg(&values).arg(repository().join("charts/nsm-operator"));
    run(linted).unwrap();
    // Values that are none of its schema it refuses before anything is rendered.
    let wrong =
        helm(&plane, &["template", "nsm", "--kube-version", "1.34.0", "--set", "image.pullPolicy=Often"]);
    let refused = run(wrong.unwrap()).unwrap_err().to_string();
    assert!(refused.contains("pullPolicy"), "{refused}");

    let set = ["--set", "image.operator=registry.example/nsm-operator:1"];
    let template = ["template", "nsm", "--kube-version", "1.34.0", set[0], set[1]];
    let rendered = run(helm(&plane, &template).unwrap()).unwrap();
    let objects = documents(&rendered).unwrap();
    let hook = |object: &&serde_json::Value| {
        object["kind"] == "Job" && object["metadata"]["annotations"]["helm.sh/hook"] == "pre-delete"
    };
    let objects: Vec<_> = objects.iter().map(|object| serde_json::to_value(object).unwrap()).collect();
    let job = objects.iter().find(hook).expect("the hook is rendered");
    let container = &job["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["image"], "registry.example/nsm-operator:1");
    assert_eq!(container["args"], json!(["remove"]));

    // All of it is taken, with fields that the server knows, and nothing is written.
    let file = plane.folder().join("rendered.yaml");
    fs::write(&file, &rendered).unwrap();
    plane.kubectl(&["create", "namespace", OPERATOR]).unwrap();
    let file = file.to_str().unwrap();
    let dry =
        ["apply", "--server-side", "--dry-run=server", "--validate=strict", "--output=name", "-f", file];
    let taken = plane.kubectl(&dry).unwrap();
    assert_eq!(taken.lines().count(), objects.len(), "{taken}");
    let deployments: Api<Deployment> = Api::namespaced(plane.client().await.unwrap(), OPERATOR);
    assert!(deployments.get_opt("nsm-operator").await.unwrap().is_none());
}

#[tokio::test]
async fn helm_uninstall_goes_only_after_the_mesh_is_removed() {
    let plane = ControlPlane::start().unwrap();
    let client = plane.client().await.unwrap();
    run(helm(&plane, &["install", "nsm", "--create-namespace"]).unwrap()).unwrap();
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), OPERATOR);
    deployments.get("nsm-operator").await.unwrap();
    let jobs: Api<Job> = Api::namespaced(client.clone(), OPERATOR);
    assert!(jobs.get_opt(HOOK).await.unwrap().is_none(), "it is no part of the installation");

    let mut going = Going(
        helm(&plane, &["uninstall", "nsm", "--timeout", "2m"])
            .unwrap()
            .stdout(Stdio::null())
            .spawn()
            .unwrap(),
    );
    eventually("the hook's Job", async || Ok(jobs.get(HOOK).await?)).await.unwrap();
    deployments.get("nsm-operator").await.expect("the operator has to remove the mesh");
    let at = "2026-01-01T00:00:00Z";
    let condition = |kind: &str| json!({"type": kind, "status": "True", "reason": "CompletionsReached", "lastTransitionTime": at});
    let done = json!({"status": {
        "startTime": at, "completionTime": at, "succeeded": 1,
        "conditions": [condition("SuccessCriteriaMet"), condition("Complete")],
    }});
    assert!(going.0.try_wait().unwrap().is_none(), "it waits for the Job");
    jobs.patch_status(HOOK, &PatchParams::default(), &Patch::Merge(done)).await.unwrap();
    let status =
        eventually("the end of helm", async || going.0.try_wait()?.context("it runs on")).await.unwrap();
    assert!(status.success(), "{status}");
    assert!(deployments.get_opt("nsm-operator").await.unwrap().is_none());
    // Resources of users outlive the release.
    let kinds: Api<CustomResourceDefinition> = Api::all(client);
    for name in ["nsmconfigs.operator.networkservicemesh.io", "networkservices.networkservicemesh.io"] {
        kinds.get(name).await.unwrap();
    }
}

/// Ended with the test.
struct Going(Child);

impl Drop for Going {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

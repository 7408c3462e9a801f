//! The generated files under `charts/`: one installation for `kubectl apply`, and the same objects
//! as templates of a Helm chart.

use nsm_crds::PullPolicy;
use serde_json::json;

use super::{Error, Options, documents, hook, manifests, policies, rbac, workload};

/// A generated file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Its path below `charts/`.
    pub path: &'static str,
    /// What stands in it.
    pub text: String,
}

const NOTE: &str = "# Generated: cargo run -p nsm-operator --example generate\n";

/// Stand-ins for what Helm fills in, and what it fills in.
const VALUES: [(&str, &str); 5] = [
    ("helm-namespace", "{{ .Release.Namespace }}"),
    ("helm-mesh-namespace", "{{ .Values.meshNamespace }}"),
    ("helm-operator-image", "{{ .Values.image.operator }}"),
    ("helm-mesh-image", "{{ .Values.image.mesh }}"),
    ("helm-pull-policy", "{{ .Values.image.pullPolicy }}"),
];

/// All generated files.
pub fn files() -> Result<Vec<File>, Error> {
    let [namespace, mesh_namespace, operator_image, mesh_image, pull_policy] =
        VALUES.map(|(stand_in, _)| stand_in.to_owned());
    let options = Options { namespace, mesh_namespace, operator_image, mesh_image, pull_policy };
    let file = |path, text: String| File { path, text: format!("{NOTE}{text}") };
    Ok(vec![
        // Exactly what `nsm-operator manifests` prints.
        File { path: "install.yaml", text: manifests(&Options::default())? },
        File { path: "nsm-operator/values.schema.json", text: schema()? },
        file("nsm-operator/templates/crds.yaml", kept(&super::crds()?)),
        file("nsm-operator/templates/rbac.yaml", templated(&documents(&rbac::objects(&options)?)?)),
        file("nsm-operator/templates/policies.yaml", templated(&documents(&policies::objects(&options)?)?)),
        file("nsm-operator/templates/pre-delete.yaml", templated(&documents(&hook::objects(&options)?)?)),
        file(
            "nsm-operator/templates/deployment.yaml",
            templated(&documents(&[workload::deployment(&options)?])?),
        ),
    ])
}

/// What values the chart takes; Helm refuses others.
fn schema() -> Result<String, Error> {
    let image = json!({"type": "string", "minLength": 1, "maxLength": 512});
    let policies = [PullPolicy::Always, PullPolicy::IfNotPresent, PullPolicy::Never].map(PullPolicy::as_str);
    let schema = json!({
        "$schema": "https://json-schema.org/draft-07/schema#",
        "type": "object",
        "additionalProperties": false,
        "properties": {
            // Helm gives it to every chart.
            "global": {"type": "object"},
            "image": {
                "type": "object",
                "additionalProperties": false,
                "required": ["operator", "mesh", "pullPolicy"],
                "properties": {"operator": image, "mesh": image, "pullPolicy": {"enum": policies}},
            },
            "meshNamespace": {"type": "string", "maxLength": 63, "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"},
        },
        "required": ["image", "meshNamespace"],
    });
    let text = serde_json::to_string_pretty(&schema).map_err(|error| Error::Yaml(error.into()))?;
    Ok(format!("{text}\n"))
}

/// The text with Helm's expressions instead of their stand-ins, longest first, since one may
/// begin another.
fn templated(text: &str) -> String {
    let mut values = VALUES;
    values.sort_by_key(|(stand_in, _)| std::cmp::Reverse(stand_in.len()));
    values.iter().fold(text.to_owned(), |text, (stand_in, expression)| {
        text.replace(&format!(": {stand_in}\n"), &format!(": {expression:?}\n"))
            .replace(&format!("- {stand_in}\n"), &format!("- {expression:?}\n"))
            .replace(&format!(":{stand_in}:"), &format!(":{expression}:"))
    })
}

/// Resource definitions outlive a release: with them would go every object of their kinds.
fn kept(crds: &str) -> String {
    crds.replace("\nmetadata:\n", "\nmetadata:\n  annotations:\n    helm.sh/resource-policy: keep\n")
}

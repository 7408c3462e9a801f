//! The operator's Deployment: one pod, which is replaced only when the old one has ended, since
//! two operators would not know of each other.

use serde_json::{Value, json};

use super::{Error, Options, value};
use crate::names::{MANAGER, NAME, PART_OF, PRODUCT};

pub(super) fn deployment(options: &Options) -> Result<Value, Error> {
    let field =
        |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let labels = json!({NAME: MANAGER, PART_OF: PRODUCT});
    let container = json!({
        "name": MANAGER,
        "image": options.operator_image,
        "imagePullPolicy": options.pull_policy,
        "args": ["run"],
        "env": [
            {"name": "NSM_MESH_IMAGE", "value": options.mesh_image},
            field("POD_NAMESPACE", "metadata.namespace"),
            field("POD_SERVICE_ACCOUNT", "spec.serviceAccountName"),
        ],
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "128Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": true,
        },
    });
    value(&json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": MANAGER, "namespace": options.namespace, "labels": labels},
        "spec": {
            "replicas": 1,
            "strategy": {"type": "Recreate"},
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "serviceAccountName": MANAGER,
                    "securityContext": {
                        "runAsNonRoot": true,
                        "runAsUser": 65532,
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                    "containers": [container],
                    "terminationGracePeriodSeconds": 30,
                },
            },
        },
    }))
}

//! What Helm runs before it removes a release: the mesh goes while its operator still runs.

use serde_json::{Value, json};

use super::{Error, Options, value};
use crate::names::{PART_OF, PRODUCT};

const NAME: &str = "nsm-operator-remove-mesh";

/// A Job under an account of its own, all of them gone with it.
pub(super) fn objects(options: &Options) -> Result<Vec<Value>, Error> {
    let metadata = |weight: &str, namespaced: bool| {
        let mut metadata = json!({
            "name": NAME,
            "labels": {PART_OF: PRODUCT},
            "annotations": {
                "helm.sh/hook": "pre-delete",
                "helm.sh/hook-weight": weight,
                "helm.sh/hook-delete-policy": "before-hook-creation,hook-succeeded",
            },
        });
        if namespaced {
            metadata["namespace"] = options.namespace.as_str().into();
        }
        metadata
    };
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata("-2", true)});
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": metadata("-2", false),
        "rules": [{
            "apiGroups": [nsm_crds::OPERATOR_GROUP], "resources": ["nsmconfigs"],
            "resourceNames": [nsm_crds::CONFIG_NAME], "verbs": ["get", "list", "watch", "delete"],
        }],
    });
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": metadata("-1", false),
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": NAME},
        "subjects": [{"kind": "ServiceAccount", "name": NAME, "namespace": options.namespace}],
    });
    let job = json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": metadata("0", true),
        "spec": {
            "backoffLimit": 3,
            "template": {
                "metadata": {"labels": {PART_OF: PRODUCT}},
                "spec": {
                    "restartPolicy": "Never",
                    "serviceAccountName": NAME,
                    "securityContext": {
                        "runAsNonRoot": true,
                        "runAsUser": 65532,
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                    "containers": [{
                        "name": "remove",
                        "image": options.operator_image,
                        "imagePullPolicy": options.pull_policy,
                        "args": ["remove"],
                        "securityContext": {
                            "allowPrivilegeEscalation": false,
                            "capabilities": {"drop": ["ALL"]},
                            "readOnlyRootFilesystem": true,
                        },
                    }],
                },
            },
        },
    });
    [account, role, binding, job].iter().map(value).collect()
}

//! Names and labels that the operator gives, in one place.

/// Field manager of everything the operator applies, and value of [`MANAGED_BY`].
pub const MANAGER: &str = "nsm-operator";

/// Namespace the operator is installed in.
pub const OPERATOR_NAMESPACE: &str = "nsm-operator";

/// Label of every object the operator made; its watches select by it.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";

/// Label with the name of the component.
pub const NAME: &str = "app.kubernetes.io/name";

/// Label with the product.
pub const PART_OF: &str = "app.kubernetes.io/part-of";

/// Value of [`PART_OF`].
pub const PRODUCT: &str = "network-service-mesh";

/// Label of pods and Deployments that belong to an endpoint template, with its name.
pub const TEMPLATE: &str = "operator.networkservicemesh.io/template";

/// Annotation with the hash of what was rendered: tells a change of what is wanted from an edit by
/// someone else.
pub const REVISION: &str = "operator.networkservicemesh.io/revision";

/// Label of node daemons' DaemonSets and pods, with the revision of their pod template.
pub const DAEMON_REVISION: &str = "operator.networkservicemesh.io/daemon-revision";

/// Label of a node: which revision of the mesh's daemons runs there while one replaces another. Of this
/// prefix the API server lets no kubelet change labels.
pub const NODE_REVISION: &str = "revision.node-restriction.kubernetes.io/nsm";

/// Annotation of a pod template: the uid of its service account, once that was made anew.
pub const ACCOUNT: &str = "operator.networkservicemesh.io/service-account";

/// Annotation of an endpoint's Deployment: the mesh's image of the time its workload was last changed or
/// restarted, which it keeps.
pub const MESH_IMAGE: &str = "operator.networkservicemesh.io/mesh-image";

/// Annotation of a Deployment: when someone last asked for a restart of its pods, as it was when
/// [`MESH_IMAGE`] was noted.
pub const RESTARTED_AT: &str = "operator.networkservicemesh.io/restarted-at";

/// Annotation of a pod template that `kubectl rollout restart` writes.
pub const KUBECTL_RESTARTED_AT: &str = "kubectl.kubernetes.io/restartedAt";

/// Finalizer of the `NSMConfig`: the mesh is removed in order before it is.
pub const FINALIZER: &str = "operator.networkservicemesh.io/teardown";

/// Annotation of the `NSMConfig`: `true` stops all writes but those of status.
pub const PAUSED: &str = "operator.networkservicemesh.io/paused";

/// Annotation of the `NSMConfig`: `true` writes nothing and tells what would be.
pub const PLAN_ONLY: &str = "operator.networkservicemesh.io/plan-only";

/// Annotation of the `NSMConfig`: a new value tries at once what is only tried seldom by now.
pub const RETRY: &str = "operator.networkservicemesh.io/retry";

/// Annotation of the `NSMConfig`: so many objects, and no more, may be deleted at once although they are
/// most of the mesh.
pub const ALLOW_PRUNE: &str = "operator.networkservicemesh.io/allow-prune";

/// The objects of a mesh are an apply set (KEP-3659), and the `NSMConfig` is its parent.
pub mod apply_set {
    /// Label of the members, with the name of the set.
    pub const MEMBER: &str = "applyset.kubernetes.io/part-of";
    /// Label of the parent, with the name of the set.
    pub const PARENT: &str = "applyset.kubernetes.io/id";
    /// Annotation of the parent: who keeps the set.
    pub const TOOLING: &str = "applyset.kubernetes.io/tooling";
    /// Annotation of the parent: kinds of the members.
    pub const KINDS: &str = "applyset.kubernetes.io/contains-group-kinds";
    /// Name of the set: the parent's name, namespace, kind and group, hashed. There is one `NSMConfig`.
    pub const ID: &str = "applyset-_cZ-acqrztKi9cP6b78281DKz2MwcVCaRzRndkG9eFY-v1";
}

/// Components, by the names of their workloads.
pub mod component {
    /// Signs identities.
    pub const AUTHORITY: &str = "nsm-identity-authority";
    /// Serves identities to the pods of a node.
    pub const AGENT: &str = "nsm-identity-agent";
    /// Knows services and endpoints.
    pub const REGISTRY: &str = "registry";
    /// The node's manager.
    pub const NSMGR: &str = "nsmgr";
    /// The node's data plane.
    pub const FORWARDER: &str = "forwarder";

    /// All of them, in the order in which they start.
    pub const ALL: [&str; 5] = [AUTHORITY, AGENT, REGISTRY, NSMGR, FORWARDER];
}

/// ClusterRoles and Roles that are installed with the operator, and the bindings it makes to them.
pub mod role {
    /// Rights of the operator on the whole cluster.
    pub const OPERATOR: &str = "nsm-operator";
    /// Rights of the operator in the namespace of the mesh.
    pub const OPERANDS: &str = "nsm-operator-operands";
    /// Rights of the operator where owners of namespaces let it run endpoints.
    pub const ENDPOINT_WORKLOADS: &str = "nsm-endpoint-workloads";
    /// Rights of the nsmgrs on the whole cluster.
    pub const NSMGR: &str = "nsm-nsmgr";
    /// Rights of the registries on the whole cluster: names are mesh-wide.
    pub const REGISTRY: &str = "nsm-registry";
    /// Rights of the registries in the namespace of the mesh, where they keep what is registered.
    pub const REGISTRY_WRITER: &str = "nsm-registry-writer";
    /// Rights of the authority on the whole cluster.
    pub const AUTHORITY: &str = "nsm-identity-authority";
    /// Rights of the authority on the trust bundle.
    pub const BUNDLE_WRITER: &str = "nsm-identity-bundle-writer";
    /// Rights of the agents on the trust bundle.
    pub const BUNDLE_READER: &str = "nsm-identity-bundle-reader";
    /// Right of the authority on the root key, in the operator's namespace.
    pub const ROOT_KEY: &str = "nsm-identity-root";
}

/// Admission policies that are installed with the operator; their bindings have the same names.
pub mod policy {
    /// Who writes which `NSMNodeState`.
    pub const NODE_STATE: &str = "nsm-nodestate-by-its-node";
    /// Who says which revision runs on a node, and what else the operator changes of one.
    pub const NODE_REVISION: &str = "nsm-revision-by-operator";

    /// All of them.
    pub const ALL: [&str; 2] = [NODE_STATE, NODE_REVISION];
}

/// Secret with the root key, in the operator's namespace.
pub const ROOT_SECRET: &str = "nsm-identity-root";

/// ConfigMap with the trust bundle, in the namespace of the mesh.
pub const BUNDLE_CONFIG_MAP: &str = "nsm-identity-bundle";
